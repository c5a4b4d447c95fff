"""Student's t test of a difference of two means, with a standard deviation from elsewhere."""

import math

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
