"""Masked statistics as (sum, count) pairs, which merge correctly over microbatches and devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class WeightedSum(NamedTuple):
  """total / count is the weighted mean; add two pairs field by field to merge them."""

  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values: jax.Array, weights: jax.Array) -> 'WeightedSum':
    """Sums values where weights are positive; values elsewhere may be anything, NaN included."""
    return cls(jnp.sum(jnp.where(weights > 0, values * weights, 0)), jnp.sum(weights))

  def mean(self) -> jax.Array:
    """total / count, 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, 1e-9)
