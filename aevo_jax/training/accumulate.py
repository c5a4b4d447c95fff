"""The gradient of a batch, part by part: for losses that add up over rows, the same as the whole batch's up to rounding, in a part's memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aevo_jax.models.params import Params


def accumulated(loss: Callable[[Params, Any], tuple[jax.Array, Any]], params: Params, batch: Any, parts: int, together: int = 1) -> tuple[jax.Array, Any, Params]:
  """(value, auxiliary results, gradient) of loss(params, rows), each the sum over `parts` equal parts of the rows.

  Args:
    loss: a scalar that adds up over rows, and arrays that do. batch: arrays with the rows in front. together: so many neighbouring rows stay in one part.

  Raises:
    ValueError: the rows do not divide.
  """
  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  if parts == 1:
    (value, more), grads = value_and_grad(params, batch)
    return value, more, grads
  rows = jax.tree.leaves(batch)[0].shape[0]
  if rows % (parts * together):
    raise ValueError(f'{rows} rows do not divide into {parts} microbatches' + (f' of groups of {together}' if together > 1 else ''))
  # Every parts-th group to a part, so that the rows of one device stay on it.
  cut = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(rows // (parts * together), parts, together, *x.shape[1:]), 0, 1).reshape(parts, rows // parts, *x.shape[1:]), batch)

  def add(total: Any, rows: Any) -> tuple[Any, None]:
    (value, more), grads = value_and_grad(params, rows)
    return jax.tree.map(jnp.add, total, (value, more, grads)), None

  part = jax.tree.map(lambda x: x[0], cut)
  (value, more), grads = jax.eval_shape(value_and_grad, params, part)
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, more, grads))
  return jax.lax.scan(add, zero, cut)[0]
