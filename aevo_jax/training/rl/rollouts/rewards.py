"""Rewards of completions, part by part."""

from collections.abc import Mapping, Sequence

import numpy as np

from aevo_jax.tasks import verify
from aevo_jax.training.recipe.rl_settings import Reward
from aevo_jax.training.rl.rollouts.environment import Action


def parts(
  action: Action, family: str, answer: str, *, max_new_tokens: int, settings: Reward
) -> dict[str, float]:
  """Computes each part of a completion's reward, before weights.

  The soft penalty of overlong completions is equation 13 of DAPO (2503.14476).

  Args:
    action: the completion, whose text has no end token.
    family: of the task.
    answer: the right one.
    max_new_tokens: that it could have had.
    settings: verifier, and length of the overlong buffer.

  Returns:
    verifiable, 0 or 1; format, 0 or 1; length, the share of tokens left unused; overlong, from 0
    down to -1.
  """
  boxed = verify.extract_boxed(action.text)
  accepts = verify.named(settings.verifier)
  over = max(0, action.tokens - (max_new_tokens - settings.overlong_buffer))
  one_box_at_the_end = action.text.count('\\boxed{') == 1 and action.text.rstrip().endswith('}')
  return {
    'verifiable': float(action.ended and accepts(family, boxed, answer)),
    'format': float(action.ended and one_box_at_the_end and boxed is not None),
    'length': 1 - action.tokens / max_new_tokens,
    'overlong': -min(1.0, over / settings.overlong_buffer),
  }


def total(parts: Mapping[str, float], settings: Reward) -> float:
  """Adds up the parts of a reward.

  Args:
    parts: by name.
    settings: a weight for each.

  Returns:
    The weighted sum.
  """
  weights = settings.weights()
  return sum([weights[name] * value for name, value in parts.items()])


def summary(batch: Sequence[Mapping[str, float]], settings: Reward) -> dict[str, float]:
  """Summarizes the parts of a batch's rewards.

  Args:
    batch: parts of each completion.
    settings: weights; parts of weight 0 are left out.

  Returns:
    For each part reward/NAME, its mean, then for each part reward_share/NAME: its weighted standard
    deviation as a share of the sum over parts. A constant part has share 0.
  """
  means = {}
  spreads = {}
  for name, weight in settings.weights().items():
    if weight:
      values = np.array([parts.get(name, 0.0) for parts in batch])
      means[f'reward/{name}'] = float(values.mean())
      # A constant has spread 0, whatever the rounding of its mean.
      spreads[name] = abs(weight) * float(values.std()) if np.ptp(values) else 0.0
  spread_of_all = sum(spreads.values())
  shares = {}
  for name, spread in spreads.items():
    shares[f'reward_share/{name}'] = spread / spread_of_all if spread_of_all else 0.0
  return means | shares
