"""Two campaigns side by side: their beginnings, scores with intervals, costs and promotions.

Promoted recipes are compared item by item where both runs had the same final set (the same
holdout, drawn the same way). Else items and seeds of each run are resampled alone, and the text
says that the sets differ. Nothing is compared that was not scored.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config.statements import parse_statements, render_value
from aevo_jax.meta_agent.policy import ANCHOR
from aevo_jax.report.gains import (
  BASE,
  BOOTSTRAP_SEED,
  PROMOTED,
  RESAMPLES,
  STARTING,
  Gain,
  gain,
  group,
  read_items,
  right_answers,
)
from aevo_jax.report.rows import Measured
from aevo_jax.report.run_view import RunView
from aevo_jax.stats.intervals import paired_bootstrap, unpaired_bootstrap

_SHOWN = 120  # characters of a value
_COLUMN = 28
_WORDS = {'gain': 'B is better', 'loss': 'A is better', 'noise': 'within noise'}


class ComparisonError(ValueError):
  """These two cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Difference:
  """The promoted recipes, B minus A.

  gain: None where they are not compared, for the reason `why_not`. paired: whether item by item.
  """

  gain: Gain | None
  paired: bool
  why_not: str


def compare(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
  """Compares two campaigns as plain values; pairs hold run A's first.

  Args:
    a: a run directory, finished or not.
    b: another one.

  Returns:
    runs: names.
    differs: {what: [of A, of B]}.
    finished: [bool, bool].
    promoted: [bool, bool], whether anything was; else the recipe so called is the starting one.
    scores: {base, starting, promoted: [score or None, ...]}.
    difference: of the promoted recipes, B minus A, or None.
    paired: whether on the same items.
    why_not: why there is no difference.
    gains, handed_in, costs, rounds: of each.

  Raises:
    ComparisonError: one run twice.
    NoRunError, LedgerError, ScoreFileError: see `RunView`.
  """
  if a.resolve() == b.resolve():
    raise ComparisonError(f'{a} and {b} are the same run; name two')
  views = (RunView(a), RunView(b))
  if views[0].records[-1].hash == views[1].records[-1].hash:
    raise ComparisonError(
      f'{b} is a copy of {a}: both ledgers end with the same record; name two campaigns'
    )
  difference = _difference(*views)
  promoted = None
  if difference.gain is not None:
    promoted = dataclasses.asdict(difference.gain) | {'verdict': difference.gain.verdict}
  comparison = {
    'runs': [str(a), str(b)],
    'differs': _differs(*views),
    'finished': [],
    'promoted': [],
    'scores': {name: _scores(views, name) for name in (BASE, STARTING, PROMOTED)},
    'difference': promoted,
    'paired': difference.paired,
    'why_not': difference.why_not,
    'gains': [],
    'handed_in': [],
    'costs': [],
    'rounds': [],
  }
  for view in views:
    comparison['finished'].append(view.state.finished is not None)
    comparison['promoted'].append(bool(view.promoted))
    comparison['gains'].append(_gains(view))
    comparison['handed_in'].append(_handed_in(view))
    comparison['costs'].append(_costs(view))
    comparison['rounds'].append(_rounds(view))
  return comparison


def to_json(comparison: dict[str, Any]) -> str:
  """Returns a comparison as one JSON object."""
  return json.dumps(comparison, indent=1)


# -- the parts of a comparison ---------------------------------------------------------------------


def _facts(view: RunView) -> dict[str, Any]:
  """What a campaign was begun with, one line a fact."""
  started = view.started
  facts = {}
  statements = parse_statements(view.constitution.text(), max_bytes=constitution_lib.MAX_BYTES)
  for binding in statements:
    facts[f'constitution {binding.selector}'] = binding.value
  for axis, parameters in facts.pop('constitution search_space.axes').items():
    for selector, spec in parameters.items():
      facts[f'search space, {axis}: {selector}'] = spec
  for name, value in started['settings'].items():
    facts[f'campaign.{name}'] = value
  for binding in parse_statements(started['recipe']):
    facts[f'starting recipe {binding.selector}'] = binding.value
  facts['substrate'] = started['substrate']
  facts['base'] = started['base_digest']
  facts['code'] = view.code
  facts['version'] = started['version']
  facts['machine'] = started['machine']
  facts['workers confined'] = started['locked']
  return facts


def _differs(a: RunView, b: RunView) -> dict[str, list[str]]:
  left = _facts(a)
  right = _facts(b)
  differs = {}
  for name in sorted(left.keys() | right.keys()):
    if left.get(name) != right.get(name):
      differs[name] = [_shown(left, name), _shown(right, name)]
  return differs


def _shown(facts: dict[str, Any], name: str) -> str:
  if name not in facts:
    return 'not set'
  return render_value(facts[name])


def _scores(views: Sequence[RunView], name: str) -> list[dict[str, Any] | None]:
  scores = []
  for view in views:
    score = view.results.scores.get(name)
    scores.append(None if score is None else dataclasses.asdict(score))
  return scores


def _gains(view: RunView) -> dict[str, dict[str, float]]:
  return {over: dataclasses.asdict(gain) for over, gain in view.results.gains.items()}


def _handed_in(view: RunView) -> dict[str, float]:
  trials = view.state.trials.values()
  return {t.trial: t.submitted for t in trials if t.submitted is not None}


def _why_not(view: RunView) -> str:
  """Why a run's promoted recipe cannot be compared; '' where it can."""
  name = view.run.name
  if view.manual:
    return f'{name} was scored by somebody else: it has no final set of its own'
  if view.state.revealed is None:
    return f'{name} has not come to its end: its final items are still with the arbiter'
  if PROMOTED not in {group(retraining) for retraining in view.state.final['scores']}:
    return f'no retraining of the promoted recipe of {name} could be scored'
  return ''


def _difference(a: RunView, b: RunView) -> Difference:
  why_not = _why_not(a) or _why_not(b)
  if not why_not and a.verifier != b.verifier:
    why_not = f'answers were compared by different rules ({a.verifier} and {b.verifier})'
  if why_not:
    return Difference(None, False, why_not)
  left = _promoted(a)
  right = _promoted(b)
  paired = _final_set(a) == _final_set(b) and left.shape[1] == right.shape[1]
  bootstrap = paired_bootstrap if paired else unpaired_bootstrap
  value, interval = bootstrap(right, left, seed=BOOTSTRAP_SEED, resamples=RESAMPLES)
  return Difference(gain(value, interval), paired, '')


def _final_set(view: RunView) -> dict[str, Any]:
  """All that decides which items the final set has."""
  return {
    'commitment': view.started['commitment'],
    'final_set': view.constitution.final_set,
    'size': view.constitution.objective.size,
    'tasks': view.constitution.tasks,
    'code': view.code,
  }


def _promoted(view: RunView) -> np.ndarray:
  """[seeds, items] of whether the promoted recipe's retrainings were right."""
  results = []
  for name, summary in sorted(view.state.final['scores'].items()):
    if group(name) == PROMOTED:
      results.append(read_items(view.run, name, 'final', summary))
  return right_answers(results, view.verifier)


def _costs(view: RunView) -> dict[str, float]:
  costs = view.costs
  retrainings = len(view.final_trials())
  statuses = view.statuses
  return {
    'trials': statuses.total() - retrainings,
    'final retrainings': retrainings,
    'failed or refused': statuses['failed'] + statuses['refused'],
    'tokens': costs.total('tokens'),
    'steps': costs.total('steps'),
    'flops': costs.total('flops'),
    'wall seconds': round(costs.wall - costs.paused, 1),
    'processor seconds': round(costs.processor_seconds, 1),
  }


def _rounds(view: RunView) -> list[dict[str, Any]]:
  """Each round's anchors on dev and external, as far as they may be known, and its promotion."""
  rows = []
  for round_ in view.rounds:
    anchors = [t for t in round_.trials if t.axis == ANCHOR]
    rows.append(
      {
        'round': round_.number,
        'anchors': len(anchors),
        'dev': _mean([t.dev for t in anchors if t.dev]),
        'external': _mean([t.external for t in anchors if t.external]),
        'promoted': [f'{c.selector} = {c.after}' for c in round_.promoted],
        'reasons': list(round_.decisions) if round_.promoted else [],
      }
    )
  return rows


def _mean(scores: Sequence[Measured]) -> float | None:
  if not scores:
    return None
  return round(sum(score.value for score in scores) / len(scores), 4)


# -- the text --------------------------------------------------------------------------------------


def text(comparison: dict[str, Any]) -> str:
  """Writes a comparison for a terminal.

  Args:
    comparison: see `compare`.

  Returns:
    Lines of any length, without an end of line after the last.
  """
  a, b = comparison['runs']
  lines = [f'A  {a}', f'B  {b}', '']
  for name, finished in zip('AB', comparison['finished'], strict=True):
    if not finished:
      lines.append(f'{name} is unfinished')
  for name, promoted in zip('AB', comparison['promoted'], strict=True):
    if not promoted:
      lines.append(f'{name} promoted nothing: what is called so is its starting recipe again')
  lines += _differs_lines(comparison['differs'])
  lines += ['', _columns('final accuracy [95%]', 'A', 'B')]
  for name, (left, right) in comparison['scores'].items():
    lines.append(_columns(name, _score_text(left), _score_text(right)))
  lines += ['', _difference_line(comparison)]
  for name, scores in zip('AB', comparison['handed_in'], strict=True):
    if scores:
      pairs = [f'{trial} {score:g}' for trial, score in scores.items()]
      lines.append(f'{name}, as handed in: {", ".join(pairs)}')
  lines += ['', _columns('cost', 'A', 'B')]
  costs_a, costs_b = comparison['costs']
  for name, cost in costs_a.items():
    lines.append(_columns(name, f'{cost:,}', f'{costs_b[name]:,}'))
  for name, rounds in zip('AB', comparison['rounds'], strict=True):
    lines += ['', f'rounds of {name}: anchors on dev and external, and what was promoted']
    for row in rounds:
      lines += _round_lines(row)
  return '\n'.join(lines)


def _columns(name: str, left: str, right: str) -> str:
  return f'{name:<24}{left:<{_COLUMN}}{right:<{_COLUMN}}'


def _differs_lines(differs: dict[str, list[str]]) -> list[str]:
  lines = ['what differs']
  for name, (left, right) in differs.items():
    lines.append(f'  {name}\n    A  {_short(left)}\n    B  {_short(right)}')
  if not differs:
    lines.append('  nothing: the same campaign twice')
  return lines


def _score_text(score: dict[str, Any] | None) -> str:
  if score is None:
    return 'not scored'
  return f'{score["accuracy"]:.3f} [{score["low"]:.3f}, {score["high"]:.3f}] x{score["seeds"]}'


def _difference_line(comparison: dict[str, Any]) -> str:
  gain = comparison['difference']
  if not gain:
    return f'promoted recipes are not compared: {comparison["why_not"]}'
  how = 'the same final items, paired'
  if not comparison['paired']:
    how = (
      'different final sets: items and seeds of each resampled alone, and the sets may '
      'differ in difficulty'
    )
  numbers = f'{gain["value"]:+.3f} [{gain["low"]:+.3f}, {gain["high"]:+.3f}]'
  return f'promoted, B minus A: {numbers}, {_WORDS[gain["verdict"]]} ({how})'


def _round_lines(row: dict[str, Any]) -> list[str]:
  promoted = ', '.join(row['promoted']) or '-'
  line = (
    f'  {row["round"]:>3}  {row["anchors"]} anchor(s)  {_accuracy(row["dev"])}  '
    f'{_accuracy(row["external"])}  {promoted}'
  )
  return [line, *(f'         {reason}' for reason in row['reasons'])]


def _accuracy(value: float | None) -> str:
  if value is None:
    return '   -'
  return f'{value:.3f}'


def _short(value: str) -> str:
  if len(value) <= _SHOWN:
    return value
  return f'{value[: _SHOWN - 3]}...'
