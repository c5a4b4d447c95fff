"""RMSNorm (1910.07467), over the whole last axis or over groups of it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aevo_jax.models.layers.parameter import param


class RMSNorm(nnx.Module):
  """x / sqrt(mean(x^2) + epsilon) * scale over the last axis.

  Attributes:
    scale: [width], ones at first.
    groups: equal parts of the last axis that are normed apart.
  """

  def __init__(self, width: int, epsilon: float, axis: str = 'embed', groups: int = 1):
    self.scale = param(jnp.ones(width, jnp.float32), axis)
    self.epsilon = epsilon
    self.groups = groups

  def __call__(self, x: Float[Array, '*lead width']) -> Float[Array, '*lead width']:
    """Norms activations.

    Args:
      x: activations in any dtype; the norm is computed in float32.

    Returns:
      The normed activations, in the dtype of x.
    """
    x32 = x.astype(jnp.float32)
    grouped = x32.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
    mean_square = jnp.mean(grouped * grouped, axis=-1, keepdims=True)
    normed = grouped * jax.lax.rsqrt(mean_square + self.epsilon)
    scale = jnp.expand_dims(self.scale[...].astype(jnp.float32), range(x.ndim - 1))
    return (normed.reshape(x.shape) * scale).astype(x.dtype)
