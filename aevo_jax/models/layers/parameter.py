"""A parameter of a layer, with a name for each of its dimensions."""

import jax
from flax import nnx
from jaxtyping import Array, Float


def param(value: Float[Array, '...'] | jax.ShapeDtypeStruct, *logical_axes: str) -> nnx.Param:
  """Makes a parameter.

  Args:
    value: its first value, or its shape.
    *logical_axes: one name for each dimension, of `sharding.rules`.

  Returns:
    The parameter, with the names as its metadata.

  Raises:
    ValueError: there are more or fewer names than dimensions.
  """
  if len(value.shape) != len(logical_axes):
    raise ValueError(f'{len(value.shape)} dimensions need as many logical axes, got {logical_axes}')
  return nnx.Param(value, logical_axes=logical_axes)
