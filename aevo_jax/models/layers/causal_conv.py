"""Depthwise causal convolution over packed rows."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aevo_jax.models.layers.linear import spread


def causal_conv(
  x_btc: Float[Array, 'batch time channels'],
  kernel_kc: Float[Array, 'kernel channels'],
  bias_c: Float[Array, '*channels_or_none'],
  segment_ids_bt: Int[Array, 'batch time'],
) -> Float[Array, 'batch time channels']:
  """Convolves each channel over time, without looking across segments.

  It is written as shifted multiply-adds, since XLA's grouped convolution is slow on CPUs.

  Args:
    x_btc: inputs.
    kernel_kc: weights of `context.cast_weight`; the last row is that of the token itself.
    bias_c: one number for each channel, or a scalar.
    segment_ids_bt: the segment of each token.

  Returns:
    y_t = bias + sum_j kernel_j x_{t - k + 1 + j} over tokens of the segment, in the dtype of x.
  """
  width = kernel_kc.shape[0]
  y = x_btc * spread(kernel_kc[-1], x_btc)
  for lag in range(1, min(width, x_btc.shape[1])):
    same = segment_ids_bt[:, lag:] == segment_ids_bt[:, :-lag]
    past = jnp.where(same[..., None], x_btc[:, :-lag], 0)
    y = y + jnp.pad(past, ((0, 0), (lag, 0), (0, 0))) * spread(kernel_kc[width - 1 - lag], x_btc)
  if bias_c.ndim:
    bias_c = spread(bias_c, x_btc)
  return y + bias_c
