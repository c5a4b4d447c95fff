"""Whether values scatter more than before: a test that heavy tails do not fool."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special


def grew_p(before: Sequence[np.ndarray], since: Sequence[np.ndarray]) -> float:
  """Computes the one-sided p value of the claim that the scatter within groups has grown.

  Each value's absolute distance from the median of its group is taken (Brown and Forsythe 1974),
  and the means of the distances are compared by Welch's t test (1947). Unlike the F test of
  variances it holds for heavy-tailed values.

      >>> grew_p([np.array([1.0, 2.0, 3.0, 4.0])], [np.array([1.0, 2.0, 3.0, 4.0])])
      0.5

  Args:
    before: values of each group.
    since: values of each later group.

  Returns:
    The p value; 1 where either has fewer than three values. Without any scatter before and some
    since it is 0.
  """
  first = _distances(before)
  second = _distances(since)
  if min(len(first), len(second)) < 3:
    return 1.0
  parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
  growth = float(np.mean(second) - np.mean(first))
  if not sum(parts) > 0:
    return float(growth <= 0)
  freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1))
  return float(special.stdtr(freedom, -growth / math.sqrt(sum(parts))))


def _distances(groups: Sequence[np.ndarray]) -> np.ndarray:
  """Distances of all values from the medians of their groups; groups of one value say nothing."""
  distances = [np.zeros(0)]
  for values in groups:
    if len(values) > 1:
      distances.append(np.abs(values - np.median(values)))
  return np.concatenate(distances)
