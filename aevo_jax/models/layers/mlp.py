"""The MLP, with squared ReLU or gated, and its activation."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.linear import Linear


def activate(
  up: Float[Array, '*lead width'], gate: Float[Array, '*lead width'] | None
) -> Float[Array, '*lead width']:
  """Applies squared ReLU (Primer, 2109.08668), or SwiGLU (2002.05202) where there is a gate.

  Args:
    up: the up projection.
    gate: the gate projection, or None.

  Returns:
    relu(up)^2, or silu(gate) * up.
  """
  if gate is None:
    return _squared_relu(up)
  return jax.nn.silu(gate) * up


@jax.custom_jvp
def _squared_relu(x: jax.Array) -> jax.Array:
  return jnp.square(jax.nn.relu(x))


@_squared_relu.defjvp
def _squared_relu_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Differentiates as 2 relu(x), which keeps no mask of where x is positive."""
  rectified = jax.nn.relu(primals[0])
  return jnp.square(rectified), 2 * rectified * tangents[0]


class MLP(nnx.Module):
  """down(relu(up(x))^2) or, gated, down(silu(gate(x)) * up(x)).

  It is `width` wide, or as wide as the config's intermediate_size.
  """

  def __init__(self, config: ModelConfig, width: int = 0, *, rngs: nnx.Rngs):
    width = width or config.intermediate_size
    self.up_proj = Linear(
      config.hidden_size, width, ('embed', 'mlp'), rngs=rngs, bias=config.mlp_bias
    )
    self.down_proj = Linear(
      width,
      config.hidden_size,
      ('mlp', 'embed'),
      rngs=rngs,
      scale=1 / math.sqrt(len(config.pattern)),
      bias=config.mlp_bias,
    )
    self.gate_proj = nnx.data(None)
    if config.mlp_activation == 'swiglu':
      self.gate_proj = nnx.data(
        Linear(config.hidden_size, width, ('embed', 'mlp'), rngs=rngs, bias=config.mlp_bias)
      )

  def __call__(self, x: Float[Array, '*lead width']) -> Float[Array, '*lead width']:
    """Applies the MLP to each token.

    Args:
      x: activations.

    Returns:
      What is added to the residual stream.
    """
    up = self.up_proj(x)
    gate = None
    if self.gate_proj is not None:
      gate = self.gate_proj(x)
    return self.down_proj(activate(up, gate))
