"""The gradient of a batch, part by part: for losses that add up over rows, the same as the whole
batch's up to rounding, in a part's memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aevo_jax.models.params import Params
from aevo_jax.sharding.context import constrain_parameters


class Accumulated(NamedTuple):
  """value, more: of the loss. grads: their gradient. squares: sum of the parts' squared gradient
  norms, of which the gradient's noise can be told.
  """

  value: jax.Array
  more: Any
  grads: Params
  squares: jax.Array


def accumulated(
  loss: Callable[[Params, Any], tuple[jax.Array, Any]],
  params: Params,
  batch: Any,
  parts: int,
  together: int = 1,
) -> Accumulated:
  """The sum over `parts` equal parts of the rows of loss(params, rows), and of its gradient.

  Args:
    loss: a scalar that adds up over rows, and arrays that do. batch: arrays with the rows in front,
      or with one entry for so many of them. together: so many neighbouring rows stay in one part.

  Raises:
    ValueError: the rows do not divide.
  """

  def of(rows: Any) -> Accumulated:
    (value, more), grads = jax.value_and_grad(loss, has_aux=True)(params, rows)
    grads = constrain_parameters(grads)  # on a mesh, so that the sum lies as the parameters do
    return Accumulated(
      value, more, grads, sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    )

  if parts == 1:
    return of(batch)
  rows = max(x.shape[0] for x in jax.tree.leaves(batch))
  if rows % (parts * together):
    raise ValueError(
      f'{rows} rows do not divide into {parts} microbatches'
      + (f' of groups of {together}' if together > 1 else '')
    )
  # Every parts-th group to a part, so that rows stay on their device where each has a multiple of
  # parts groups.
  cut = jax.tree.map(
    lambda x: jnp.swapaxes(
      x.reshape(rows // (parts * together), parts, -1, *x.shape[1:]), 0, 1
    ).reshape(parts, x.shape[0] // parts, *x.shape[1:]),
    batch,
  )
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of, jax.tree.map(lambda x: x[0], cut))
  )
  return jax.lax.scan(
    lambda total, rows: (jax.tree.map(jnp.add, total, of(rows)), None), zero, cut
  )[0]
