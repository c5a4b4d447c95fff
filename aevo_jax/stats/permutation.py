"""The exact permutation test of two arms, stratified by round, on numbers of items that are right.

Within a round every way to call some of the trials revised is as likely as any other if the
revision does nothing. The statistic is the sum over rounds of what the revised trials get right,
which weighs a round's difference of means by n_r n_c / (n_r + n_c). Its distribution is the
convolution of the rounds' distributions, each counted over all subsets, so the p value is exact
(Fisher 1935). Ties count against the claim.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Stratum(NamedTuple):
  """One round: how many items each trial of either arm got right, of the same number of items."""

  revised: Sequence[int]
  control: Sequence[int]


class Comparison(NamedTuple):
  """A test of two arms.

  Attributes:
    difference: revised minus control, in items; weighted mean over rounds.
    p_value: one-sided, of the claim that the revised arm is better.
    least: the p value if every revised trial had beaten every control trial. Few trials cannot get
      below it.
  """

  difference: float
  p_value: float
  least: float


class _Sums(NamedTuple):
  """counts: subsets with each sum, from the sum `lowest` on."""

  counts: np.ndarray
  lowest: int


def compare(strata: Sequence[Stratum]) -> Comparison | None:
  """Tests whether the revised arm is better than the control arm.

      >>> compare([Stratum(revised=[9, 8], control=[3, 4])])
      Comparison(difference=5.0, p_value=0.16666666666666666, least=0.16666666666666666)

  Args:
    strata: one for each round; those that lack an arm are left out.

  Returns:
    The test over all rounds that have both arms; None if there is no such round.
  """
  strata = [s for s in strata if s.revised and s.control]
  if not strata:
    return None
  distribution = np.ones(1)
  offset = observed = 0
  weighted = weights = 0.0
  ways = 1
  for revised, control in strata:
    sums = _subset_sums([*revised, *control], len(revised))
    distribution = np.convolve(distribution, sums.counts / sums.counts.sum())
    offset += sums.lowest
    observed += sum(revised)
    ways *= math.comb(len(revised) + len(control), len(revised))
    weight = len(revised) * len(control) / (len(revised) + len(control))
    weighted += weight * (float(np.mean(revised)) - float(np.mean(control)))
    weights += weight
  p_value = float(min(1.0, distribution[observed - offset :].sum()))
  return Comparison(weighted / weights, p_value, 1 / ways)


def _subset_sums(values: Sequence[int], size: int) -> _Sums:
  """Counts the subsets of `size` by their sum."""
  floor = min(values)
  shifted = [v - floor for v in values]
  top = sum(sorted(shifted)[-size:])
  counts = np.zeros((size + 1, top + 1))
  counts[0, 0] = 1
  for value in shifted:
    for chosen in range(size, 0, -1):
      counts[chosen, value:] += counts[chosen - 1, : top + 1 - value]
  return _Sums(counts[size], floor * size)
