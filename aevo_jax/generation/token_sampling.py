"""Sampling of tokens by inversion, with one uniform number a token.

Gumbel noise would take as many numbers as the vocabulary has tokens, which on a CPU takes long
beside a small model's step. Two models that differ a little sample different tokens from the same
uniform number more often than from the same Gumbel noise, so comparisons by common random numbers
use the latter (`sampler`).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key

# The smallest step of jax.random.uniform. A number of 0 would give the first token, however
# improbable.
_SMALLEST = 2.0**-24


def sample(
  keys_b: Key[Array, ' batch'],
  index: int | Int[Array, '*rows'],
  logits_bv: Float[Array, 'batch vocab'],
) -> Int32[Array, ' batch']:
  """Samples one token a row from softmax(logits).

  Args:
    keys_b: one key a row.
    index: position of the token within its row, a scalar or [b]. With the key it decides the token,
      whatever the other rows are.
    logits_bv: tokens of -inf are never sampled.

  Returns:
    Token ids.
  """
  index_b = jnp.broadcast_to(index, keys_b.shape)
  uniform_b = _SMALLEST + jax.vmap(_uniform)(keys_b, index_b)
  return invert(logits_bv.astype(jnp.float32), uniform_b)


def _uniform(key: Key[Array, ''], index: Int[Array, '']) -> Float[Array, '']:
  return jax.random.uniform(jax.random.fold_in(key, index))


def invert(
  logits_bv: Float[Array, 'batch vocab'], uniform_b: Float[Array, ' batch']
) -> Int32[Array, ' batch']:
  """Inverts the cumulative distribution softmax(logits) of each row.

  Args:
    logits_bv: float32; -inf has no mass.
    uniform_b: float32 in [0, 1).

  Returns:
    The first token of each row up to which softmax(logits) holds more than `uniform_b`. It is
    looked for among blocks of about sqrt(v) tokens first, then within one block.
  """
  b, v = logits_bv.shape
  width = 1 << round(math.log2(v) / 2)
  mass = jnp.exp(logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True))
  mass = jnp.pad(mass, ((0, 0), (0, -v % width))).reshape(b, -1, width)
  until = jnp.cumsum(jnp.sum(mass, axis=-1), axis=-1)
  target = uniform_b * until[:, -1]
  block = jnp.minimum(jnp.sum(until <= target[:, None], axis=-1), until.shape[1] - 1)
  within = _select(mass, block)
  rest = target - jnp.where(block > 0, _select(until, block - 1), 0.0)
  position = jnp.minimum(jnp.sum(jnp.cumsum(within, axis=-1) <= rest[:, None], axis=-1), width - 1)
  # Sums in another order differ in their last bits, so that about one number in 10^7 falls beside
  # every token with mass.
  best = jnp.argmax(logits_bv, axis=-1)
  token = jnp.where(_select(within, position) > 0, block * width + position, best)
  return token.astype(jnp.int32)


def _select(
  x: Float[Array, 'batch choices *rest'], index_b: Int[Array, ' batch']
) -> Float[Array, ' batch *rest']:
  """Returns x[i, index_b[i]] of every row i."""
  shape = (len(index_b), *[1] * (x.ndim - 1))
  return jnp.take_along_axis(x, index_b.reshape(shape), axis=1)[:, 0]
