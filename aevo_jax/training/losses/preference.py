"""Direct preference optimisation (2305.18290) on pairs, and its length-normalised form.

In that form log-ratios are means over tokens, as in SimPO (2405.14734), but with a reference and
without its margin.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, one_of
from aevo_jax.training.losses.batch import AnyArray, Batch
from aevo_jax.training.tokens.masked import WeightedSum


@configurable('dpo', ReadWhen(one_of('method.name', 'dpo', 'sft_then_dpo')))
@dataclasses.dataclass(frozen=True)
class Dpo:
  """Strength and form of the preference loss.

  Attributes:
    beta: how strongly the policy is held to the reference.
    length_normalised: takes log-ratios per token.
    label_smoothing: share of pairs taken to be the wrong way round (cDPO).
  """

  beta: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
  length_normalised: bool = False
  label_smoothing: Annotated[float, Interval(ge=0, le=0.5)] = 0.0


def dpo_loss(
  logprobs_bt: Float[AnyArray, 'batch time'], batch: Batch, config: Dpo
) -> tuple[Float[Array, ''], dict[str, WeightedSum]]:
  """Computes - log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)).

  This is equation 7 of 2305.18290. Label smoothing s gives it weight 1 - s, and the same of the
  swapped pair weight s (cDPO, Mitchell 2023).

  Args:
    logprobs_bt: of each token, in nats. Rows 2i and 2i + 1 are the chosen and the rejected
      completion of pair i.
    batch: mask, 1 on completions; ref_logprobs; pair_weights, at both rows of a pair 1 / pairs of
      the whole batch, or 0 for a filler. Where the mask is 0, log-probabilities may hold NaN.
    config: beta and the form of the loss.

  Returns:
    A scalar that adds up over pairs, and metrics over pairs: margin, beta times the difference of
    the log-ratios (which are implicit rewards), and accuracy, the share of positive margins.
  """
  chosen = batch['mask'] > 0
  log_ratio = jnp.sum(jnp.where(chosen, logprobs_bt - batch['ref_logprobs'], 0), axis=1)
  if config.length_normalised:
    log_ratio = log_ratio / jnp.maximum(jnp.sum(chosen, axis=1), 1)
  margin = config.beta * (log_ratio[0::2] - log_ratio[1::2])
  smoothing = config.label_smoothing
  loss = -(1 - smoothing) * jax.nn.log_sigmoid(margin) - smoothing * jax.nn.log_sigmoid(-margin)
  weights = jnp.asarray(batch['pair_weights'])[0::2]
  counted = jax.lax.stop_gradient((weights > 0).astype(jnp.float32))
  metrics = {
    'margin': WeightedSum.of(jax.lax.stop_gradient(margin), counted),
    'accuracy': WeightedSum.of((margin > 0).astype(jnp.float32), counted),
  }
  return jnp.sum(jnp.where(weights > 0, weights * loss, 0)), metrics
