"""Comparisons of an answer with a key, of which each puzzle family declares one for `strict`."""

import math
import re

RELATIVE_TOLERANCE = 1e-2
ABSOLUTE_TOLERANCE = 1e-5

# Neither inf nor nan nor an exponent is a plain decimal, and of other scripts no digit is one.
DECIMAL = re.compile(r'[+-]?(\d+(\.\d*)?|\.\d+)', re.ASCII)


def same_text(answer: str, key: str) -> bool:
  """Whether the texts are equal, character by character."""
  return answer == key


def close_decimals(answer: str, key: str) -> bool:
  """Whether `answer` is a plain decimal within the tolerances of `key`."""
  return bool(DECIMAL.fullmatch(answer)) and close(float(answer), float(key))


def close(a: float, b: float) -> bool:
  """Whether |a - b| <= max(1e-2 max(|a|, |b|), 1e-5).

  Args:
    a: a number, which may be infinite.
    b: likewise; the comparison is symmetric.

  Returns:
    False where one of them is infinite: `isclose` refuses it. Written out, |inf - b| <= 0.01 inf
    would accept `inf` for any key, and so would a row of 400 nines, which reads as a plain decimal
    and overflows.
  """
  return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
