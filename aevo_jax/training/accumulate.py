"""The gradient of a batch, computed part by part to save memory.

For losses that add up over rows it is the whole batch's gradient up to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aevo_jax.models.params import Params
from aevo_jax.sharding.context import constrain_parameters
from aevo_jax.training.losses.batch import AnyArray


class Accumulated(NamedTuple):
  """Sums over the parts of a batch.

  loss: of the whole batch.
  aux: the loss function's second result, or None where it has none.
  grads: of the loss by the parameters.
  squared_norms: sum of the parts' squared gradient norms, which tells the gradient's noise.
  """

  loss: Float[Array, '']
  aux: Any
  grads: Params
  squared_norms: Float[Array, '']


def accumulate_gradients(
  loss: Callable[[Any, Any], tuple[jax.Array, Any]],
  params: Any,
  batch: Any,
  parts: int,
  group_size: int = 1,
) -> Accumulated:
  """Sums loss(params, rows) and its gradient over equal parts of the rows.

  Args:
    loss: returns a scalar and arrays, all of which add up over rows.
    params: differentiated.
    batch: arrays with the rows in front, or with one entry for several rows.
    parts: number of parts, which go through the loss one after the other.
    group_size: so many neighbouring rows stay in one part.

  Returns:
    The sums.

  Raises:
    ValueError: the rows do not divide.
  """

  # jit, so that shapes and the scan below share one trace; XLA inlines the call.
  @jax.jit
  def part_of(rows: Any) -> Accumulated:
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, rows)
    # On a mesh, so that the sum lies as the parameters do.
    grads = constrain_parameters(grads)
    squared_norm: Any = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    return Accumulated(value, aux, grads, squared_norm)

  if parts == 1:
    return part_of(batch)
  row_count = max(x.shape[0] for x in jax.tree.leaves(batch))
  if row_count % (parts * group_size):
    groups = f' of groups of {group_size}' if group_size > 1 else ''
    raise ValueError(f'{row_count} rows do not divide into {parts} microbatches{groups}')
  groups_in_part = row_count // (parts * group_size)

  # Every parts-th group goes to a part. So rows stay on their device where each device has a
  # multiple of `parts` groups.
  def split(x: AnyArray) -> jax.Array:
    groups = x.reshape(groups_in_part, parts, -1, *x.shape[1:])
    return jnp.swapaxes(groups, 0, 1).reshape(parts, x.shape[0] // parts, *x.shape[1:])

  def add(total: Accumulated, rows: Any) -> tuple[Accumulated, None]:
    return jax.tree.map(jnp.add, total, part_of(rows)), None

  split_batch = jax.tree.map(split, batch)
  shapes = jax.eval_shape(part_of, jax.tree.map(lambda x: x[0], split_batch))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(add, zeros, split_batch)[0]
