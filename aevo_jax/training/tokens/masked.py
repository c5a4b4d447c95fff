"""Masked statistics as (sum, count) pairs, which merge correctly over microbatches and devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class WeightedSum(NamedTuple):
  """A weighted mean, total / count, before the division.

  Add two field by field to merge them.
  """

  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values: jax.Array, weights: jax.Array) -> 'WeightedSum':
    """Sums values by weight.

    Args:
      values: where the weight is not positive they may be anything, NaN included.
      weights: of the shape of `values`.
    """
    return cls(jnp.sum(jnp.where(weights > 0, values * weights, 0)), jnp.sum(weights))

  def mean(self) -> jax.Array:
    """Returns total / count, 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, 1e-9)
