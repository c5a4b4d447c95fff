"""Error bars: Wilson intervals of a proportion, and the paired bootstrap of a difference."""

import math
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


def paired_bootstrap(
  a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, Interval]:
  """Mean of a - b and its percentile bootstrap interval, resampling items (columns, the same in
  both) and training seeds (rows, of each alone).

  Three seeds resampled show too little of their spread: a mean of n drawn from n has (n - 1) / n of
  the variance, and its quantiles are a normal's. So the seeds' part of each resample is widened by
  sqrt(n / (n - 1)), and by what Student's t with the seeds' degrees of freedom is wider than a
  normal. tests/evaluation/test_intervals.py measures the coverage.

  Args:
    a, b: [seeds, items] of 0 / 1, the same items in the same order; the two may differ in their
      number of seeds.

  Returns:
    The difference of the means, and its interval. A side with one seed contributes no spread
    between seeds.
  """
  a, b = np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64)
  if a.shape[1] != b.shape[1]:
    raise ValueError(f'paired sets need the same items, got {a.shape[1]} and {b.shape[1]}')
  rng, tail = np.random.default_rng(seed), (1 - confidence) / 2
  items = a.mean(axis=0) - b.mean(axis=0)
  rows = max(1, 2**16 // len(items))  # at a time: as many as stay in a cache
  differences = np.concatenate(
    [
      items[rng.integers(len(items), size=(min(rows, resamples - done), len(items)))].mean(axis=1)
      for done in range(0, resamples, rows)
    ]
  )
  differences += _between_seeds(a, b, rng, resamples, tail)
  low, high = np.quantile(differences, [tail, 1 - tail])
  return float(a.mean() - b.mean()), Interval(float(low), float(high))


def unpaired_bootstrap(
  a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, Interval]:
  """As `paired_bootstrap`, of scores on different items: the items of each side are resampled
  alone.
  """
  a, b = np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64)
  rng, tail = np.random.default_rng(seed), (1 - confidence) / 2
  sides = []
  for table in (a, b):
    items = table.mean(axis=0)
    rows = max(1, 2**16 // len(items))
    sides.append(
      np.concatenate(
        [
          items[rng.integers(len(items), size=(min(rows, resamples - done), len(items)))].mean(
            axis=1
          )
          for done in range(0, resamples, rows)
        ]
      )
    )
  differences = sides[0] - sides[1] + _between_seeds(a, b, rng, resamples, tail)
  low, high = np.quantile(differences, [tail, 1 - tail])
  return float(a.mean() - b.mean()), Interval(float(low), float(high))


def _between_seeds(
  a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> np.ndarray:
  """The seeds' part of each resample of a - b, widened as `paired_bootstrap` says."""
  freedom, part = len(a) + len(b) - 2, np.zeros(resamples)
  for sign, rows in ((1, a), (-1, b)):
    means, n = rows.mean(axis=1), len(rows)
    if n > 1:
      wider = math.sqrt(n / (n - 1)) * stats.t.isf(tail, freedom) / stats.norm.isf(tail)
      part += (
        sign * wider * (means[rng.integers(n, size=(resamples, n))].mean(axis=1) - means.mean())
      )
  return part
