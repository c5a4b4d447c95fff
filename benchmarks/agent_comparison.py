"""Agents with equal budget on simulated campaigns, beside each other.

The demo's constitution on four surfaces, two of them none that the statistical agent assumes.

  .venv/bin/python benchmarks/agent_comparison.py [--surfaces=...] [--agents=...] [--campaigns=100]
      adds the campaigns that are missing to benchmarks/results/agent_comparison.jsonl
  .venv/bin/python benchmarks/agent_comparison.py --table     prints them as Markdown
  .venv/bin/python benchmarks/agent_comparison.py --collect RUN ...
      adds the dev scores of finished runs to benchmarks/results/trials.json

Campaign i of every agent is played in the same world. Names that end in '_tested' are peers whose
standing recipe only moves by the promotion rule, like that of 'statistical' and 'frozen'; the other
peers keep the best score without a test, and so does 'statistical_untested'. Won and lost count
campaigns in which the promoted recipe is truly better or worse by more than .005 than the other
agent's; the difference of true gains has a bootstrap interval over campaigns. 'fitted' is the
statistical agent's own model, fitted to the trials in benchmarks/results/trials.json, which
flatters it; 'drawn' is a model near to it; 'rugged' has nothing that it assumes; 'flat' is pure
noise, where every promotion is false. Rows hold a digest of the constitution and of the code that
decide them, without comments and docstrings; `--table` marks older ones. 'gp' and 'gp_tested' need
torch (`make gp`) and take ten seconds a campaign. What an agent is worth on real training is
measured by campaign_gain.py.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aevo_jax.runtime import single_threaded_blas

single_threaded_blas()  # before numpy is imported

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.statements import parse_statements
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent.registry import AGENTS as CLASSES
from aevo_jax.simulation import campaign, study
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.tasks.mixture import FAMILIES

PACKAGE = pathlib.Path(layout.__file__).parent
RESULTS = pathlib.Path(__file__).parent / 'results' / 'agent_comparison.jsonl'
TRIALS = pathlib.Path(__file__).parent / 'results' / 'trials.json'
SURFACES = ('fitted', 'drawn', 'rugged', 'flat')
AGENTS = (
  'statistical',
  'frozen',
  'random_tested',
  'sparse_tested',
  'best_of_n_tested',
  'halving_tested',
  'sparse_gp_tested',
  'tpe_tested',
  'gp_tested',
  'statistical_untested',
  'random',
  'sparse',
  'best_of_n',
  'halving',
  'sparse_gp',
  'tpe',
  'gp',
)
REFERENCES = ('statistical', 'statistical_untested')
MARGIN = 0.005
# What decides a row, beside the agent's own modules and those that these import of `agents`.
DECIDING = (
  'campaign/decisions',
  'config/search_space.py',
  'meta_agent/anonymize.py',
  'meta_agent/encoding.py',
  'meta_agent/observations.py',
  'meta_agent/promotion_rule.py',
  'simulation/campaign.py',
  'simulation/scenario.py',
  'simulation/settings.py',
  'simulation/surface.py',
  'stats/comparisons/mean_gain.py',
)
OWN = ('meta_agent/effects.py', 'meta_agent/proposals.py', 'meta_agent/promotion_value.py')


def collect(runs: Sequence[pathlib.Path]) -> None:
  """Adds every dev score: {'run', 'trial', 'overlay', 'correct': by family, 'total': by family}."""
  rows = json.loads(TRIALS.read_text()) if TRIALS.exists() else []
  known = {(row['run'], row['trial']) for row in rows}
  for run in runs:
    for name, trial in fold(read(run / 'ledger.jsonl', strict=False)).trials.items():
      if trial.dev is None or (run.name, name) in known:
        continue
      overlay = {b.selector: b.value for b in parse_statements(trial.overlay)}
      row: dict[str, Any] = {'run': run.name, 'trial': name, 'overlay': overlay}
      for count in ('correct', 'total'):
        row[count] = {f: s[count] for f, s in trial.dev['by_family'].items()}
      rows.append(row)
  TRIALS.write_text('[\n' + ',\n'.join(json.dumps(row, sort_keys=True) for row in rows) + '\n]\n')
  print(f'{len(rows)} trials in {TRIALS.name}')


def code(path: pathlib.Path) -> str:
  """A module's syntax tree without docstrings, or the text of another file."""
  if path.suffix != '.py':
    return path.read_text()
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
      node.body = node.body[1:]
  return ast.dump(tree)


@functools.cache
def rules() -> Constitution:
  """The shipped constitution."""
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


@functools.cache
def digest(surface: str, agent: str) -> str:
  """Digest of what decides the rows of a surface and an agent."""
  paths = [layout.root_file('substrate') / 'recipe.gin']
  for name in DECIDING:
    path = PACKAGE / name
    paths += sorted(path.glob('*.py')) if path.is_dir() else [path]
  modules = {cls.__module__ for cls in CLASSES[agent].__mro__ if '.agents.' in cls.__module__}
  if any(module.endswith('peers') for module in modules):
    modules.add('aevo_jax.meta_agent.agents.random_search')
  elif agent == 'frozen':
    modules.add('aevo_jax.meta_agent.agents.statistical')
  if not any(module.endswith('peers') for module in modules):
    paths += [PACKAGE / name for name in OWN]
  paths += [PACKAGE.parent / f'{module.replace(".", "/")}.py' for module in sorted(modules)]
  if surface == 'fitted':
    paths += [PACKAGE / 'meta_agent/effects.py', TRIALS]
  decided = dataclasses.asdict(rules())
  del decided['llm_rules']
  found = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
  for path in paths:
    found.update(code(pathlib.Path(path)).encode())
  return found.hexdigest()[:12]


def rows() -> list[dict[str, Any]]:
  """All rows so far, of any code."""
  if not RESULTS.exists():
    return []
  return [json.loads(line) for line in RESULTS.read_text().splitlines()]


class Cell(NamedTuple):
  """One agent on one surface."""

  surface: str
  agent: str

  @property
  def digest(self) -> str:
    return digest(self.surface, self.agent)


def missing(
  surfaces: Sequence[str], agents: Sequence[str], campaigns: int
) -> Iterator[tuple[Cell, int]]:
  """Cells and indices of campaigns without a row of this code, low indices first."""
  done = {(r['surface'], r['agent'], r['index'], r['digest']) for r in rows()}
  for index in range(campaigns):
    for surface in surfaces:
      for agent in agents:
        cell = Cell(surface, agent)
        if (surface, agent, index, cell.digest) not in done:
          yield cell, index


def simulate(surfaces: Sequence[str], agents: Sequence[str], campaigns: int) -> None:
  """Plays the missing campaigns, and adds a row after each."""
  recipe = (layout.root_file('substrate') / 'recipe.gin').read_text()
  scenarios = {}
  for surface in surfaces:
    trials = str(TRIALS) if surface == 'fitted' else ''
    settings = Settings(surface=surface, trials=trials, verdicts=False)
    scenarios[surface] = Scenario(rules(), settings, recipe, tuple(FAMILIES))
  for cell, index in missing(surfaces, agents, campaigns):
    outcome = campaign.run(scenarios[cell.surface], cell.agent, index)
    row = cell._asdict() | {
      'index': index,
      'digest': cell.digest,
      'gain': round(outcome.gain, 5),
      'best': round(outcome.best, 5),
      'promotions': outcome.promotions,
      'false': outcome.false_promotions,
    }
    with RESULTS.open('a') as file:
      file.write(json.dumps(row) + '\n')


def table() -> str:
  """Markdown: for every surface a row for each agent and digest."""
  groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
  for row in rows():
    groups.setdefault((row['surface'], row['agent'], row['digest']), {})[row['index']] = row
  lines = []
  for surface in SURFACES:
    lines += [
      f'**{surface}**',
      '',
      '| agent | campaigns | true gain [95%] | regret | promoted | a false promotion [95%] | '
      'statistical: won / lost | gains more by [95%] | statistical_untested: won / lost | '
      'gains more by [95%] |',
      '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for agent in AGENTS:
      for group, found in groups.items():
        if group[:2] == (surface, agent):
          lines.append(_line(Cell(surface, agent), group[2], found, groups))
    lines.append('')
  return '\n'.join(lines)


def _newest(groups: dict, surface: str, agent: str) -> dict[int, dict]:
  """Campaigns of an agent by the present code, or by the code that wrote its last row."""
  found: dict[int, dict] = {}
  for key, group in groups.items():
    if key[:2] == (surface, agent):
      found = group
  return groups.get((surface, agent, digest(surface, agent)), found)


def _line(cell: Cell, code: str, found: dict[int, dict], groups: dict) -> str:
  """A row of the table."""
  gains = np.asarray([row['gain'] for row in found.values()])
  regret = np.mean([row['best'] - row['gain'] for row in found.values()])
  promoted = np.mean([row['promotions'] > 0 for row in found.values()])
  gain = study.mean_interval(gains)
  false = study.share(sum(row['false'] > 0 for row in found.values()), len(found))
  name = cell.agent if code == cell.digest else f'{cell.agent} (older code {code})'
  columns = [
    name,
    str(len(found)),
    f'{gain["mean"]:+.4f} [{gain["low"]:+.4f}, {gain["high"]:+.4f}]',
    f'{regret:.4f}',
    f'{promoted:.2f}',
    f'{false["share"]:.3f} [{false["low"]:.3f}, {false["high"]:.3f}]',
  ]
  for reference in REFERENCES:
    other = _newest(groups, cell.surface, reference)
    columns += _versus(other, found) if reference != cell.agent else ['', '']
  return '| ' + ' | '.join(columns) + ' |'


def _versus(ours: dict[int, dict], theirs: dict[int, dict]) -> list[str]:
  """How often the one is better and worse, and by how much on average."""
  common = sorted(ours.keys() & theirs.keys())
  if len(common) < 2:
    return ['', '']
  difference = np.asarray([ours[i]['gain'] - theirs[i]['gain'] for i in common])
  rng = np.random.default_rng(0)
  drawn = difference[rng.integers(len(common), size=(4000, len(common)))].mean(axis=1)
  low, high = np.quantile(drawn, [0.025, 0.975])
  won = int((difference > MARGIN).sum())
  lost = int((difference < -MARGIN).sum())
  return [
    f'{won} / {lost} of {len(common)}',
    f'{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]',
  ]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--collect', nargs='+', type=pathlib.Path, metavar='RUN')
  parser.add_argument('--table', action='store_true')
  parser.add_argument('--surfaces', default=','.join(SURFACES))
  parser.add_argument('--agents', default=','.join(AGENTS))
  parser.add_argument('--campaigns', type=int, default=100)
  arguments = parser.parse_args()
  if arguments.collect:
    collect(arguments.collect)
  elif arguments.table:
    print(table(), end='')
  else:
    simulate(arguments.surfaces.split(','), arguments.agents.split(','), arguments.campaigns)


if __name__ == '__main__':
  main()
