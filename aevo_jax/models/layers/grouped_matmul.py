"""Matrix products of sorted groups of rows, each group with a matrix of its own: the heart of a
dropless mixture of experts.

    y_sf = rows of x_sd in group e, times w_edf[e]

Rows lie sorted by group; no array has both a row and a group axis. Implementations with equal
results (`model.moe_implementation`):

    'ragged_dot'  jax.lax.ragged_dot, which XLA maps to grouped kernels on TPU and GPU. On CPU it
    multiplies every row with every matrix. 'mosaic'      tokamax's Mosaic kernels for GPU and TPU;
    needs the package tokamax (`aevo-jax[kernels]`). 'tiled'       a loop over the tiles of rows
    that a group touches, as in MegaBlocks (2211.15841); what CPUs want.
"""

import jax
import jax.numpy as jnp
import numpy as np

TILE = 64


def grouped_matmul(
  x_sd: jax.Array, w_edf: jax.Array, sizes_e: jax.Array, implementation: str = 'tiled'
) -> jax.Array:
  """[s, f]: each row times its group's matrix. sizes_e: int32 rows of each group. Rows behind the
  last group are zero.
  """
  return {'ragged_dot': jax.lax.ragged_dot, 'mosaic': _mosaic, 'tiled': _padded}[implementation](
    x_sd, w_edf, sizes_e
  )


def _mosaic(x_sd: jax.Array, w_edf: jax.Array, sizes_e: jax.Array) -> jax.Array:
  try:
    import tokamax
  except ImportError as error:
    raise ImportError(
      "model.moe_implementation = 'mosaic' needs tokamax: install aevo-jax[kernels], or "
      "bind 'ragged_dot'"
    ) from error
  # No other implementation: a slower one must not take its place unseen.
  return tokamax.ragged_dot(
    x_sd, w_edf, group_sizes=sizes_e, implementation='mosaic', zero_initialize=True
  )


def _padded(x_sd: jax.Array, w_edf: jax.Array, sizes_e: jax.Array) -> jax.Array:
  rows = x_sd.shape[0]
  return _tiled(jnp.pad(x_sd, ((0, -rows % TILE), (0, 0))), jnp.asarray(w_edf), sizes_e)[:rows]


def _visits(sizes_e: jax.Array):
  """Every (tile, group) that share a row, in order: their number, and visit -> (group, first row of
  the tile, [tile, 1] whose rows the group has).
  """
  ends = jnp.cumsum(sizes_e)
  starts = ends - sizes_e
  first = starts // TILE
  tiles = jnp.where(sizes_e > 0, (ends - 1) // TILE - first + 1, 0)
  until = jnp.cumsum(tiles)

  def visit(i):
    group = jnp.searchsorted(until, i, side='right').astype(jnp.int32)
    row = (first[group] + i - (until[group] - tiles[group])) * TILE
    places = row + jnp.arange(TILE)
    return group, row, ((places >= starts[group]) & (places < ends[group]))[:, None]

  return until[-1], visit


@jax.custom_vjp
def _tiled(x_sd: jax.Array, w_edf: jax.Array, sizes_e: jax.Array) -> jax.Array:
  count, visit = _visits(sizes_e)

  def advance(i, y):
    group, row, own = visit(i)
    product = jax.lax.dynamic_slice_in_dim(x_sd, row, TILE) @ w_edf[group]
    before = jax.lax.dynamic_slice_in_dim(y, row, TILE)
    return jax.lax.dynamic_update_slice_in_dim(y, jnp.where(own, product, before), row, axis=0)

  return jax.lax.fori_loop(
    0, count, advance, jnp.zeros((x_sd.shape[0], w_edf.shape[2]), x_sd.dtype)
  )


def _tiled_forward(x_sd, w_edf, sizes_e):
  return _tiled(x_sd, w_edf, sizes_e), (x_sd, w_edf, sizes_e)


def _tiled_backward(saved, g_sf):
  x_sd, w_edf, sizes_e = saved
  count, visit = _visits(sizes_e)

  def advance(i, dw):
    group, row, own = visit(i)
    x = jnp.where(own, jax.lax.dynamic_slice_in_dim(x_sd, row, TILE), 0)
    return dw.at[group].add(
      jnp.matmul(
        x.T, jax.lax.dynamic_slice_in_dim(g_sf, row, TILE), preferred_element_type=jnp.float32
      )
    )

  dx = _tiled(g_sf, jnp.swapaxes(w_edf, 1, 2), sizes_e)
  dw = jax.lax.fori_loop(0, count, advance, jnp.zeros(w_edf.shape, jnp.float32)).astype(w_edf.dtype)
  return dx, dw, np.zeros(sizes_e.shape, jax.dtypes.float0)


_tiled.defvjp(_tiled_forward, _tiled_backward)
