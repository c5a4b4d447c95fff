"""What noise alone does where the best of several noisy tries is kept.

A loop of the form "run a try, keep it if it scores better than the one that stands" collects luck:
the more tries, the better the best of them looks. Both scores of a comparison are single runs, so
each has the noise between seeds. Scores are normal here and more is better; gains are in units of
the standard deviation between seeds.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import integrate, optimize, special, stats

from aevo_jax.stats.intervals import Interval

# Normal scores on which integrands are summed; beyond them the density is 0 in double precision.
_SCORES = np.linspace(-38.0, 38.0, 1521)
_DENSITY = stats.norm.pdf(_SCORES)
# Probability beyond each end of the estimated standard deviations that are integrated over.
_NEGLIGIBLE = 1e-16
_DEVIATIONS = 201


def best_gain_p(gain: float, tries: int, freedom: float | None = None) -> float:
  """Computes P(the best of k tries without effect scores `gain` above the one that stands).

  With e_0, ..., e_k independent and standard normal, e_0 that of the one that stands, it is

      P(max(e_1, ..., e_k) - e_0 >= g) = integral phi(z) (1 - Phi(z + g)^k) dz,

  which is 1 - Phi(g / sqrt 2) for one try, and k / (k + 1) at g = 0:

      >>> round(best_gain_p(0.0, 4), 6), round(best_gain_p(2.0**0.5 * 1.96, 1), 3)
      (0.8, 0.025)

  Args:
    gain: g, in standard deviations between seeds.
    tries: k, 1 or more.
    freedom: degrees of freedom of the standard deviation, if it was estimated from other runs; the
      probability is then that of g S, with S^2 a chi-squared over its degrees of freedom. None if
      it is known.

  Returns:
    A one-sided p value.
  """
  if freedom is None:
    return float(_tail(np.array([gain]), tries)[0])
  low = max(float(stats.chi.ppf(_NEGLIGIBLE, freedom)), _NEGLIGIBLE)
  high = float(stats.chi.isf(_NEGLIGIBLE, freedom))
  logarithms = np.linspace(np.log(low), np.log(high), _DEVIATIONS)
  deviations = np.exp(logarithms)
  weights = stats.chi.pdf(deviations, freedom) * deviations
  tails = _tail(gain * deviations / np.sqrt(freedom), tries)
  total = integrate.trapezoid(weights, logarithms)
  return float(integrate.trapezoid(weights * tails, logarithms) / total)


def _tail(gains: np.ndarray, tries: int) -> np.ndarray:
  """`best_gain_p` for a known standard deviation, of each gain."""
  log_below = special.log_ndtr(_SCORES + gains[:, None])
  return integrate.trapezoid(-np.expm1(tries * log_below) * _DENSITY, _SCORES, axis=-1)


def kept_gain_p(gain: float, tries: int, freedom: float | None = None) -> float:
  """Computes the p value of a gain that was kept because it is above 0.

  Only gains above 0 are kept, so the distribution without effect is that of the best of k tries,
  given that it is above the one that stands: `best_gain_p` by its value at 0, k / (k + 1). The
  probability of a value <= p is at most p too where a loop stops at the first try that is better
  (which favours small gains after many tries), where some of the k tries are worse than the one
  that stands, and where that one had itself been lucky.

      >>> round(kept_gain_p(2.0**0.5 * 1.96, 1), 3), kept_gain_p(-1.0, 3)
      (0.05, 1.0)

  Args:
    gain: in standard deviations between seeds.
    tries: k, those since the latest that was kept, this one included.
    freedom: as in `best_gain_p`.

  Returns:
    A one-sided p value; 1 for a gain of 0 or less.
  """
  if gain <= 0:
    return 1.0
  return min(best_gain_p(gain, tries, freedom) * (tries + 1) / tries, 1.0)


@functools.lru_cache(maxsize=1024)
def best_gain_quantile(level: float, tries: int, freedom: float | None = None) -> float:
  """Finds the gain that the best of k tries without effect exceeds with probability 1 - level.

      >>> round(best_gain_quantile(0.975, 1), 3)
      2.772

  Args:
    level: in (0, 1).
    tries: k.
    freedom: as in `best_gain_p`.

  Returns:
    A gain, in standard deviations between seeds.
  """
  return _solve(lambda gain: best_gain_p(gain, tries, freedom) - (1 - level))


def detectable_gain(alpha: float, power: float, tries: int, freedom: float | None = None) -> float:
  """Computes the true gain of a try that `kept_gain_p` finds at a level with some power.

  It is a gain over the score that stands on record, which may owe something to luck itself. So the
  noise of the try alone is left, and the gain is the critical one + z_power.

      >>> round(detectable_gain(0.05, 0.8, 1), 2)  # sqrt 2 x 1.96 + .84
      3.61

  Args:
    alpha: level of the p value.
    power: probability that it is at most alpha.
    tries: k.
    freedom: as in `best_gain_p`.

  Returns:
    A gain, in standard deviations between seeds.
  """
  needed = _solve(lambda gain: best_gain_p(gain, tries, freedom) * (tries + 1) / tries - alpha)
  return needed + float(special.ndtri(power))


def _solve(excess: Callable[[float], float]) -> float:
  """The gain at which a decreasing function is 0."""
  low = -1.0
  high = 1.0
  while excess(low) < 0:
    low *= 2
  while excess(high) > 0:
    high *= 2
  return float(optimize.root_scalar(excess, bracket=(low, high), xtol=1e-9).root)


class Records(NamedTuple):
  """How many tries are kept: the expected number, and an interval that has it."""

  mean: float
  interval: Interval


def records(tries: Sequence[int], confidence: float) -> Records:
  """Computes how many tries are kept if none has an effect.

  The t-th score of a sequence is the best so far with probability 1 / t, independently of the
  others, whatever the noise is (Renyi 1962). The run that stands at the beginning is the first, so
  the number is Poisson binomial.

      >>> one = records([3], 0.9)
      >>> round(one.mean, 4) == round(1 / 2 + 1 / 3 + 1 / 4, 4), one.interval
      (True, Interval(low=0.0, high=2.0))

  Args:
    tries: of each stretch that begins with a run that stands.
    confidence: of the interval, two-sided.

  Returns:
    The mean and the interval over all stretches together.
  """
  odds = [0.0]
  for stretch in tries:
    odds += [1 / place for place in range(2, stretch + 2)]
  mean = float(sum(odds))
  # Ten standard deviations at least, for the variance is below the mean. `ppf` takes few odds.
  counts = np.arange(math.ceil(mean + 10 * math.sqrt(mean)) + 1)
  below = stats.poisson_binom.cdf(np.minimum(counts, len(odds)), odds)
  beyond = (1 - confidence) / 2
  low = int(np.argmax(below >= beyond))
  high = int(np.argmax(below >= 1 - beyond))
  return Records(mean, Interval(float(low), float(high)))
