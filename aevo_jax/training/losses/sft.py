"""Completion-only cross-entropy: - sum_t w_t log p(token_t | token_<t)."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, one_of
from aevo_jax.training.losses.batch import Batch
from aevo_jax.training.tokens.masked import WeightedSum
from aevo_jax.training.tokens.token_stats import TokenStats


@configurable('loss', ReadWhen(one_of('method.name', 'sft', 'sft_then_rl', 'sft_then_dpo')))
@dataclasses.dataclass(frozen=True)
class Loss:
  """The loss of supervised fine-tuning.

  Attributes:
    reasoning_weight: weight of worked-solution tokens against 1 for the boxed answer.
    label_smoothing: mass spread evenly over the vocabulary.
  """

  reasoning_weight: Annotated[float, Interval(ge=0, le=100)] = 1.0
  label_smoothing: Annotated[float, Interval(ge=0, le=0.5)] = 0.0


def predicted(batch: Batch) -> Float[Array, 'batch time']:
  """Clears the weight of every segment's first token, which nothing before it predicts.

  Args:
    batch: `weights` and `segment_ids` [batch, time] of packed rows.

  Returns:
    The weights.
  """
  segments = batch['segment_ids']
  same = jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
  return jnp.where(same, batch['weights'], 0)


def sft_loss(
  stats: TokenStats, batch: Batch, config: Loss
) -> tuple[Float[Array, ''], dict[str, WeightedSum]]:
  """Computes the weighted next-token loss.

  Args:
    stats: log-probabilities of every token, in nats, [batch, time] each.
    batch: `weights` [batch, time], which add up to 1 over the whole batch. Positions of weight 0
      may hold NaN.
    config: label smoothing.

  Returns:
    A scalar that adds up over rows, and no metrics.
  """
  losses = -stats.logprobs
  smoothing = config.label_smoothing
  if smoothing:
    losses = (1 - smoothing) * losses - smoothing * stats.mean_logprob
  return jnp.sum(jnp.where(batch['weights'] != 0, batch['weights'] * losses, 0)), {}
