"""Fixed-point numbers of two decimals, as integer counts of hundredths, so that rounding is exact.

The two number families share them: y = k/100 * m with a hidden k, shown rounded to two decimals
(halves away from zero).
"""

import random
from collections.abc import Sequence
from typing import NamedTuple


class Observation(NamedTuple):
  """One example: value = round_div(k * multiplicand, denominator) for the hidden k."""

  value: int
  multiplicand: int
  denominator: int


def hundredths_text(value: int) -> str:
  """Writes an integer count of hundredths as a decimal with two places."""
  return f'{value // 100}.{value % 100:02d}'


def round_div(numerator: int, denominator: int) -> int:
  """Returns numerator / denominator for non-negative integers, halves rounded up."""
  return (2 * numerator + denominator) // (2 * denominator)


def long_product(number: int, x: int) -> str:
  """Writes number * x digit by digit from the right, with carries.

  Args:
    number: the factor that is taken apart, >= 0.
    x: the factor of every step.

  Returns:
    One equation a digit: 444 * 8 is `4*8=32 4*8+3=35 4*8+3=35`, read 35 5 2.
  """
  equations = []
  carry = 0
  for character in reversed(str(number)):
    digit = int(character)
    value = digit * x + carry
    added = f'+{carry}' if equations else ''
    equations.append(f'{digit}*{x}{added}={value}')
    carry = value // 10
  return ' '.join(equations)


def multipliers(observation: Observation) -> range:
  """Returns every k that gives the observation: an interval, since rounding is monotone."""
  value, multiplicand, denominator = observation
  first = -(-(2 * value - 1) * denominator // (2 * multiplicand))
  end = -(-(2 * value + 1) * denominator // (2 * multiplicand))
  return range(first, end)


def consistent_factors(bounds: tuple[int, int], observations: Sequence[Observation]) -> range:
  """Intersects the factors that every example allows.

  Args:
    bounds: the least and the largest factor of the rule class, both included.
    observations: the shown examples.

  Returns:
    The factors of the class that reproduce all of them; never empty for examples of a true one.
  """
  low, high = bounds
  end = high + 1
  for observation in observations:
    allowed = multipliers(observation)
    low = max(low, allowed.start)
    end = min(end, allowed.stop)
  return range(low, end)


def sample_hundredths(rng: random.Random, kind: str, low: int, high: int) -> int:
  """Samples a hidden factor.

  Args:
    rng: the puzzle's generator.
    kind: 'tenths' for a number of one decimal, 'hundredths' for one that needs two.
    low: least count of hundredths, included.
    high: largest, included.

  Returns:
    A count of hundredths.
  """
  if kind == 'tenths':
    return 10 * rng.randint(-(-low // 10), high // 10)
  while True:
    value = rng.randint(low, high)
    if value % 10:
      return value
