"""Drawing tokens by inversion, with one uniform number a token. Gumbel noise would be as many of
them as the vocabulary has, which on a CPU takes long beside a small model's step.

Two models that differ a little draw different tokens from the same number more often than from the
same Gumbel noise, so that comparisons by common random numbers use the latter (`sampler`).
"""

import math

import jax
import jax.numpy as jnp


def draw(keys_b: jax.Array, index: jax.Array, logits_bv: jax.Array) -> jax.Array:
  """[b] int32 from softmax(logits); those of -inf are never drawn.

  Args:
    keys_b: one a row. index: of the token within its row, a scalar or [b]: with the key it decides,
      whatever the other rows are.
  """
  index_b = jnp.broadcast_to(index, keys_b.shape)
  uniform_b = 2.0**-24 + jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(key, i)))(
    keys_b, index_b
  )  # not 0, which is the first token's however improbable
  return invert(logits_bv.astype(jnp.float32), uniform_b)


def invert(logits_bv: jax.Array, uniform_b: jax.Array) -> jax.Array:
  """The first token of each row up to which softmax(logits) holds more than `uniform_b`, [b]
  float32 in [0, 1): first among blocks of about sqrt(v) tokens, then within one.
  """
  b, v = logits_bv.shape
  width = 1 << round(math.log2(v) / 2)
  mass = jnp.exp(logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True))
  mass = jnp.pad(mass, ((0, 0), (0, -v % width))).reshape(b, -1, width)
  until = jnp.cumsum(jnp.sum(mass, axis=-1), axis=-1)
  target = uniform_b * until[:, -1]
  block = jnp.minimum(jnp.sum(until <= target[:, None], axis=-1), until.shape[1] - 1)
  of = lambda x, i: jnp.take_along_axis(x, i.reshape(b, *[1] * (x.ndim - 1)), axis=1)[:, 0]
  within = of(mass, block)
  rest = target - jnp.where(block > 0, of(until, block - 1), 0.0)
  place = jnp.minimum(jnp.sum(jnp.cumsum(within, axis=-1) <= rest[:, None], axis=-1), width - 1)
  # Sums in another order differ in their last bits, so that about one number in 10^7 falls beside
  # every token with mass.
  return jnp.where(
    of(within, place) > 0, block * width + place, jnp.argmax(logits_bv, axis=-1)
  ).astype(jnp.int32)
