"""A linear map, with room for a bias and a LoRA adapter."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aevo_jax.models.layers.parameter import param
from aevo_jax.sharding import context


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


@jax.custom_vjp
def matmul_unrounded(
  x: Float[Array, '*lead inputs'],
  kernel: Float[Array, 'inputs outputs'],
  laid_out: Float[Array, 'inputs outputs'],
) -> Float[Array, '*lead outputs']:
  """Multiplies rows with a matrix whose gradient has more bits than the rows.

  So devices sum their parts of the gradient in the matrix' own dtype.

  Args:
    x: rows along its last axis.
    kernel: the matrix; it gets the gradient, in its dtype.
    laid_out: the matrix in the dtype of x, as it is to be multiplied; it gets no gradient.

  Returns:
    x @ laid_out, in the dtype of x.
  """
  del kernel
  return x @ laid_out


def _unrounded_forward(
  x: Array, kernel: Array, laid_out: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
  return x @ laid_out, (x, kernel, laid_out)


def _unrounded_backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, Array]:
  x, kernel, laid_out = saved
  lead = tuple(range(x.ndim - 1))
  gradient = jax.lax.dot_general(
    x, g, ((lead, lead), ((), ())), preferred_element_type=kernel.dtype
  )
  return g @ laid_out.T, gradient, jnp.zeros_like(laid_out)


matmul_unrounded.defvjp(_unrounded_forward, _unrounded_backward)


def multiply(
  x: Float[Array, '*lead inputs'],
  kernel: Float[Array, 'inputs outputs'],
  laid_out: Float[Array, 'inputs outputs'] | None = None,
) -> Float[Array, '*lead outputs']:
  """Multiplies rows with a weight as `context.cast_weight` gives it.

  Args:
    x: rows along its last axis.
    kernel: the weight, in the dtype of x or of more bits; then its gradient has those too.
    laid_out: of a weight of more bits, how it lies in the dtype of x; None is as `kernel` does.

  Returns:
    The products, in the dtype of x.
  """
  if kernel.dtype == x.dtype:
    return matmul(x, kernel)
  if laid_out is None:
    laid_out = kernel.astype(x.dtype)
  return matmul_unrounded(x, kernel, jax.lax.stop_gradient(laid_out))


def _adapt(
  x: Float[Array, '*lead inputs'], weight: Float[Array, 'inputs outputs']
) -> Float[Array, '*lead outputs']:
  """Multiplies rows with a matrix of an adapter."""
  weight = context.cast_weight(weight, x.dtype)
  if weight.dtype == x.dtype:
    return x @ weight
  return multiply(x, weight)


def spread(
  vector: Float[Array, ' width'], x: Float[Array, '*lead width']
) -> Float[Array, '*shape']:
  """Gives a vector the leading dimensions of activations, to be added or multiplied.

  Args:
    vector: as `context.cast_weight` gives it: of the dtype of x, or of more bits. Then its gradient
      is summed in float32.
    x: activations.

  Returns:
    The vector in the dtype of x, with dimensions of size 1, or of x, before its own.
  """
  if vector.dtype == x.dtype:
    return jnp.expand_dims(vector, range(x.ndim - 1))
  return _spread(x.shape, x.dtype, vector)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spread(shape: tuple[int, ...], dtype: jnp.dtype, vector: Array) -> Array:
  return jnp.broadcast_to(vector.astype(dtype), shape)


def _spread_forward(shape: tuple[int, ...], dtype: jnp.dtype, vector: Array) -> tuple[Array, None]:
  return _spread(shape, dtype, vector), None


def _spread_backward(shape: tuple[int, ...], dtype: jnp.dtype, _: None, g: Array) -> tuple[Array]:
  del dtype
  return (jnp.sum(g, axis=range(len(shape) - 1), dtype=jnp.float32),)


_spread.defvjp(_spread_forward, _spread_backward)


class Kernel(NamedTuple):
  """A weight as `multiply` takes it.

  Attributes:
    kernel: [in, out], as `context.cast_weight` gives it.
    laid_out: the same in the dtype of the activations, where it is to lie otherwise.
  """

  kernel: Array
  laid_out: Array | None = None


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
    self, x: Float[Array, '*lead inputs'], kernel: 'Kernel | None' = None
  ) -> Float[Array, '*lead outputs']:
    """Applies the map.

    Args:
      x: activations; weights are cast to their dtype.
      kernel: W laid out otherwise; None takes it as it lies.

    Returns:
      The outputs, in the dtype of x.
    """
    if kernel is None:
      kernel = Kernel(context.cast_weight(self.kernel[...], x.dtype))
    y = multiply(x, *kernel)
    if self.bias is not None:
      y = y + spread(context.cast_weight(self.bias[...], x.dtype), y)
    if self.lora_a is not None and self.lora_b is not None:
      y = y + self.lora_scale * _adapt(_adapt(x, self.lora_a[...]), self.lora_b[...])
    return y
