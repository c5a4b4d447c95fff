"""Log-probabilities and entropies of tokens, from logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenStats(NamedTuple):
  """Statistics of token t given those before it, in nats, [batch, time] each.

  They are 0 for a row's first token.

  logprobs: of the token.
  entropy: of the distribution it comes from.
  mean_logprob: over the vocabulary, for label smoothing.
  """

  logprobs: Float[Array, '...']
  entropy: Float[Array, '...']
  mean_logprob: Float[Array, '...']


def of_logits(
  logits: Float[Array, '*positions vocab'],
  tokens: Int[Array, '*positions'],
  temperature: float = 1.0,
) -> TokenStats:
  """Computes the statistics of tokens under the distributions that predict them.

  Args:
    logits: float32.
    tokens: one for each distribution.
    temperature: divides the logits.

  Returns:
    Statistics of the shape of `tokens`.
  """
  logits = logits / temperature
  log_z = jax.nn.logsumexp(logits, axis=-1)
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  expected = jnp.sum(jax.nn.softmax(logits) * logits, axis=-1)
  return TokenStats(picked - log_z, log_z - expected, jnp.mean(logits, axis=-1) - log_z)
