"""What devices do with their tokens, written out where XLA's partitioner would gather them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from aevo_jax.sharding.context import layout_in_use
from aevo_jax.sharding.rules import Layout


def over_tokens(
  function: Callable[[jax.Array], jax.Array], x: Shaped[Array, 'tokens width']
) -> Shaped[Array, 'tokens result']:
  """Applies a function that takes each token alone.

  The partitioner knows no cut of some operations, such as `top_k`, and would run them on the tokens
  of all devices.

  Args:
    function: of any number of tokens.
    x: the tokens, as `flatten` lists them.

  Returns:
    function(x).
  """
  layout = layout_in_use()
  if layout is None:
    return function(x)
  rows = _tokens(layout)
  return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(x)


def look_up(
  table: Float[Array, 'vocab width'], ids: Int[Array, 'batch time'], dtype: jnp.dtype
) -> Float[Array, 'batch time width']:
  """Looks tokens up in a table that is cut along words, width or both.

  Devices that hold parts of the table collect the ids of the tokens that any of them has, look them
  up in their part, and give each other the parts of their own tokens. A partitioner gathers rows
  instead, or the whole table.

  Args:
    table: laid out by the rules of 'vocab' and 'embed'.
    ids: laid out as a batch.
    dtype: of the result.

  Returns:
    The rows of the table, laid out as the residual stream.
  """
  layout = layout_in_use()
  if layout is None:
    return table[ids].astype(dtype)
  # A vocabulary that is divided unevenly gets its padding back: a manual program wants equal parts.
  words = layout.padded(table.shape, ('vocab', 'embed'))[0]
  if words != table.shape[0]:
    table = jnp.pad(table, ((0, words - table.shape[0]), (0, 0)))
  rows = layout.spec('batch', 'length')
  run = jax.shard_map(
    functools.partial(_of_this_part, layout, dtype),
    in_specs=(layout.spec('vocab', 'embed'), rows),
    out_specs=layout.spec('batch', 'length', None),
    check_vma=False,
  )
  return run(table, ids)


def _of_this_part(layout: Layout, dtype: jnp.dtype, table: jax.Array, ids: jax.Array) -> jax.Array:
  """Looks up in one device's part of the table; returns that device's tokens."""
  words = layout.mesh_axes('vocab')
  width = layout.mesh_axes('embed')
  dimension = dict.fromkeys(layout.mesh_axes('batch'), 0)
  dimension |= dict.fromkeys(layout.mesh_axes('length'), 1)
  # One mesh axis at a time, and back in the opposite order: so each device gets its own again.
  for axis in (*words, *width):
    if axis in dimension:
      ids = jax.lax.all_gather(ids, axis, axis=dimension[axis], tiled=True)
  if words:
    ids = ids - jax.lax.axis_index(words) * table.shape[0]
  is_here = (ids >= 0) & (ids < table.shape[0])
  x = jnp.where(is_here[..., None], table[jnp.where(is_here, ids, 0)], 0).astype(dtype)
  for axis in reversed(width):
    if axis in dimension:
      x = jax.lax.all_to_all(x, axis, dimension[axis], 2, tiled=True)
    else:
      x = jax.lax.all_gather(x, axis, axis=2, tiled=True)
  for axis in reversed(words):
    if axis in dimension:
      x = jax.lax.psum_scatter(x, axis, scatter_dimension=dimension[axis], tiled=True)
    else:
      x = jax.lax.psum(x, axis)
  return x


def flatten(x: jax.Array) -> jax.Array:
  """Lists the tokens of a batch, in the order in which devices hold them.

  A reshape would have to send them around where rows and positions are both cut.

  Args:
    x: [batch, time, ...], laid out as a batch.

  Returns:
    [tokens, ...]; `unflatten` inverts it.
  """
  layout = layout_in_use()
  if layout is None:
    return _flat(x)
  rows = layout.spec('batch', 'length')
  return jax.shard_map(_flat, in_specs=rows, out_specs=_tokens(layout), check_vma=False)(x)


def unflatten(x: jax.Array, rows: int, time: int) -> jax.Array:
  """Inverts `flatten`.

  Args:
    x: [tokens, ...].
    rows: of the batch.
    time: tokens of a row.

  Returns:
    [batch, time, ...].
  """
  layout = layout_in_use()
  if layout is None:
    return x.reshape(rows, time, *x.shape[1:])
  rows //= layout.shards('batch')
  time //= layout.shards('length')
  run = jax.shard_map(
    lambda part: part.reshape(rows, time, *part.shape[1:]),
    in_specs=_tokens(layout),
    out_specs=layout.spec('batch', 'length'),
    check_vma=False,
  )
  return run(x)


def _flat(x: jax.Array) -> jax.Array:
  return x.reshape(-1, *x.shape[2:])


def _tokens(layout: Layout) -> PartitionSpec:
  return PartitionSpec(layout.mesh_axes('batch') + layout.mesh_axes('length') or None)
