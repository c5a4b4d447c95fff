"""The small parts every block is made of: a linear map (with room for a LoRA adapter), RMSNorm and
the MLP, with squared ReLU or gated.

Every parameter carries `logical_axes`, the names that sharding rules map to mesh axes.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models.config import ModelConfig


def param(value: jax.Array, *logical_axes: str) -> nnx.Param:
  """A parameter with one logical axis name per dimension."""
  if value.ndim != len(logical_axes):
    raise ValueError(f'{value.ndim} dimensions need as many logical axes, got {logical_axes}')
  return nnx.Param(value, logical_axes=logical_axes)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [..., in] @ kernel [in, out].

  Differentiated like any product; only, the weight gradient x^T g multiplies a transposed copy of
  x. XLA would fold the transpose into the product, and on CPUs that product runs at 0.6 of the
  speed of a plain one (benchmarks/cpu_choices.py).
  """
  return x @ kernel


def _matmul_forward(
  x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return x @ kernel, (x, kernel)


def _matmul_backward(
  saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  transposed = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
  return g @ kernel.T, transposed @ g.reshape(-1, g.shape[-1])


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nnx.Module):
  """y = x W (+ b) (+ scale (x A) B once an adapter is attached). `kernel` is [in, out]."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    axes: tuple[str, str],
    *,
    rngs: nnx.Rngs,
    scale: float = 1.0,
    bias: bool = False,
  ):
    std = scale / math.sqrt(in_features)
    self.kernel = param(
      std * jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32), *axes
    )
    self.bias = nnx.data(param(jnp.zeros(out_features, jnp.float32), axes[1]) if bias else None)
    self.lora_a = nnx.data(None)
    self.lora_b = nnx.data(None)
    self.lora_scale = 0.0

  def __call__(self, x: jax.Array) -> jax.Array:
    y = matmul(x, self.kernel[...].astype(x.dtype))
    if self.bias is not None:
      y = y + self.bias[...].astype(x.dtype)
    if self.lora_a is not None:
      y = y + self.lora_scale * (
        (x @ self.lora_a[...].astype(x.dtype)) @ self.lora_b[...].astype(x.dtype)
      )
    return y


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis, computed in float32; over `groups` equal parts of it if
  groups > 1.
  """

  def __init__(self, width: int, epsilon: float, axis: str = 'embed', groups: int = 1):
    self.scale = param(jnp.ones(width, jnp.float32), axis)
    self.epsilon = epsilon
    self.groups = groups

  def __call__(self, x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    grouped = x32.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
    normed = grouped * jax.lax.rsqrt(
      jnp.mean(grouped * grouped, axis=-1, keepdims=True) + self.epsilon
    )
    return (normed.reshape(x.shape) * self.scale[...]).astype(x.dtype)


def activate(up: jax.Array, gate: jax.Array | None) -> jax.Array:
  """Squared ReLU (Primer, 2109.08668) without a gate, SwiGLU (2002.05202) with one."""
  return jnp.square(jax.nn.relu(up)) if gate is None else jax.nn.silu(gate) * up


class MLP(nnx.Module):
  """down(relu(up(x))^2) or, gated, down(silu(gate(x)) * up(x)); of `width`, or the config's
  intermediate_size.
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
    gated = config.mlp_activation == 'swiglu'
    self.gate_proj = nnx.data(
      Linear(config.hidden_size, width, ('embed', 'mlp'), rngs=rngs, bias=config.mlp_bias)
      if gated
      else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down_proj(
      activate(self.up_proj(x), None if self.gate_proj is None else self.gate_proj(x))
    )
