"""Completion-only cross-entropy: - sum_t w_t log p(token_t | token_<t), the weights adding up to 1
over the batch.
"""

import jax
import jax.numpy as jnp

from aevo_jax.training.masked import WeightedSum
from aevo_jax.training.token_logprobs import TokenStats


def predicted(batch: dict[str, jax.Array]) -> jax.Array:
  """[b, t] loss weights of packed rows without those of a segment's first token, which is never
  predicted from the segment before.
  """
  segments = batch['segment_ids']
  same = jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
  return jnp.where(same, batch['weights'], 0)


def sft_loss(
  stats: TokenStats, batch: dict[str, jax.Array], *, label_smoothing: float = 0.0
) -> tuple[jax.Array, dict[str, WeightedSum]]:
  """Weighted next-token loss.

  Args:
    stats: of every token. batch: weights [b, t], those of the whole batch adding up to 1.
    label_smoothing: mass spread evenly over the vocabulary.

  Returns:
    A scalar that adds up over rows, and no diagnostics.
  """
  losses = -stats.logprobs
  if label_smoothing:
    losses = (1 - label_smoothing) * losses - label_smoothing * stats.mean_logprob
  return jnp.sum(jnp.where(batch['weights'] != 0, batch['weights'] * losses, 0)), {}
