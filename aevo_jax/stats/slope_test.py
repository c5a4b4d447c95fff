"""The slope of external on dev within rounds, and a one-sided Welch test that it fell.

The slope, not the correlation: noise of the external score, or scoring only the best trials by dev,
lowers a correlation and leaves the slope as it is. Noise of dev (few items) attenuates the slope by
lambda = 1 - var_item / var_observed. Policies that converge shrink the spread between trials and
with it lambda. So the reference is scaled by lambda_now / lambda_reference before it is compared,
lambda_now being the least that the observed spread allows.

All functions work on numbers and, element by element, on arrays.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from aevo_jax.stats.concordance import centred_sums

# Probability that dev's true spread is below the bound that the reference is scaled by.
CAUTION = 0.1
# Residual degrees of freedom of a slope that is compared: Satterthwaite's approximation is too
# liberal below.
LEAST_FREEDOM = 4


@dataclasses.dataclass(frozen=True)
class Moments:
  """Sums over trials, each trial centred on its round; numbers, or arrays of one shape.

  Attributes:
    n: trials.
    groups: rounds they come from.
    sxx: sum of squares of dev (x).
    sxy: sum of products of dev and external.
    syy: sum of squares of external (y).
    item: sum over rounds of (trials - 1) x variance of dev by its items, which is what item noise
      adds to sxx; nan where unknown.
  """

  n: float | np.ndarray
  groups: float | np.ndarray
  sxx: float | np.ndarray
  sxy: float | np.ndarray
  syy: float | np.ndarray
  item: float | np.ndarray = np.nan

  @classmethod
  def of_round(
    cls, dev: Sequence[float], external: Sequence[float], item_variance: float | None
  ) -> 'Moments':
    """Computes one round's moments.

    Args:
      dev: [trials].
      external: [trials].
      item_variance: variance of a dev score by its items; None where unknown.

    Returns:
      Moments of one group.
    """
    item = np.nan if item_variance is None else (len(dev) - 1) * item_variance
    return cls(len(dev), 1, **centred_sums(dev, external), item=item)

  @property
  def freedom(self):
    """Residual degrees of freedom."""
    return self.n - self.groups - 1

  @property
  def spread(self):
    """Variance of dev between trials of a round."""
    return self.sxx / np.maximum(self.n - self.groups, 1)

  @functools.cached_property
  def reliability(self):
    """lambda: the share of dev's variance that is not item noise, 0 or more; nan where unknown."""
    with np.errstate(divide='ignore', invalid='ignore'):
      share = np.maximum(1 - np.divide(self.item, self.sxx), 0)
      known = np.where(np.asarray(self.sxx) > 0, share, 0)
      return np.where(np.isnan(self.item), np.nan, known)

  @functools.cached_property
  def least_reliability(self):
    """`reliability` if the observed variance is at its lower confidence bound.

    The bound is one-sided, at `CAUTION`, for normal scores.
    """
    freedom = np.maximum(self.n - self.groups, 1)
    return np.maximum(1 - (1 - self.reliability) * special.chdtri(freedom, CAUTION) / freedom, 0)

  @functools.cached_property
  def slope(self):
    """External per dev; nan where dev has no spread."""
    with np.errstate(divide='ignore', invalid='ignore'):
      return np.where(np.asarray(self.sxx) > 0, np.divide(self.sxy, self.sxx), np.nan)

  @functools.cached_property
  def variance(self):
    """Squared standard error of the slope.

    The residual sum of squares is at least what rounding leaves of syy.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
      residual = np.maximum(
        self.syy - np.divide(np.square(self.sxy), self.sxx), 1e-12 * np.asarray(self.syy)
      )
      return np.divide(residual / np.maximum(self.freedom, 1), self.sxx)

  @functools.cached_property
  def comparable(self):
    """Whether there is a slope with enough degrees of freedom."""
    return (np.asarray(self.sxx) > 0) & (self.freedom >= LEAST_FREEDOM)


def pool(rounds: Sequence[Moments]) -> Moments:
  """Adds up the moments of rounds.

      >>> pool([Moments(2, 1, 1.0, 1.0, 1.0), Moments(3, 1, 2.0, 1.0, 1.0)]).sxx
      3.0

  Args:
    rounds: of any number. Rounds without known item noise make that of the sum unknown.

  Returns:
    Their moments together; zeros if there are none.
  """
  totals = {}
  for field in dataclasses.fields(Moments):
    totals[field.name] = sum((getattr(m, field.name) for m in rounds), 0.0)
  return Moments(**totals)


def positive_p(moments: Moments) -> np.ndarray:
  """Computes the one-sided p value of a slope above 0, by Student's t.

      >>> float(positive_p(Moments(8, 1, 1.0, 0.0, 1.0)))
      0.5

  Args:
    moments: of any shape.

  Returns:
    p values of that shape; 1 where there is no slope to compare.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    t = np.where(moments.slope == 0, 0.0, moments.slope / np.sqrt(moments.variance))
  return np.where(moments.comparable, special.stdtr(np.maximum(moments.freedom, 1), -t), 1.0)


class Fall(NamedTuple):
  """A Welch test.

  Attributes:
    p: one-sided, of a slope below the scaled reference; 1 where it cannot be tested.
    statistic: Welch's t.
    freedom: Satterthwaite's degrees of freedom.
    drop: scaled reference - slope, external per dev.
    error: standard error of the drop.
    ratio: (least) lambda_now / lambda_reference; 1 where item noise is unknown.
  """

  p: np.ndarray
  statistic: np.ndarray
  freedom: np.ndarray
  drop: np.ndarray
  error: np.ndarray
  ratio: np.ndarray


def fell(reference: Moments, now: Moments, up_to: float = 1.0, cautious: bool = True) -> Fall:
  """Tests whether the slope fell below the reference (Welch 1947).

      t = (ratio b_reference - b_now) / sqrt(ratio^2 var_reference + var_now)

  The ratio of reliabilities is held within [0, 1]: a larger spread than in the reference would
  raise the slope that is expected, and with eight trials that is as often chance as it is true.

      >>> before, now = Moments(9, 1, 1.0, 1.0, 1.1), Moments(9, 1, 1.0, 0.0, 1.0)
      >>> bool(fell(before, now).p < 0.05)
      True

  Args:
    reference: moments of the calibration rounds.
    now: moments of the rounds that are judged, of the same shape.
    up_to: a p value certain to exceed it may be given as 1, which saves a replay most of its time.
    cautious: takes the least reliability that the observed spread allows now. The estimate itself
      is by chance too high as often as too low. Far out in the tail, where a campaign's critical p
      lies, that alone gives two to four times the nominal rate of alarms.

  Returns:
    The test, element by element.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    before = reference.reliability
    after = now.least_reliability if cautious else now.reliability
    testable = reference.comparable & now.comparable & ~(before == 0)
    known = testable & ~np.isnan(before) & ~np.isnan(after)
    ratio = np.where(known, np.clip(after / before, 0.0, 1.0), 1.0)
    drop = ratio * reference.slope - now.slope
    first = ratio**2 * reference.variance
    second = now.variance
    freedom = (first + second) ** 2 / (
      first**2 / np.maximum(reference.freedom, 1) + second**2 / np.maximum(now.freedom, 1)
    )
    freedom = np.where(np.isfinite(freedom), freedom, LEAST_FREEDOM)
    error = np.sqrt(first + second)
    # No error at all is certainty, and no drop is no evidence.
    statistic = np.where(drop == 0, 0.0, drop / error)
    # Student's tail is above the normal one: below the normal quantile, p exceeds `up_to`.
    worth = np.asarray(testable & (statistic >= special.ndtri(1 - up_to)))
    p = np.ones(worth.shape)
    p[worth] = special.stdtr(
      np.broadcast_to(freedom, worth.shape)[worth], -np.broadcast_to(statistic, worth.shape)[worth]
    )
    return Fall(p, statistic, freedom, drop, error, ratio)


def minimum_detectable_drop(fall: Fall, critical_p: float, power: float) -> float:
  """Computes the true drop that the test detects: error (t_{1 - critical_p} + t_power).

      >>> one = np.float64(1.0)
      >>> round(minimum_detectable_drop(Fall(one, one, 30.0, one, one, one), 0.05, 0.5), 3)
      1.697

  Args:
    fall: a test of one stream, which gives the standard error and the degrees of freedom.
    critical_p: p value at which the test alarms.
    power: probability of an alarm.

  Returns:
    A drop of the slope, external per dev.
  """
  quantiles = special.stdtrit(fall.freedom, 1 - critical_p) + special.stdtrit(fall.freedom, power)
  return float(fall.error * quantiles)
