"""Completion-only cross-entropy: - sum_t w_t log p(token_t | token_<t) / sum_t w_t."""

import jax
import jax.numpy as jnp
import optax

from aevo_jax.training.masked import WeightedSum


def sft_loss(logits_btv: jax.Array, batch: dict[str, jax.Array], *, label_smoothing: float = 0.0) -> WeightedSum:
  """Weighted next-token loss of packed rows.

  Args:
    logits_btv: position t predicts token t + 1.
    batch: tokens, weights, segment_ids, each [b, t]; a segment's first token is never predicted from the segment before.
    label_smoothing: mass spread evenly over the vocabulary.
  """
  targets, segments = batch['tokens'][:, 1:], batch['segment_ids']
  weights = jnp.where(segments[:, 1:] == segments[:, :-1], batch['weights'][:, 1:], 0)
  # Cleared before, not after: a gradient of 0 times a NaN would still be NaN.
  logits = jnp.where((weights > 0)[..., None], logits_btv[:, :-1], 0)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  if label_smoothing:
    uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    losses = (1 - label_smoothing) * losses + label_smoothing * uniform
  return WeightedSum.of(losses, weights)
