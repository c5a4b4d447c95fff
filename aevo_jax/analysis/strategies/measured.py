"""Rows of what was measured: a mesh's time, its difference from the baseline, and the verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.analysis.strategies import verdicts
from aevo_jax.analysis.strategies.rounds import CONTROL, Rounds

BASELINE = 'baseline'
# Meshes round differently; more than this is another computation.
_SAME_LOSS = 0.01


def add(rows: Sequence[dict[str, Any]], rounds: Rounds, steps: int) -> dict[str, Any]:
  """Adds `measured` to rows, and makes the control's.

  Args:
    rows: of `comparison.row` that were to be measured, the baseline's first.
    rounds: what was measured.
    steps: of a round.

  Returns:
    The control's row, which also has how predicted and measured order agree.
  """
  baseline = rows[0]['mesh']
  control = verdicts.difference(rounds.seconds.get(CONTROL, ()), rounds.seconds.get(baseline, ()))
  last = {'mesh': CONTROL, 'hardware': rows[0]['hardware'], 'repeats': baseline}
  for row in [*rows, last]:
    row['measured'] = _of_arm(row['mesh'], baseline, rounds, control, steps)
  good = [row for row in rows if 'error' not in row['measured']]
  found = verdicts.agreement(
    _predicted(good), {row['mesh']: row['measured']['seconds'] for row in good}
  )
  if found is not None:
    last['rank_correlation'] = found._asdict()
  if control is not None:
    last['spread'] = math.expm1(control.farthest)
  return last


def _of_arm(
  name: str,
  baseline: str,
  rounds: Rounds,
  control: verdicts.Difference | None,
  steps: int,
) -> dict[str, Any]:
  """Returns what was measured of an arm; `error` says why it failed, at once or later."""
  times = rounds.seconds.get(name, [])
  found: dict[str, Any] = {'devices': rounds.devices, 'steps': steps, 'round_seconds': times}
  if name in rounds.errors:
    found['error'] = rounds.errors[name]
  elif not times:
    found['error'] = 'not measured before the end'
  if not times:
    return found
  found['seconds'] = statistics.median(times)
  found['loss'] = rounds.losses[name]
  if name == baseline:
    return found | {'verdict': BASELINE}
  expected = rounds.losses.get(baseline, math.nan)
  difference = verdicts.difference(times, rounds.seconds.get(baseline, ()))
  if difference is not None:
    found['over_baseline'] = {
      'mean': math.expm1(difference.mean),
      'low': math.expm1(difference.low),
      'high': math.expm1(difference.high),
      'rounds': difference.rounds,
    }
  if abs(found['loss'] - expected) > _SAME_LOSS * abs(expected):
    found['error'] = f"its first loss is {found['loss']:.4g} and the baseline's {expected:.4g}"
  elif name != CONTROL and 'error' not in found:
    found['verdict'] = verdicts.verdict(difference, control)
  return found


def _predicted(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns the geometric middle of each mesh's bounds.

  How far a step is from either bound is not known; the middle is as many times longer than the one
  as it is shorter than the other, and does not change order when all bounds are off by a factor.
  """
  middle = {}
  for row in rows:
    bounds = row['roofline']
    middle[row['mesh']] = math.sqrt(bounds['shortest'] * bounds['longest'])
  return middle
