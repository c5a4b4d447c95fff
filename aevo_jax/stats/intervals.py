"""Confidence intervals: of a proportion, of a mean, and of a difference of two means."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


class Interval(NamedTuple):
  """The ends of a confidence interval, low <= high."""

  low: float
  high: float


# Indices that one resampling step draws at a time: as many as stay in a cache.
_CACHED = 2**16


def clipped(interval: Interval, low: float, high: float) -> Interval:
  """Cuts an interval off where the quantity cannot lie.

      >>> clipped(Interval(-0.02, 0.4), 0.0, 1.0)
      Interval(low=0.0, high=0.4)

  Args:
    interval: of a symmetric or widened method, which may reach beyond.
    low: the least value there is, 0 for a rate and -1 for a difference of rates.
    high: the largest.

  Returns:
    The interval within [low, high].
  """
  return Interval(min(max(interval.low, low), high), max(min(interval.high, high), low))


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
  """Computes the Wilson score interval of a proportion (Wilson 1927; Newcombe 1998, method 3).

  With p = correct / total and the normal quantile z it is

      (2 n p + z^2 +- z sqrt(4 n p (1 - p) + z^2)) / (2 (n + z^2)):

      >>> low, high = wilson(8, 10)
      >>> round(low, 3), round(high, 3)
      (0.49, 0.943)

  Args:
    correct: successes, 0 to `total`.
    total: items that were counted.
    confidence: two-sided level.

  Returns:
    The interval. It begins at exactly 0 where nothing is correct, and ends at exactly 1 where
    everything is. Of no items it is (0, 1).
  """
  if total == 0:
    return Interval(0.0, 1.0)
  z = float(special.ndtri(0.5 + 0.5 * confidence))
  p = correct / total
  denominator = 2 * (total + z**2)
  centre = (2 * total * p + z**2) / denominator
  half = z / denominator * math.sqrt(4 * total * p * (1 - p) + z**2)
  low = 0.0 if correct == 0 else centre - half
  high = 1.0 if correct == total else centre + half
  return Interval(low, high)


def normal_mean(values: Sequence[float]) -> Interval:
  """Computes the normal 95% interval of a mean: mean +- 1.96 sd / sqrt(n).

      >>> low, high = normal_mean([0.0, 1.0])
      >>> round(low, 2), round(high, 2)
      (-0.48, 1.48)

  Args:
    values: independent draws.

  Returns:
    The interval; (nan, nan) of fewer than two values.
  """
  if len(values) < 2:
    return Interval(math.nan, math.nan)
  mean = float(np.mean(values))
  error = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
  return Interval(mean - error, mean + error)


def paired_bootstrap(
  a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, Interval]:
  """Computes the mean of a - b and its percentile bootstrap interval (Efron and Tibshirani 1993).

  Items (columns) are resampled together in both, training seeds (rows) in each alone. Three seeds
  resampled show too little of their spread: a mean of n drawn from n has (n - 1) / n of the
  variance, and its quantiles are a normal's. So the seeds' part of each resample is widened by
  sqrt(n / (n - 1)), and by the ratio of Student's t quantile, with the seeds' degrees of freedom,
  to the normal one. tests/stats/test_intervals.py measures the coverage.

      >>> right = np.array([[1, 1, 1, 0]])
      >>> paired_bootstrap(right, right, seed=0)
      (0.0, Interval(low=0.0, high=0.0))

  Args:
    a: [seeds, items] of 0 / 1.
    b: [seeds, items] of 0 / 1: the same items in the same order. The number of seeds may differ.
    seed: of the resampling.
    resamples: how many.
    confidence: two-sided level.

  Returns:
    The difference of the means, and its interval. A side with one seed contributes no spread
    between seeds.

  Raises:
    ValueError: the numbers of items differ.
  """
  a = np.atleast_2d(a).astype(np.float64)
  b = np.atleast_2d(b).astype(np.float64)
  if a.shape[1] != b.shape[1]:
    raise ValueError(f'paired sets need the same items, got {a.shape[1]} and {b.shape[1]}')
  rng = np.random.default_rng(seed)
  tail = (1 - confidence) / 2
  differences = _resampled_means(a.mean(axis=0) - b.mean(axis=0), rng, resamples)
  differences += _between_seeds(a, b, rng, resamples, tail)
  return float(a.mean() - b.mean()), _percentiles(differences, tail)


def unpaired_bootstrap(
  a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, Interval]:
  """Computes what `paired_bootstrap` does, of scores on different items.

      >>> value, interval = unpaired_bootstrap(np.ones((1, 9)), np.zeros((1, 5)), seed=0)
      >>> value, interval
      (1.0, Interval(low=1.0, high=1.0))

  Args:
    a: [seeds, items] of 0 / 1.
    b: [seeds, items] of 0 / 1. Its items are resampled alone, and their number may differ.
    seed: of the resampling.
    resamples: how many.
    confidence: two-sided level.

  Returns:
    The difference of the means, and its interval.
  """
  a = np.atleast_2d(a).astype(np.float64)
  b = np.atleast_2d(b).astype(np.float64)
  rng = np.random.default_rng(seed)
  tail = (1 - confidence) / 2
  means_a = _resampled_means(a.mean(axis=0), rng, resamples)
  means_b = _resampled_means(b.mean(axis=0), rng, resamples)
  differences = means_a - means_b + _between_seeds(a, b, rng, resamples, tail)
  return float(a.mean() - b.mean()), _percentiles(differences, tail)


def _percentiles(differences: np.ndarray, tail: float) -> Interval:
  low, high = np.quantile(differences, [tail, 1 - tail])
  return Interval(float(low), float(high))


def _resampled_means(items: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
  """Draws [resamples] means of items [items] drawn with replacement."""
  rows = max(1, _CACHED // len(items))
  parts = []
  for done in range(0, resamples, rows):
    size = (min(rows, resamples - done), len(items))
    parts.append(items[rng.integers(len(items), size=size)].mean(axis=1))
  return np.concatenate(parts)


def _between_seeds(
  a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> np.ndarray:
  """Draws the seeds' part of each resample of a - b, widened as `paired_bootstrap` says."""
  freedom = len(a) + len(b) - 2
  part = np.zeros(resamples)
  for sign, rows in ((1, a), (-1, b)):
    means = rows.mean(axis=1)
    n = len(rows)
    if n > 1:
      wider = math.sqrt(n / (n - 1)) * special.stdtrit(freedom, tail) / special.ndtri(tail)
      drawn = means[rng.integers(n, size=(resamples, n))].mean(axis=1)
      part += sign * wider * (drawn - means.mean())
  return part
