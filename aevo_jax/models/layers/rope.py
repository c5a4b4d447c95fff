"""Rotary positions (RoFormer, 2104.09864).

Queries and keys are turned by angles that grow with their position, so that scores depend on
distances. A pair is (x[i], x[i + h/2]), as Hugging Face lays heads out; the paper (eq. 15) pairs
neighbours. A position counts from the beginning of its segment. Scores do not change when a segment
moves, but float32 angles do (by position * 2^-24); so a packed sequence is turned exactly as it is
alone, and a left-padded prompt as the same prompt without padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def positions(segment_ids_bt: Int[Array, 'batch time']) -> Int[Array, 'batch time']:
  """Counts positions within segments.

  Args:
    segment_ids_bt: the segment of each token; tokens of a segment lie together.

  Returns:
    How many tokens of the same segment come before each token.
  """
  index = jnp.arange(segment_ids_bt.shape[1])[None]
  first = jnp.pad(
    segment_ids_bt[:, 1:] != segment_ids_bt[:, :-1], ((0, 0), (1, 0)), constant_values=True
  )
  return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


def rotate(
  x_btnh: Float[Array, 'batch time heads head_dim'],
  positions_bt: Int[Array, ' batch #time'],
  theta: float,
) -> Float[Array, 'batch time heads head_dim']:
  """Turns the pairs (x[i], x[i + h/2]) by position * theta^(-2i/h), in float32.

  Args:
    x_btnh: queries or keys; h is even.
    positions_bt: their positions; [b, 1] is one for all of a row.
    theta: the base of the frequencies.

  Returns:
    The turned heads, in the dtype of x_btnh.
  """
  h = x_btnh.shape[-1]
  frequencies = jnp.asarray(theta ** (-np.arange(0, h, 2) / h), jnp.float32)
  angles = (positions_bt[..., None].astype(jnp.float32) * frequencies[None, None])[:, :, None]
  cos = jnp.cos(angles)
  sin = jnp.sin(angles)
  first, second = jnp.split(x_btnh.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x_btnh.dtype)
