"""A linear map, with room for a bias and a LoRA adapter."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aevo_jax.models.layers.parameter import param


@jax.custom_vjp
def matmul(
  x: Float[Array, '*lead inputs'], kernel: Float[Array, 'inputs outputs']
) -> Float[Array, '*lead outputs']:
  """Multiplies rows with a matrix.

  Differentiated like any product. Only, on CPUs the weight gradient x^T g multiplies a transposed
  copy of x: XLA would fold the transpose into the product, and that product runs at 0.6 of the
  speed of one without (benchmarks/cpu_choices.py). Elsewhere the copy would cost, and a partitioner
  would gather x for it.

  Args:
    x: rows along its last axis.
    kernel: the matrix, in the dtype of x.

  Returns:
    x @ kernel, in that dtype.
  """
  return x @ kernel


def _matmul_forward(
  x: Float[Array, '*lead inputs'], kernel: Float[Array, 'inputs outputs']
) -> tuple[Float[Array, '*lead outputs'], tuple[Array, Array]]:
  return x @ kernel, (x, kernel)


def _matmul_backward(
  saved: tuple[Array, Array], g: Float[Array, '*lead outputs']
) -> tuple[Float[Array, '*lead inputs'], Float[Array, 'inputs outputs']]:
  # Chosen when the program is lowered, so for the devices that it is compiled for.
  return jax.lax.platform_dependent(*saved, g, cpu=_gradients_on_cpu, default=_gradients)


def _gradients_on_cpu(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
  transposed = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
  return g @ kernel.T, transposed @ g.reshape(-1, g.shape[-1])


def _gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
  _, gradients = jax.vjp(jnp.matmul, x, kernel)
  return gradients(g)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nnx.Module):
  """y = x W (+ b) (+ scale (x A) B once an adapter is attached).

  Attributes:
    kernel: W [in, out]; normal with standard deviation scale / sqrt(in) at first.
    bias: b [out] or None.
    lora_a, lora_b: A [in, rank] and B [rank, out] or None.
    lora_scale: alpha / rank of the adapter.
  """

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
    normal = jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32)
    self.kernel = param(std * normal, *axes)
    self.bias = nnx.data(None)
    if bias:
      self.bias = nnx.data(param(jnp.zeros(out_features, jnp.float32), axes[1]))
    self.lora_a: nnx.Param | None = nnx.data(None)
    self.lora_b: nnx.Param | None = nnx.data(None)
    self.lora_scale = 0.0

  def __call__(
    self, x: Float[Array, '*lead inputs'], kernel: Float[Array, 'inputs outputs'] | None = None
  ) -> Float[Array, '*lead outputs']:
    """Applies the map.

    Args:
      x: activations; weights are cast to their dtype.
      kernel: W in the dtype of x, laid out otherwise; None takes it as it lies.

    Returns:
      The outputs, in the dtype of x.
    """
    if kernel is None:
      kernel = self.kernel[...].astype(x.dtype)
    y = matmul(x, kernel)
    if self.bias is not None:
      y = y + jnp.expand_dims(self.bias[...].astype(x.dtype), range(x.ndim - 1))
    if self.lora_a is not None and self.lora_b is not None:
      inner = x @ self.lora_a[...].astype(x.dtype)
      y = y + self.lora_scale * (inner @ self.lora_b[...].astype(x.dtype))
    return y
