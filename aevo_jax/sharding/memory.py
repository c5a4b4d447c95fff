"""Bytes per device, from shapes alone.

Arrays count by their partition; a function, by what it keeps for its backward pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Literal
from jax.sharding import PartitionSpec


def device_bytes(shapes: Any, specs: Any, sizes: Mapping[str, int]) -> int:
  """Counts the bytes of a tree on one device.

  Args:
    shapes: a tree of arrays or shapes.
    specs: the tree of their partitions.
    sizes: of the mesh axes.

  Returns:
    The sum over all leaves.
  """
  leaves = jax.tree.leaves(shapes)
  partitions = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
  total = 0
  for leaf, spec in zip(leaves, partitions, strict=True):
    shards = 1
    for axis in _mesh_axes(spec):
      shards *= sizes[axis]
    total += math.prod(leaf.shape) * leaf.dtype.itemsize // shards
  return total


def _mesh_axes(spec: PartitionSpec) -> list[str]:
  """Lists the mesh axes of a partition."""
  axes = []
  for entry in spec:
    if isinstance(entry, str):
      axes.append(entry)
    elif entry:
      axes += entry
  return axes


def kept_bytes(function: Callable, weights: Any, trained: Any, x: jax.ShapeDtypeStruct) -> int:
  """Counts the bytes that function(weights, trained, x) keeps for its gradient.

  Neither its arguments count nor what is made of weights alone (copies in another dtype): both lie
  as the weights do.

  Args:
    function: of arrays.
    weights: its frozen weights, shapes.
    trained: the weights that have a gradient, shapes.
    x: its input, which has a gradient too.

  Returns:
    The bytes of the residuals that depend on x.
  """

  def residuals(weights: Any, trained: Any, x: jax.Array) -> list[jax.Array]:
    """Lists the arrays that the gradient closes over."""
    _, gradient = jax.vjp(lambda p, y: function(weights, p, y), trained, x)
    return jax.tree.leaves(gradient)

  jaxpr = jax.make_jaxpr(residuals)(weights, trained, x).jaxpr
  last = jaxpr.invars[-1]
  of_x = {last}
  for equation in jaxpr.eqns:
    if of_x & _variables(equation.invars):
      of_x.update(equation.outvars)
  total = 0
  for variable in _variables(jaxpr.outvars) & of_x - {last}:
    total += math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
  return total


def _variables(atoms: Sequence[Any]) -> set[Any]:
  """Leaves literals out, which cannot be hashed."""
  return {atom for atom in atoms if not isinstance(atom, Literal)}
