"""Bytes per device, from shapes alone: arrays by their partition, and what a function keeps for its
backward pass.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Literal
from jax.sharding import PartitionSpec


def device_bytes(shapes: Any, specs: Any, sizes: Mapping[str, int]) -> int:
  """Bytes of a tree of arrays or shapes on one device; `specs` is the tree of their partitions."""
  leaves = jax.tree.leaves(shapes)
  partitions = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
  total = 0
  for leaf, spec in zip(leaves, partitions, strict=True):
    axes = [
      axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)
    ]
    total += math.prod(leaf.shape) * leaf.dtype.itemsize // math.prod(sizes[axis] for axis in axes)
  return total


def kept_bytes(function: Callable, weights: Any, trained: Any, x: jax.ShapeDtypeStruct) -> int:
  """Bytes that function(weights, trained, x) keeps for its gradient in `trained` and x.

  Neither its arguments count nor what is made of weights alone (copies in another dtype): both lie
  as the weights do.
  """
  primal = lambda w, p, y: jax.tree.leaves(jax.vjp(lambda p, y: function(w, p, y), p, y)[1])
  jaxpr = jax.make_jaxpr(primal)(weights, trained, x).jaxpr
  # What depends on x, the last argument.
  of_x = {jaxpr.invars[-1]}
  for equation in jaxpr.eqns:
    if any(not isinstance(variable, Literal) and variable in of_x for variable in equation.invars):
      of_x.update(equation.outvars)
  kept = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)} & of_x - {
    jaxpr.invars[-1]
  }
  return sum(math.prod(variable.aval.shape) * variable.aval.dtype.itemsize for variable in kept)
