"""Rotary positions (RoFormer, 2104.09864): queries and keys are turned by angles that grow with
their place, so that scores depend on distances.

A place counts from the beginning of its own segment. Scores do not change when a segment moves, but
float32 angles do (by place * 2^-24), so a packed sequence is turned exactly as it is alone, and a
left-padded prompt as the same prompt without padding.
"""

import jax
import jax.numpy as jnp
import numpy as np


def places(segment_ids_bt: jax.Array) -> jax.Array:
  """[b, t] how many places of the same segment, which lie together, come before."""
  index = jnp.arange(segment_ids_bt.shape[1])
  first = jnp.pad(
    segment_ids_bt[:, 1:] != segment_ids_bt[:, :-1], ((0, 0), (1, 0)), constant_values=True
  )
  return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


def rotate(x_btnh: jax.Array, places_bt: jax.Array, theta: float) -> jax.Array:
  """Turns the pairs (x[i], x[i + h/2]) by place * theta^(-2i/h), in float32; places [b, 1] are one
  for all of a row.
  """
  h = x_btnh.shape[-1]
  frequencies = jnp.asarray(theta ** (-np.arange(0, h, 2) / h), jnp.float32)
  angles = (places_bt[..., None].astype(jnp.float32) * frequencies)[:, :, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x_btnh.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(
    x_btnh.dtype
  )
