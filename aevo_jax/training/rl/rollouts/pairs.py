"""Preference pairs from rollouts: the best and the worst completion of a group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.training.recipe.rl_settings import Reward
from aevo_jax.training.rl.rollouts import rewards
from aevo_jax.training.rl.rollouts.rollouts import Sample, grouped


class Pair(NamedTuple):
  """Positions of two completions of one group among all samples."""

  chosen: int
  rejected: int


class PairRows(NamedTuple):
  """Rows of a batch in which pairs lie, chosen and rejected in turn.

  rows: [2 * count] numbers of rows.
  weights: [2 * count], 1 / pairs at both rows of a pair and 0 at fillers.
  """

  rows: np.ndarray
  weights: np.ndarray


def of_rollouts(samples: Sequence[Sample], settings: Reward) -> list[Pair]:
  """Pairs the best and the worst completion of each group whose rewards differ.

  Args:
    samples: group by group.
    settings: weights of the rewards' parts.

  Returns:
    A pair for each such group, of equals the first.
  """
  pairs = []
  start = 0
  for group in grouped(samples):
    totals = np.array([rewards.total(s.parts, settings) for s in group])
    if np.ptp(totals):
      pairs.append(Pair(start + int(totals.argmax()), start + int(totals.argmin())))
    start += len(group)
  return pairs


def rows(pairs: Sequence[Pair], count: int) -> PairRows:
  """Lays out pairs for the loss.

  Args:
    pairs: at most `count`.
    count: pairs that there is room for. Fillers repeat row 0 with weight 0.

  Returns:
    Rows and weights. Over pairs, the weights add up to 1.
  """
  numbers = np.zeros(2 * count, int)
  weights = np.zeros(2 * count, np.float32)
  for i, pair in enumerate(pairs):
    numbers[2 * i : 2 * i + 2] = pair
    weights[2 * i : 2 * i + 2] = 1 / len(pairs)
  return PairRows(numbers, weights)
