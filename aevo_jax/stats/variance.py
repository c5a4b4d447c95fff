"""Variances of scores: between seeds of one recipe, and by the luck of the items."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PooledSd(NamedTuple):
  """A standard deviation within groups.

  Attributes:
    sd: 0 where there are no degrees of freedom.
    freedom: degrees of freedom.
    replicates: values in groups of two or more.
  """

  sd: float
  freedom: int
  replicates: int


def pooled_sd(groups: Sequence[Sequence[float]]) -> PooledSd:
  """Computes sqrt(sum_g sum_i (x_gi - mean_g)^2 / sum_g (n_g - 1)) over groups of two or more.

      >>> pooled_sd([[1.0, 3.0], [5.0]])
      PooledSd(sd=1.4142135623730951, freedom=1, replicates=2)

  Args:
    groups: values, one group for each mean.

  Returns:
    The pooled standard deviation with its degrees of freedom.
  """
  squares: float = 0
  freedom = 0
  replicates = 0
  for group in groups:
    if len(group) < 2:
      continue
    values = np.asarray(group, np.float64)
    squares += ((values - values.mean()) ** 2).sum()
    freedom += len(values) - 1
    replicates += len(values)
  variance = squares / freedom if freedom else 0.0
  return PooledSd(math.sqrt(variance), freedom, replicates)


def binomial_variance(correct: int, total: int) -> float:
  """Computes the variance of an accuracy by the choice of items: q (1 - q) / total.

  The rate q = (correct + 1/2) / (total + 1) has half an item added on each side, so that the
  variance is never 0.

      >>> binomial_variance(1, 2)
      0.125

  Args:
    correct: items that are right.
    total: items that were counted, 1 or more.

  Returns:
    The squared standard error of correct / total.
  """
  rate = (correct + 0.5) / (total + 1)
  return rate * (1 - rate) / total


def reliability(scores: Sequence[float], noise: Sequence[float]) -> float | None:
  """Computes the share of the variance between scores that is not noise (Lord and Novick 1968).

  It is max(0, 1 - mean noise variance / variance of the scores):

      >>> reliability([0.0, 1.0, 2.0], [0.25, 0.25, 0.25])
      0.75

  Args:
    scores: one for each trial.
    noise: variance of each score by its noise.

  Returns:
    The reliability in [0, 1]; None with fewer than three scores, or where none differ.
  """
  if len(scores) < 3:
    return None
  observed = float(np.var(scores, ddof=1))
  if observed <= 0:
    return None
  return max(0.0, 1 - float(np.mean(noise)) / observed)
