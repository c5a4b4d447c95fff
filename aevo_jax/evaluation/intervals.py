"""Error bars: Wilson intervals of a proportion, and the paired bootstrap of a difference."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
  low: float
  high: float


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
  """Wilson score interval (Wilson 1927) of correct / total; (0, 1) when nothing was counted."""
  if total == 0:
    return Interval(0.0, 1.0)
  interval = stats.binomtest(correct, total).proportion_ci(confidence, method='wilson')
  return Interval(float(interval.low), float(interval.high))


def paired_bootstrap(a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> tuple[float, Interval]:
  """Mean of a - b and its percentile bootstrap interval, resampling training seeds (rows) and items (columns) together.

  Args:
    a, b: [seeds, items] of 0 / 1, the same items in the same order; the two may differ in their number of seeds.

  Returns:
    The difference of the means, and its interval.
  """
  a, b = np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64)
  if a.shape[1] != b.shape[1]:
    raise ValueError(f'paired sets need the same items, got {a.shape[1]} and {b.shape[1]}')
  rng = np.random.default_rng(seed)
  differences = np.empty(resamples)
  for i in range(resamples):
    items = rng.integers(a.shape[1], size=a.shape[1])
    rows_a, rows_b = rng.integers(len(a), size=len(a)), rng.integers(len(b), size=len(b))
    # Mean over seeds first: [items], then the resampled items.
    differences[i] = (a[rows_a].mean(axis=0) - b[rows_b].mean(axis=0))[items].mean()
  tail = (1 - confidence) / 2
  low, high = np.quantile(differences, [tail, 1 - tail])
  return float(a.mean() - b.mean()), Interval(float(low), float(high))
