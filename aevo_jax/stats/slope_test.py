"""The slope of external on dev within rounds, and a one-sided test that it fell.

The slope, not the correlation: noise of the external score, or scoring only the best trials by dev,
lowers a correlation and leaves the slope as it is. Both scores are taken as log-odds where they are
accuracies, so that a slope stays as it is when levels drift towards 0 or 1. Standard errors are
HC3 (MacKinnon and White 1985), which hold where the residuals of some trials are larger than those
of others, and the two slopes are compared as Welch compares means.

Noise of dev (few items) attenuates the slope by lambda = 1 - var_item / var_observed. Policies that
converge shrink the spread between trials and with it lambda. So the reference is scaled by
lambda_now / lambda_reference before it is compared, lambda_now being the least that the observed
spread allows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

# Probability that dev's true spread is below the bound that the reference is scaled by.
CAUTION = 0.1
# Residual degrees of freedom of a slope that is compared: Satterthwaite's approximation is too
# liberal below.
LEAST_FREEDOM = 4
# Share of a residual that a trial's own leverage leaves, at least: beyond it the trial alone
# decides the slope.
_LEAST_LEFT = 1e-3


class Round(NamedTuple):
  """Scores of one round's trials on one scale, log-odds where they are accuracies.

  Attributes:
    dev: [trials].
    external: [trials].
    item_variance: of a dev score, by what its items do to one trial and not to another; None where
      it is not known.
  """

  dev: Sequence[float]
  external: Sequence[float]
  item_variance: float | None


class Slope(NamedTuple):
  """The slope of external on dev over some rounds.

  Attributes:
    value: external per dev; nan where dev has no spread.
    variance: its squared standard error, HC3.
    freedom: residual degrees of freedom: trials less rounds less 1.
    spread: variance of dev between the trials of a round.
    item_variance: of dev by its items, mean over trials; nan where it is not known.
    trials: behind it.
  """

  value: float
  variance: float
  freedom: int
  spread: float
  item_variance: float
  trials: int

  @property
  def reliability(self) -> float:
    """lambda: the share of dev's variance that is not item noise, at least 0; nan if unknown."""
    if not self.spread > 0:
      return 0.0
    return float(np.maximum(1 - self.item_variance / self.spread, 0.0))

  @property
  def least_reliability(self) -> float:
    """`reliability` if the observed variance is at its lower confidence bound.

    The bound is one-sided, at `CAUTION`, for normal scores.
    """
    between = self.freedom + 1
    bound = float(special.chdtri(between, CAUTION)) / between
    return float(np.maximum(1 - (1 - self.reliability) * bound, 0.0))

  @property
  def comparable(self) -> bool:
    """Whether there is a slope with enough degrees of freedom."""
    return self.spread > 0 and self.freedom >= LEAST_FREEDOM


def log_odds(accuracies: Sequence[float] | np.ndarray, items: int) -> np.ndarray:
  """Computes log-odds, with half an item added on each side so that they are finite.

      >>> log_odds([0.5, 1.0], 100).round(3).tolist()
      [0.0, 5.303]

  Args:
    accuracies: [trials] shares of right answers.
    items: behind each.

  Returns:
    [trials] log-odds.
  """
  right = np.asarray(accuracies, np.float64) * items
  return np.log((right + 0.5) / (items - right + 0.5))


def slope(rounds: Sequence[Round]) -> Slope:
  """Fits the slope over some rounds, each trial centred on its round, with its HC3 error.

      Var(b) = sum_i (x_i r_i / (1 - h_i))^2 / (sum_i x_i^2)^2

  x_i is the centred dev score, r_i the residual and h_i the leverage, 1 / (trials of the round) +
  x_i^2 / sum x^2 (MacKinnon and White 1985, eq. 12).

      >>> slope([Round([0.0, 1.0, 2.0], [1.0, 3.0, 5.0], None)]).value
      2.0

  Args:
    rounds: of two trials or more each; others are left out.

  Returns:
    The slope. Where no round is left, its spread is 0.
  """
  return of_trials(joined([centred(each) for each in rounds]))


class Trials(NamedTuple):
  """Trials of some rounds, of two trials or more each, from which a slope follows.

  Attributes:
    dev: [trials], each less the mean of its round.
    external: likewise.
    parts: [trials], 1 / (trials of the round).
    item: sum over rounds of (trials - 1) x variance of dev by its items; nan where unknown.
    rounds: how many.
  """

  dev: np.ndarray
  external: np.ndarray
  parts: np.ndarray
  item: float
  rounds: int


def centred(each: Round) -> Trials:
  """Centres the trials of one round; none are left of a round with fewer than two.

  Args:
    each: the round.
  """
  n = len(each.dev)
  if n < 2:
    return Trials(np.zeros(0), np.zeros(0), np.zeros(0), 0.0, 0)
  item = np.nan if each.item_variance is None else (n - 1) * each.item_variance
  return Trials(_centred(each.dev), _centred(each.external), np.full(n, 1 / n), item, 1)


def joined(parts: Sequence[Trials]) -> Trials:
  """Joins the trials of different rounds.

  Args:
    parts: of any number.
  """
  nothing = np.zeros(0)
  return Trials(
    np.concatenate([nothing, *(each.dev for each in parts)]),
    np.concatenate([nothing, *(each.external for each in parts)]),
    np.concatenate([nothing, *(each.parts for each in parts)]),
    sum((each.item for each in parts), 0.0),
    sum(each.rounds for each in parts),
  )


def of_trials(trials: Trials) -> Slope:
  """Fits the slope over centred trials, see `slope`.

  Args:
    trials: of some rounds.
  """
  x = trials.dev
  y = trials.external
  squares = float(x @ x)
  between = len(x) - trials.rounds
  spread = squares / between if between else 0.0
  item_variance = trials.item / between if between else np.nan
  if not squares > 0:
    return Slope(np.nan, np.nan, between - 1, 0.0, item_variance, len(x))
  value = float(x @ y) / squares
  left = 1 - trials.parts - np.square(x) / squares
  # What rounding leaves of a perfect line is no residual.
  residuals = np.maximum(np.abs(y - value * x), 1e-6 * np.abs(y).max(initial=0.0))
  errors = x * residuals / np.maximum(left, _LEAST_LEFT)
  variance = float(errors @ errors) / squares**2
  return Slope(value, variance, between - 1, spread, item_variance, len(x))


def _centred(values: Sequence[float]) -> np.ndarray:
  """Each value less the mean; exactly 0 where all are the same."""
  shifted = np.asarray(values, np.float64) - values[0]
  return shifted - shifted.mean()


def positive_p(slope: Slope) -> float:
  """Computes the one-sided p value of a slope above 0, by Student's t.

      >>> positive_p(Slope(0.0, 1.0, 8, 1.0, 0.0, 10))
      0.5

  Args:
    slope: of any rounds.

  Returns:
    The p value; 1 where there is no slope to compare.
  """
  if not slope.comparable:
    return 1.0
  if slope.value == 0:
    return 0.5
  with np.errstate(divide='ignore'):
    statistic = slope.value / np.sqrt(slope.variance)
  return float(special.stdtr(slope.freedom, -statistic))


class Fall(NamedTuple):
  """A test that a slope fell.

  Attributes:
    p: one-sided, of a slope below the scaled reference; 1 where it cannot be tested.
    statistic: Welch's t.
    freedom: Satterthwaite's degrees of freedom.
    drop: scaled reference - slope, external per dev.
    error: standard error of the drop.
    ratio: (least) lambda_now / lambda_reference; 1 where item noise is unknown.
  """

  p: float
  statistic: float
  freedom: float
  drop: float
  error: float
  ratio: float


def fell(reference: Slope, now: Slope) -> Fall:
  """Tests whether the slope fell below the reference (Welch 1947).

      t = (ratio b_reference - b_now) / sqrt(ratio^2 var_reference + var_now)

  The ratio of reliabilities is held within [0, 1]: a larger spread than in the reference would
  raise the slope that is expected, and with eight trials that is as often chance as it is true.

      >>> fell(Slope(1.0, 0.01, 12, 1.0, 0.0, 14), Slope(0.0, 0.01, 12, 1.0, 0.0, 14)).p < 1e-4
      True

  Args:
    reference: of the calibration rounds.
    now: of the rounds that are judged.

  Returns:
    The test.
  """
  before = reference.reliability
  ratio = 1.0
  if before > 0 and not np.isnan(now.item_variance):
    ratio = float(np.clip(now.least_reliability / before, 0.0, 1.0))
  if not reference.comparable or not now.comparable or before == 0:
    return Fall(1.0, 0.0, LEAST_FREEDOM, 0.0, np.nan, ratio)
  drop = ratio * reference.value - now.value
  first = ratio**2 * reference.variance
  second = now.variance
  error = np.sqrt(first + second)
  if error == 0:  # two perfect lines: certainty, and no drop is no evidence
    statistic = 0.0 if drop == 0 else float(np.copysign(np.inf, drop))
    return Fall(float(drop <= 0), statistic, np.inf, drop, 0.0, ratio)
  freedom = (first + second) ** 2 / (first**2 / reference.freedom + second**2 / now.freedom)
  statistic = float(drop / error)
  return Fall(
    float(special.stdtr(freedom, -statistic)), statistic, float(freedom), drop, float(error), ratio
  )


def minimum_detectable_drop(fall: Fall, level: float, power: float) -> float:
  """Computes the true drop that the test detects: error (t_{1 - level} + t_power).

      >>> round(minimum_detectable_drop(Fall(1.0, 1.0, 30.0, 1.0, 1.0, 1.0), 0.05, 0.5), 3)
      1.697

  Args:
    fall: a test, which gives the standard error and the degrees of freedom.
    level: p value at which the test alarms.
    power: probability of an alarm.

  Returns:
    A drop of the slope, external per dev.
  """
  quantiles = special.stdtrit(fall.freedom, 1 - level) + special.stdtrit(fall.freedom, power)
  return float(fall.error * quantiles)
