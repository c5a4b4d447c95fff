"""Direct preference optimisation (2305.18290) on pairs, and its length-normalised form, in which
log-ratios are means over tokens (as in SimPO, 2405.14734, with a reference).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.training.masked import WeightedSum


@configurable('dpo')
@dataclasses.dataclass(frozen=True)
class Dpo:
  """beta: how strongly the policy is held to the reference. length_normalised: log-ratios per
  token. label_smoothing: share of pairs taken to be the wrong way round (cDPO).
  """

  beta: Annotated[float, Interval(ge=1e-4, le=100)] = 0.1
  length_normalised: bool = False
  label_smoothing: Annotated[float, Interval(ge=0, le=0.5)] = 0.0


def dpo_loss(
  logprobs_bt: jax.Array, batch: dict[str, jax.Array], settings: Dpo
) -> tuple[jax.Array, dict[str, WeightedSum]]:
  """- log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)).

  Args:
    logprobs_bt: of each token; rows 2i and 2i + 1 are the chosen and the rejected completion of
      pair i.
    batch: mask [b, t], 1 on completions; ref_logprobs [b, t]; pair_weights [b], at both rows of a
      pair 1 / pairs of the whole batch, or 0 for a filler.

  Returns:
    A scalar that adds up over pairs, and WeightedSums: margin (of implicit rewards, beta times the
      difference), accuracy (share of pairs with a positive one).
  """
  chosen = batch['mask'] > 0
  log_ratio = jnp.sum(jnp.where(chosen, logprobs_bt - batch['ref_logprobs'], 0), axis=1)
  if settings.length_normalised:
    log_ratio = log_ratio / jnp.maximum(jnp.sum(chosen, axis=1), 1)
  margin = settings.beta * (log_ratio[0::2] - log_ratio[1::2])
  loss = -(1 - settings.label_smoothing) * jax.nn.log_sigmoid(
    margin
  ) - settings.label_smoothing * jax.nn.log_sigmoid(-margin)
  weights = batch['pair_weights'][0::2]
  counted = jax.lax.stop_gradient((weights > 0).astype(jnp.float32))
  metrics = {
    'margin': WeightedSum.of(jax.lax.stop_gradient(margin), counted),
    'accuracy': WeightedSum.of((margin > 0).astype(jnp.float32), counted),
  }
  return jnp.sum(jnp.where(weights > 0, weights * loss, 0)), metrics
