"""Student's t tests of a difference of two means, with standard deviations from elsewhere."""

import math
from typing import NamedTuple

from scipy import special


def gain_p(gain: float, sd: float, freedom: int, looks: int, anchors: int) -> float:
  """Computes the one-sided p value of a gain: P(T >= gain / (sd sqrt(1 / looks + 1 / anchors))).

  T has Student's t distribution (Student 1908). The standard deviation is that between seeds of one
  recipe and is estimated apart, so its degrees of freedom are those of that estimate.

      >>> gain_p(0.0, 0.1, 5, 2, 8)
      0.5

  Args:
    gain: mean of the looks less mean of the anchors.
    sd: standard deviation of one score.
    freedom: degrees of freedom of `sd`; fewer than 1 count as 1.
    looks: scores behind the first mean.
    anchors: scores behind the second mean.

  Returns:
    A probability; that of a loss is `gain_p(-gain, ...)`.
  """
  error = sd * math.sqrt(1 / looks + 1 / anchors)
  return float(special.stdtr(max(freedom, 1), -gain / error))


class Sample(NamedTuple):
  """What a mean rests on.

  Attributes:
    sd: standard deviation of one score.
    freedom: degrees of freedom of `sd`, 1 or more.
    count: scores behind the mean.
  """

  sd: float
  freedom: float
  count: float

  @property
  def variance(self) -> float:
    """Squared standard error of the mean."""
    return self.sd**2 / self.count


class Error(NamedTuple):
  """Standard error of a difference of means, and its degrees of freedom."""

  se: float
  freedom: float


def welch(one: Sample, other: Sample) -> Error:
  """Computes the error of a difference of means with unequal variances.

  se^2 = s1^2 / n1 + s2^2 / n2, with the degrees of freedom se^4 / sum_i (s_i^2 / n_i)^2 / f_i
  (Welch 1947, Satterthwaite 1946).

      >>> welch(Sample(0.3, 3, 4), Sample(0.3, 3, 4)).freedom
      6.0

  Args:
    one: behind the first mean.
    other: behind the second mean.

  Returns:
    The standard error and its degrees of freedom.
  """
  total = one.variance + other.variance
  spread = one.variance**2 / one.freedom + other.variance**2 / other.freedom
  return Error(math.sqrt(total), total**2 / spread)


def welch_p(gain: float, one: Sample, other: Sample) -> float:
  """Computes the one-sided p value of a gain with unequal variances: P(T >= gain / se).

  Args:
    gain: first mean less the second.
    one: behind the first mean.
    other: behind the second mean.

  Returns:
    A probability.
  """
  error = welch(one, other)
  return float(special.stdtr(error.freedom, -gain / error.se))
