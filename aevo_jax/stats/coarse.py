"""Coarse results of the tests of a round: what may be told of scores that are not released.

Released scores are rounded, so that a holdout is not read off through them. What the tests tell is
rounded further: p values up to 1, 2 or 5 times a power of ten (or to the level at which they
alarm), slopes to one decimal, external gains as released scores are, errors and degrees of freedom
to one digit.
"""

import math
from typing import Any

from aevo_jax.stats.tracking import Rows


def rows(exact: Rows, *, gain_p: float | None, slope_p: float | None, decimals: int) -> Rows:
  """Rounds the rows of a round.

  Args:
    exact: of `tracking.measure`.
    gain_p: level of the gain test, None where it is never made.
    slope_p: level of the slope test, None where it is not made.
    decimals: of released scores.

  Returns:
    Rows of the same form.
  """
  rounded = {}
  for stream, row in exact.items():
    rounded[stream] = row | {
      'slope': _slope(row['slope'], slope_p),
      'gain': _gain(row['gain'], gain_p, decimals),
    }
  return rounded


def upwards(p: float, level: float | None) -> float:
  """Rounds a p value up to 1, 2 or 5 times a power of ten, or to a level that lies before that.

      >>> upwards(0.0031, None), upwards(0.0031, 0.004), upwards(0.3, None)
      (0.005, 0.004, 0.5)

  Args:
    p: in [0, 1].
    level: at which the test alarms, if it is made.

  Returns:
    A p value that is no smaller, at least 1e-6.
  """
  p = max(p, 1e-6)
  exponent = math.floor(math.log10(p))
  steps = [float(f'{digit}e{exponent}') for digit in (1, 2, 5, 10)]
  rounded = min(step for step in steps if step >= p * (1 - 1e-9))
  if level is not None and p <= level < rounded:
    return level
  return min(rounded, 1.0)


def _slope(found: dict[str, Any], level: float | None) -> dict[str, Any]:
  if 'p' not in found:
    return found
  ratio = found['ratio']
  return {
    'p': upwards(found['p'], level),
    'slope': round(found['slope'], 1),
    'reference': round(found['reference'], 1),
    'error': _figure(found['error']),
    'freedom': _figure(min(found['freedom'], 1000)),
    'ratio': None if ratio is None else round(ratio, 1),
    'n': found['n'],
  }


def _gain(found: dict[str, Any], level: float | None, decimals: int) -> dict[str, Any]:
  if 'p' not in found:
    return found
  return {
    'p': upwards(found['p'], level),
    'dev': round(found['dev'], 4),
    'external': round(found['external'], decimals) + 0.0,
    'dev_error': _figure(found['dev_error']),
    'error': _figure(found['error']),
    'freedom': _figure(min(found['freedom'], 1000)),
    'dev_freedom': _figure(min(found['dev_freedom'], 1000)),
    'luck': round(found['luck'], 4),
    'transfer': round(found['transfer'], 2),
    'n': found['n'],
  }


def _figure(value: float) -> float:
  """Rounds to one significant digit."""
  return float(f'{value:.0e}')
