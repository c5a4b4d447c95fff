"""Two campaigns side by side: what they were begun with, what they scored with intervals, what they
cost, and what they promoted.

Promoted recipes are compared item by item where both runs had the same final set (the same holdout,
drawn the same way); else items and seeds of each run are resampled alone, and it is said that the
sets differ. Nothing is compared that was not scored.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from aevo_jax.campaign.decisions import FINAL
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
  group,
  read_items,
)
from aevo_jax.report.run_view import RunView
from aevo_jax.stats.intervals import paired_bootstrap, unpaired_bootstrap


class ComparisonError(ValueError):
  """These two cannot be compared; the message says why."""


def compare(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
  """All that `aevo compare` says, as plain values; pairs hold run A's first.

  Returns:
    runs: names. differs: {what: [of A, of B]}. finished: [bool, bool]. scores: {base, starting,
      promoted: [score or None, ...]}.
    difference: of the promoted recipes, B minus A, or None. paired: whether on the same items.
      why_not: why there is no difference. costs, rounds: of each.

  Raises:
    ComparisonError: one run twice. NoRunError, LedgerError, ScoreFileError: see `RunView`.
  """
  if a.resolve() == b.resolve():
    raise ComparisonError(f'{a} and {b} are the same run; name two')
  views = RunView(a), RunView(b)
  if views[0].records[-1].hash == views[1].records[-1].hash:
    raise ComparisonError(
      f'{b} is a copy of {a}: both ledgers end with the same record; name two campaigns'
    )
  gain, paired, why = _difference(*views)
  scored = [view.results.scores for view in views]
  return {
    'runs': [str(a), str(b)],
    'differs': _differs(*views),
    'finished': [s.state.finished is not None for s in views],
    'scores': {
      name: [dataclasses.asdict(s[name]) if name in s else None for s in scored]
      for name in (BASE, STARTING, PROMOTED)
    },
    'difference': None if gain is None else dataclasses.asdict(gain) | {'verdict': gain.verdict},
    'paired': paired,
    'why_not': why,
    'gains': [
      {over: dataclasses.asdict(g) for over, g in view.results.gains.items()} for view in views
    ],
    'handed_in': [
      {t.trial: t.submitted for t in view.state.trials.values() if t.submitted is not None}
      for view in views
    ],
    'costs': [_costs(view) for view in views],
    'rounds': [_rounds(view) for view in views],
  }


def _facts(view: RunView) -> dict[str, Any]:
  """What a campaign was begun with, one line a fact."""
  started = view.started
  constitution = {
    f'constitution {b.selector}': b.value
    for b in parse_statements(view.constitution.text(), max_bytes=constitution_lib.MAX_BYTES)
  }
  space = constitution.pop('constitution search_space.axes')
  facts = constitution | {
    f'search space, {axis}: {selector}': spec
    for axis, parameters in space.items()
    for selector, spec in parameters.items()
  }
  facts |= {f'campaign.{name}': value for name, value in started['settings'].items()}
  return (
    facts
    | {f'starting recipe {b.selector}': b.value for b in parse_statements(started['recipe'])}
    | {
      'substrate': started['substrate'],
      'base': started['base_digest'],
      'code': view.code,
      'version': started['version'],
      'machine': started['machine'],
      'workers confined': started['locked'],
    }
  )


def _differs(a: RunView, b: RunView) -> dict[str, list[str]]:
  left, right = _facts(a), _facts(b)
  shown = lambda facts, name: render_value(facts[name]) if name in facts else 'not set'
  return {
    name: [shown(left, name), shown(right, name)]
    for name in sorted(left.keys() | right.keys())
    if left.get(name) != right.get(name)
  }


def _difference(a: RunView, b: RunView) -> tuple[Gain | None, bool, str]:
  for view in (a, b):
    if view.manual:
      return (
        None,
        False,
        f'{view.run.name} was scored by somebody else: it has no final set of its own',
      )
    if view.state.revealed is None:
      return (
        None,
        False,
        f'{view.run.name} has not come to its end: its final items are still with the arbiter',
      )
    if not any(group(name) == PROMOTED for name in view.state.final['scores']):
      return (
        None,
        False,
        f'no retraining of the promoted recipe of {view.run.name} could be scored',
      )
  if a.verifier != b.verifier:
    return None, False, f'answers were compared by different rules ({a.verifier} and {b.verifier})'
  tables = [_promoted(view) for view in (a, b)]
  definitions = [
    (
      s.started['commitment'],
      s.constitution.final_set,
      s.constitution.objective.size,
      s.constitution.tasks,
    )
    for s in (a, b)
  ]
  paired = (
    definitions[0] == definitions[1]
    and a.code == b.code
    and tables[0].shape[1] == tables[1].shape[1]
  )
  value, interval = (paired_bootstrap if paired else unpaired_bootstrap)(
    tables[1], tables[0], seed=BOOTSTRAP_SEED, resamples=RESAMPLES
  )
  return Gain(value, *interval), paired, ''


def _promoted(view: RunView) -> np.ndarray:
  """[seeds, items] of whether the promoted recipe's retrainings were right."""
  return np.array(
    [
      [r.right(view.verifier) for r in read_items(view.run, name, 'final', summary)]
      for name, summary in sorted(view.state.final['scores'].items())
      if group(name) == PROMOTED
    ],
    bool,
  )


def _costs(view: RunView) -> dict[str, float]:
  found, trials = view.costs, view.state.trials.values()
  return {
    'trials': sum(t.round != FINAL for t in trials),
    'final retrainings': sum(t.round == FINAL for t in trials),
    'failed or refused': sum(t.status in ('failed', 'refused') for t in trials),
    'tokens': found.total('tokens'),
    'steps': found.total('steps'),
    'flops': found.total('flops'),
    'wall seconds': round(found.wall - found.paused, 1),
    'processor seconds': round(found.processor_seconds, 1),
  }


def _rounds(view: RunView) -> list[dict[str, Any]]:
  """Each round's anchors on dev and external, as far as they may be known, and what was promoted
  after it and why.
  """
  rows = []
  for round_ in view.rounds:
    mean = lambda values: round(sum(values) / len(values), 4) if values else None
    anchors = [t for t in round_.trials if t.axis == ANCHOR]
    rows.append(
      {
        'round': round_.number,
        'anchors': len(anchors),
        'dev': mean([t.dev.value for t in anchors if t.dev]),
        'external': mean([t.external.value for t in anchors if t.external]),
        'promoted': [f'{c.selector} = {c.after}' for c in round_.promoted],
        'reasons': list(round_.decisions) if round_.promoted else [],
      }
    )
  return rows


def text(found: dict[str, Any]) -> str:
  """The same for a terminal."""
  (a, b), lines = found['runs'], []
  lines += [f'A  {a}', f'B  {b}', '']
  lines += [
    f'{name} is unfinished' for name, finished in zip('AB', found['finished']) if not finished
  ]
  lines += ['what differs'] + [
    f'  {name}\n    A  {_short(left)}\n    B  {_short(right)}'
    for name, (left, right) in found['differs'].items()
  ]
  if not found['differs']:
    lines.append('  nothing: the same campaign twice')
  lines += ['', f'{"final accuracy [95%]":<24}{"A":<28}{"B":<28}']
  shown = lambda s: (
    'not scored'
    if s is None
    else f'{s["accuracy"]:.3f} [{s["low"]:.3f}, {s["high"]:.3f}] x{s["seeds"]}'
  )
  lines += [
    f'{name:<24}{shown(left):<28}{shown(right):<28}'
    for name, (left, right) in found['scores'].items()
  ]
  if found['difference']:
    d = found['difference']
    how = (
      'the same final items, paired'
      if found['paired']
      else (
        'different final sets: items and seeds of each resampled alone, and the sets may '
        'differ in difficulty'
      )
    )
    words = {'gain': 'B is better', 'loss': 'A is better', 'noise': 'within noise'}[d['verdict']]
    lines += [
      '',
      (
        f'promoted, B minus A: {d["value"]:+.3f} [{d["low"]:+.3f}, {d["high"]:+.3f}], '
        f'{words} ({how})'
      ),
    ]
  else:
    lines += ['', f'promoted recipes are not compared: {found["why_not"]}']
  for name, scores in zip('AB', found['handed_in']):
    if scores:
      lines.append(
        f'{name}, as handed in: '
        + ', '.join(f'{trial} {score:g}' for trial, score in scores.items())
      )
  lines += ['', f'{"cost":<24}{"A":<28}{"B":<28}']
  lines += [
    f'{name:<24}{left:<28,}{found["costs"][1][name]:<28,}'
    for name, left in found['costs'][0].items()
  ]
  for name, rounds in zip('AB', found['rounds']):
    lines += ['', f'rounds of {name}: anchors on dev and external, and what was promoted']
    number = lambda v: '   -' if v is None else f'{v:.3f}'
    for row in rounds:
      lines.append(
        (
          f'  {row["round"]:>3}  {row["anchors"]} anchor(s)  {number(row["dev"])}  '
          f'{number(row["external"])}  '
        )
        + (', '.join(row['promoted']) or '-')
      )
      lines += [f'         {reason}' for reason in row['reasons']]
  return '\n'.join(lines)


def _short(value: str) -> str:
  return value if len(value) <= 120 else f'{value[:117]}...'


def to_json(found: dict[str, Any]) -> str:
  """One JSON object."""
  return json.dumps(found, indent=1)
