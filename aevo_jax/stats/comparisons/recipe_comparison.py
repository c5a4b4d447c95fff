"""Whether a recipe beats two others on fresh runs: an intersection of one-sided tests."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from aevo_jax.stats.comparisons import permutation

MIN_RUNS = 2
# Of a count that is a whole number, where runs do not differ.
ROUNDING_VARIANCE = 1 / 12


@dataclasses.dataclass(frozen=True)
class Difference:
  """A one-sided comparison of two groups of runs.

  Attributes:
    difference: of the means, in items.
    p_value: of the claim that the first mean is higher: the larger one of Welch's test and of the
      exact permutation test.
    least: the least p value that so few runs can give, that of the permutation test.
    detectable: in items, the true difference that is found with a given power.
  """

  difference: float
  p_value: float
  least: float
  detectable: float


def welch_p(first: Sequence[int], second: Sequence[int]) -> float:
  """Computes the one-sided p value of Welch's t test (1947) with Satterthwaite's degrees.

  Args:
    first: at least two counts.
    second: at least two counts.

  Returns:
    P(T >= t) of the claim that the first mean is higher. A variance is `ROUNDING_VARIANCE` at
    least, so that equal counts give a number.
  """
  parts = []
  for counts in (first, second):
    parts.append(max(float(np.var(counts, ddof=1)), ROUNDING_VARIANCE) / len(counts))
  freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1))
  t = (float(np.mean(first)) - float(np.mean(second))) / math.sqrt(sum(parts))
  return float(special.stdtr(freedom, -t))


def compare(
  first: Sequence[int], second: Sequence[int], alpha: float, power: float
) -> Difference | None:
  """Compares two groups of runs.

  Welch's test holds where one group is noisier, the permutation test where noise is heavy-tailed
  and equal; the larger p value has the size of either.

  Args:
    first: counts of right items of the runs of one recipe.
    second: of another, on the same items.
    alpha: level at which `detectable` is found.
    power: with which it is.

  Returns:
    The comparison, None with fewer than `MIN_RUNS` runs in a group.
  """
  if min(len(first), len(second)) < MIN_RUNS:
    return None
  return Difference(
    difference=float(np.mean(first)) - float(np.mean(second)),
    p_value=max(welch_p(first, second), permutation.greater_p(first, second)),
    least=permutation.least_p(len(first), len(second)),
    detectable=_pooled_sd(first, second) * detectable(len(first), len(second), alpha, power),
  )


def detectable(first: int, second: int, alpha: float, power: float) -> float:
  """Computes the true difference that a t test finds with some power.

  (t_{1 - alpha} + t_{power}) sqrt(1 / first + 1 / second) with the degrees of freedom of the
  smaller group alone, Satterthwaite's worst case. With equal noise it overstates a little.

  Args:
    first: runs of the first group.
    second: runs of the second group.
    alpha: one-sided level.
    power: a probability.

  Returns:
    In standard deviations of a run; infinite where so few runs cannot be significant.
  """
  if permutation.least_p(first, second) > alpha:
    return math.inf
  freedom = min(first, second) - 1
  quantiles = special.stdtrit(freedom, 1 - alpha) + special.stdtrit(freedom, power)
  return float(quantiles) * math.sqrt(1 / first + 1 / second)


def _pooled_sd(first: Sequence[int], second: Sequence[int]) -> float:
  squares = sum(float(np.var(counts)) * len(counts) for counts in (first, second))
  variance = squares / (len(first) + len(second) - 2)
  return math.sqrt(max(variance, ROUNDING_VARIANCE))
