"""Matrix products of sorted groups of rows: the heart of a dropless mixture of experts.

    y_sf = rows of x_sd in group e, times w_edf[e]

Rows lie sorted by group, and each group has a matrix; no array has both a row and a group axis.
Implementations with equal results (`model.moe_implementation`):

    'auto'        'mosaic' on a GPU, 'ragged_dot' on a TPU, 'tiled' on a CPU
    'mosaic'      tokamax's Mosaic kernels; needs the package tokamax (`aevo-jax[kernels]`). On a
                  TPU they want an adapter's rank of 128 or more.
    'ragged_dot'  jax.lax.ragged_dot, which XLA maps to grouped kernels on a TPU. On a CPU and on a
                  GPU it multiplies every row with every matrix.
    'tiled'       a loop over the tiles of rows that a group touches, as in MegaBlocks (2211.15841);
                  what CPUs want, and one tile after the other on whatever else.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.models.kernels.platform import target_platform

TILE = 64


def grouped_matmul(
  x_sd: Float[Array, 'rows inputs'],
  w_edf: Float[Array, 'groups inputs outputs'],
  sizes_e: Int[Array, ' groups'],
  implementation: str = 'auto',
) -> Float[Array, 'rows outputs']:
  """Multiplies each row with its group's matrix.

  Args:
    x_sd: rows, sorted by group.
    w_edf: the groups' matrices.
    sizes_e: int32 rows of each group.
    implementation: see the module's docstring.

  Returns:
    The products; rows behind the last group are zero.

  Raises:
    ImportError: 'mosaic' without tokamax.
    NotImplementedError: 'mosaic' for a device, a dtype or sizes that its kernels do not have.
  """
  if implementation == 'auto':
    implementation = _BY_PLATFORM[target_platform()]
  implementations = {'ragged_dot': jax.lax.ragged_dot, 'mosaic': _mosaic, 'tiled': _padded}
  return implementations[implementation](x_sd, w_edf, sizes_e)


_BY_PLATFORM = {'gpu': 'mosaic', 'tpu': 'ragged_dot', 'cpu': 'tiled'}


def _mosaic(
  x_sd: Float[Array, 'rows inputs'],
  w_edf: Float[Array, 'groups inputs outputs'],
  sizes_e: Int[Array, ' groups'],
) -> Float[Array, 'rows outputs']:
  """Multiplies by tokamax's kernel."""
  try:
    import tokamax  # pyrefly: ignore[missing-import]  # noqa: PLC0415  an optional extra
  except ImportError as error:
    raise ImportError(
      "model.moe_implementation = 'mosaic' (what 'auto' is on a GPU) needs tokamax: install "
      f"aevo-jax[kernels], or bind 'tiled' ({error})"
    ) from error
  try:
    return _by_kernel(tokamax.ragged_dot, x_sd, w_edf, sizes_e)
  except (NotImplementedError, ValueError) as error:
    raise NotImplementedError(
      f"model.moe_implementation = 'mosaic' has no kernel for {x_sd.dtype} rows of "
      f'{w_edf.shape[1]} by {w_edf.shape[2]} on a {target_platform()}: {error}; bind '
      "model.compute_dtype = 'bfloat16', or 'tiled'"
    ) from error


# Traced and lowered once for all blocks with the same sizes.
@functools.partial(jax.jit, static_argnums=0)
def _by_kernel(
  ragged_dot: Callable[..., jax.Array],
  x_sd: Float[Array, 'rows inputs'],
  w_edf: Float[Array, 'groups inputs outputs'],
  sizes_e: Int[Array, ' groups'],
) -> Float[Array, 'rows outputs']:
  """Multiplies by a kernel that leaves rows behind the last group as memory was.

  They are cleared in the products, and, by clearing the rows that go in, in the gradient too.
  """
  of_group = jnp.arange(x_sd.shape[0]) < sizes_e.sum()
  inputs, outputs = w_edf.shape[1:]
  more = (0, _missing(inputs))
  rows = jnp.pad(_cleared(x_sd, of_group), ((0, 0), more))
  weights = jnp.pad(w_edf, ((0, 0), more, (0, _missing(outputs))))
  # No other implementation: a slower one must not take its place unseen.
  y_sf = ragged_dot(rows, weights, group_sizes=sizes_e, implementation='mosaic')
  return _cleared(y_sf[:, :outputs], of_group)


def _missing(width: int) -> int:
  """Returns what is missing to a width of whole tiles, which the kernel wants beyond one tile."""
  return -width % TILE if width > TILE else 0


@jax.custom_vjp
def _cleared(
  x_sd: Float[Array, 'rows width'], of_group_s: Bool[Array, ' rows']
) -> Float[Array, 'rows width']:
  """Makes rows of no group zero, in the gradient too.

  JAX's own gradient has an array of zeros beside it, which a scan over layers keeps.
  """
  return jnp.where(of_group_s[:, None], x_sd, 0)


def _cleared_forward(x_sd: Array, of_group_s: Array) -> tuple[Array, Array]:
  return _cleared(x_sd, of_group_s), of_group_s


def _cleared_backward(of_group_s: Array, g_sd: Array) -> tuple[Array, None]:
  return _cleared(g_sd, of_group_s), None


_cleared.defvjp(_cleared_forward, _cleared_backward)


def _padded(
  x_sd: Float[Array, 'rows inputs'],
  w_edf: Float[Array, 'groups inputs outputs'],
  sizes_e: Int[Array, ' groups'],
) -> Float[Array, 'rows outputs']:
  """Pads the rows up to a whole tile."""
  rows = x_sd.shape[0]
  return _tiled(jnp.pad(x_sd, ((0, -rows % TILE), (0, 0))), jnp.asarray(w_edf), sizes_e)[:rows]


class _Visit(NamedTuple):
  """A tile in which a group has rows.

  Attributes:
    group: the group's number.
    row: the tile's first row.
    of_group: [tile, 1], which of the tile's rows are the group's.
  """

  group: Int[Array, '']
  row: Int[Array, '']
  of_group: Bool[Array, 'tile 1']


def _visits(
  sizes_e: Int[Array, ' groups'],
) -> tuple[Int[Array, ''], Callable[[Array], _Visit]]:
  """Lists every tile and group that share a row, in order: their number, and the i-th of them."""
  ends = jnp.cumsum(sizes_e)
  starts = ends - sizes_e
  first = starts // TILE
  tiles = jnp.where(sizes_e > 0, (ends - 1) // TILE - first + 1, 0)
  until = jnp.cumsum(tiles)

  def visit(i):
    group = jnp.searchsorted(until, i, side='right').astype(jnp.int32)
    row = (first[group] + i - (until[group] - tiles[group])) * TILE
    rows = row + jnp.arange(TILE)
    of_group = (rows >= starts[group]) & (rows < ends[group])
    return _Visit(group, row, of_group[:, None])

  return until[-1], visit


@jax.custom_vjp
def _tiled(
  x_sd: Float[Array, 'rows inputs'],
  w_edf: Float[Array, 'groups inputs outputs'],
  sizes_e: Int[Array, ' groups'],
) -> Float[Array, 'rows outputs']:
  """Multiplies tile by tile; the rows are a multiple of TILE."""
  count, visit = _visits(sizes_e)

  def advance(i, y):
    group, row, of_group = visit(i)
    product = jax.lax.dynamic_slice_in_dim(x_sd, row, TILE) @ w_edf[group]
    before = jax.lax.dynamic_slice_in_dim(y, row, TILE)
    return jax.lax.dynamic_update_slice_in_dim(y, jnp.where(of_group, product, before), row, axis=0)

  zeros = jnp.zeros((x_sd.shape[0], w_edf.shape[2]), x_sd.dtype)
  return jax.lax.fori_loop(0, count, advance, zeros)


class _Saved(NamedTuple):
  """The arguments of `_tiled`, for its gradient."""

  x_sd: Array
  w_edf: Array
  sizes_e: Array


def _tiled_forward(x_sd: Array, w_edf: Array, sizes_e: Array) -> tuple[Array, _Saved]:
  return _tiled(x_sd, w_edf, sizes_e), _Saved(x_sd, w_edf, sizes_e)


def _tiled_backward(saved: _Saved, g_sf: Array) -> tuple[Array, Array, np.ndarray]:
  x_sd, w_edf, sizes_e = saved
  count, visit = _visits(sizes_e)

  def advance(i, dw):
    group, row, of_group = visit(i)
    x = jnp.where(of_group, jax.lax.dynamic_slice_in_dim(x_sd, row, TILE), 0)
    g = jax.lax.dynamic_slice_in_dim(g_sf, row, TILE)
    return dw.at[group].add(jnp.matmul(x.T, g, preferred_element_type=jnp.float32))

  dx = _tiled(g_sf, jnp.swapaxes(w_edf, 1, 2), sizes_e)
  dw = jax.lax.fori_loop(0, count, advance, jnp.zeros(w_edf.shape, jnp.float32)).astype(w_edf.dtype)
  return dx, dw, np.zeros(sizes_e.shape, jax.dtypes.float0)


_tiled.defvjp(_tiled_forward, _tiled_backward)
