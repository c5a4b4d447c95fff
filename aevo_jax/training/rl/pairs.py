"""Preference pairs from rollouts: of each group a completion that the verifier accepts, and one
that it refuses.
"""

from collections.abc import Sequence

import numpy as np

from aevo_jax.training.rl import rewards
from aevo_jax.training.rl.rollouts import Sample, grouped
from aevo_jax.training.rl.settings import Reward


def of_rollouts(samples: Sequence[Sample], settings: Reward) -> list[tuple[int, int]]:
  """(index of the chosen, index of the rejected) for each group whose rewards differ: its best and
  its worst completion, the first of equals.
  """
  found, start = [], 0
  for group in grouped(samples):
    totals = np.array([rewards.total(s.parts, settings) for s in group])
    if np.ptp(totals):
      found.append((start + int(totals.argmax()), start + int(totals.argmin())))
    start += len(group)
  return found


def rows(pairs: Sequence[tuple[int, int]], count: int) -> tuple[np.ndarray, np.ndarray]:
  """Row numbers [2 * count] of the pairs, chosen and rejected in turn, and weights that add up to 1
  over pairs; fillers repeat row 0 with weight 0.
  """
  chosen = np.zeros(2 * count, int)
  weights = np.zeros(2 * count, np.float32)
  for i, pair in enumerate(pairs):
    chosen[2 * i : 2 * i + 2], weights[2 * i : 2 * i + 2] = pair, 1 / len(pairs)
  return chosen, weights
