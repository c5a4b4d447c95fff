"""Exact tests that relabel: of two groups of runs, and of differences by their signs.

The numbers are counts of right items, so that sums are exact and ties count against the claim
(Fisher 1935).
"""

import math
from collections.abc import Sequence

import numpy as np


def greater_p(first: Sequence[int], second: Sequence[int]) -> float:
  """Computes the exact one-sided p value of the claim that `first` is larger than `second`.

  Where both groups have one distribution, every way to call some of the runs `first` is as likely
  as any other.

      >>> round(greater_p([9, 8], [3, 4]), 4)
      0.1667

  Args:
    first: counts of the first group.
    second: counts of the second group.

  Returns:
    The share of relabelings whose first group sums to at least as much.
  """
  values = [*first, *second]
  floor = min(values)
  shifted = [value - floor for value in values]
  size = len(first)
  top = sum(sorted(shifted)[-size:])
  # subsets[k, s]: how many subsets of k runs sum to s.
  subsets = np.zeros((size + 1, top + 1))
  subsets[0, 0] = 1
  for value in shifted:
    for chosen in range(size, 0, -1):
      subsets[chosen, value:] += subsets[chosen - 1, : top + 1 - value]
  observed = sum(first) - floor * size
  return float(subsets[size, observed:].sum() / subsets[size].sum())


def least_p(first: int, second: int) -> float:
  """Computes the least p value that `greater_p` can give.

      >>> least_p(3, 3)
      0.05

  Args:
    first: runs of the first group.
    second: runs of the second group.
  """
  return 1 / math.comb(first + second, first)


def sign_flip_p(differences: Sequence[float]) -> float:
  """Computes the exact one-sided p value of the claim that differences are above 0 on average.

  Each difference is one unit, such as a campaign. If nothing differs, either sign is as likely.

      >>> sign_flip_p([1.0, 2.0, 3.0])
      0.125

  Args:
    differences: at most 20 of them.

  Returns:
    The share of the 2^n signings whose sum is at least the observed one.
  """
  sums = np.zeros(1)
  for difference in differences:
    sums = np.concatenate([sums + abs(difference), sums - abs(difference)])
  return float(np.mean(sums >= sum(differences) - 1e-9))
