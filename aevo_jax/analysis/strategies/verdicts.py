"""Which mesh is faster, from times of steps that were taken in turns, and whether it was predicted.

Arms run a few steps each, one after the other, in several rounds. A round gives each arm one time,
the median of its steps. Compared are logarithms of ratios within a round, mesh over baseline, so
that a machine that is slower in some rounds is slower for both. Their mean over rounds has an
interval by Student's t (`scipy.stats.t`): few rounds, whose medians are near normal.

The control runs the baseline's program a second time. How far its interval reaches away from no
difference, at its farther end, is the control's spread: so much two equal arms may differ here. A
mesh is adopted where its mean is faster by more than that, rejected where it is slower by more; in
both cases its own interval must leave out no difference, since one arm may be noisier than another.
Of equal arms about 1 of 100 comparisons says one of the two when noise is normal
(`tests/analysis/test_verdicts.py` simulates it).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

ADOPT = 'adopt'
REJECT = 'reject'
BELOW = "below the control's spread"
CONFIDENCE = 0.95


class Difference(NamedTuple):
  """How much longer an arm's steps take than the baseline's.

  Attributes:
    mean: logarithm of the ratio.
    low, high: ends of its interval.
    rounds: of which it is the mean.
  """

  mean: float
  low: float
  high: float
  rounds: int

  @property
  def farthest(self) -> float:
    """How far the interval reaches away from no difference."""
    return max(abs(self.low), abs(self.high))


def difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference | None:
  """Compares an arm with the baseline, round by round.

  Args:
    arm: seconds of a step in each round.
    baseline: as many or more; rounds that one of them has not do not count.

  Returns:
    The difference; None of fewer than two rounds, of which there is no interval.
  """
  rounds = min(len(arm), len(baseline))
  if rounds < 2:
    return None
  logarithms = np.log(arm[:rounds]) - np.log(baseline[:rounds])
  mean = float(np.mean(logarithms))
  error = float(scipy.stats.sem(logarithms))
  half = error * float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, rounds - 1))
  return Difference(mean, mean - half, mean + half, rounds)


def verdict(found: Difference | None, control: Difference | None) -> str:
  """Judges an arm.

  Args:
    found: of the arm.
    control: of the control.

  Returns:
    `ADOPT`, `REJECT` or `BELOW`; '' where one of them has no interval.
  """
  if found is None or control is None:
    return ''
  if found.mean < -control.farthest and found.high < 0:
    return ADOPT
  if found.mean > control.farthest and found.low > 0:
    return REJECT
  return BELOW


def percent(logarithm: float) -> float:
  """Returns a logarithm of a ratio as percent more."""
  return 100 * math.expm1(logarithm)


class Agreement(NamedTuple):
  """Whether meshes are measured in the order that was predicted.

  Attributes:
    tau: Kendall's tau-b: 1 is the same order, 0 none, -1 the opposite.
    p: of as much agreement or opposition by chance, exact where no two are equal.
    meshes: that were compared.
  """

  tau: float
  p: float
  meshes: int


def agreement(predicted: Mapping[str, float], measured: Mapping[str, float]) -> Agreement | None:
  """Compares the order of predicted and of measured times.

  Kendall's tau is chosen over Spearman's rho for its meaning with few meshes: of all pairs, those
  that were predicted the right way round, less those the wrong way.

  Args:
    predicted: seconds by mesh.
    measured: seconds by mesh.

  Returns:
    The agreement on the meshes that are in both; None for fewer than three.
  """
  names = sorted(predicted.keys() & measured.keys())
  if len(names) < 3:
    return None
  found = scipy.stats.kendalltau(
    [predicted[name] for name in names], [measured[name] for name in names]
  )
  return Agreement(float(found.statistic), float(found.pvalue), len(names))
