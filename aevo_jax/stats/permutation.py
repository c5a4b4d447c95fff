"""Did one arm beat the other? The exact permutation test, stratified by round, on numbers of items
that were right.

Within a round every way to call some of the trials revised is as likely as any other if the
revision did nothing. The statistic is the sum over rounds of what the revised trials got right,
which weighs a round's difference of means by n_r n_c / (n_r + n_c); its distribution is the
convolution of the rounds', each counted over all subsets, so the p value is exact (Fisher 1935;
ties count against the claim).
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
  """difference: weighted mean over rounds, revised minus control, in items. p_value: one-sided,
  that the revised arm is not better. least: the p value if every revised trial had beaten every
  control trial, which few trials cannot get below."""

  difference: float
  p_value: float
  least: float


def compare(strata: Sequence[Stratum]) -> Comparison | None:
  """The test over all rounds that have both arms; None if there is none."""
  strata = [s for s in strata if s.revised and s.control]
  if not strata:
    return None
  distribution, offset, observed, weighted, weights, ways = np.ones(1), 0, 0, 0.0, 0.0, 1
  for revised, control in strata:
    counts, low = _subset_sums([*revised, *control], len(revised))
    distribution = np.convolve(distribution, counts / counts.sum())
    offset, observed = offset + low, observed + sum(revised)
    ways *= math.comb(len(revised) + len(control), len(revised))
    weight = len(revised) * len(control) / (len(revised) + len(control))
    weighted, weights = (
      weighted + weight * (float(np.mean(revised)) - float(np.mean(control))),
      weights + weight,
    )
  return Comparison(
    weighted / weights, float(min(1.0, distribution[observed - offset :].sum())), 1 / ways
  )


def _subset_sums(values: Sequence[int], size: int) -> tuple[np.ndarray, int]:
  """How many subsets of `size` have each sum, from the least sum on; and that sum."""
  floor = min(values)
  shifted = [v - floor for v in values]
  top = sum(sorted(shifted)[-size:])
  counts = np.zeros((size + 1, top + 1))
  counts[0, 0] = 1
  for value in shifted:
    for chosen in range(size, 0, -1):
      counts[chosen, value:] += counts[chosen - 1, : top + 1 - value]
  return counts[size], floor * size
