"""Agents with equal budget on simulated campaigns, beside each other.

The demo's constitution on four surfaces, two of them none that the statistical agent assumes.

  .venv/bin/python benchmarks/agent_comparison.py run [--surfaces=fitted,...]
  [--agents=statistical,...] [--campaigns=200]     adds to the results, and prints the table
  .venv/bin/python benchmarks/agent_comparison.py table                    prints
  benchmarks/results/agent_comparison.json .venv/bin/python benchmarks/agent_comparison.py collect
  RUN ...          adds the dev scores of finished runs to benchmarks/results/trials.json

Campaign i of every agent is played on the same surface. Wins and losses of the statistical agent
count campaigns in which its promoted recipe is truly better or worse by more than .005 than the
other's, and the difference of true gains has a bootstrap interval over campaigns. 'fitted' is the
statistical agent's own model, fitted to the trials in benchmarks/results/trials.json, which
flatters it; 'drawn' is a model near to it; 'rugged' has nothing that it assumes; 'flat' is pure
noise, where every promotion is false. What an agent is worth on real training is measured by
campaign_gain.py.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from aevo_jax.runtime import single_threaded_blas

single_threaded_blas()  # before numpy is imported

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import parse_statements
from aevo_jax.ledger.append import read
from aevo_jax.simulation import study
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.simulation.settings import Settings
from aevo_jax.tasks.mixture import FAMILIES

RESULTS = pathlib.Path(__file__).parent / 'results' / 'agent_comparison.json'
TRIALS = pathlib.Path(__file__).parent / 'results' / 'trials.json'
SURFACES = ('fitted', 'drawn', 'rugged', 'flat')
AGENTS = ('statistical', 'random', 'tpe', 'best_of_n', 'frozen')
REFERENCE = 'statistical'
MARGIN = 0.005


def collect(runs: Sequence[pathlib.Path]) -> None:
  """Adds every dev score: {'run', 'trial', 'overlay', 'correct': by family, 'total': by family}."""
  rows = json.loads(TRIALS.read_text()) if TRIALS.exists() else []
  known = {(row['run'], row['trial']) for row in rows}
  for run in runs:
    for name, trial in fold(read(run / 'ledger.jsonl', strict=False)).trials.items():
      if trial.dev is not None and (run.name, name) not in known:
        rows.append(
          {
            'run': run.name,
            'trial': name,
            'overlay': {b.selector: b.value for b in parse_statements(trial.overlay)},
            **{
              count: {f: s[count] for f, s in trial.dev['by_family'].items()}
              for count in ('correct', 'total')
            },
          }
        )
  TRIALS.write_text('[\n' + ',\n'.join(json.dumps(row, sort_keys=True) for row in rows) + '\n]\n')
  print(f'{len(rows)} trials in {TRIALS.name}')


def run(surfaces: Sequence[str], agents: Sequence[str], campaigns: int, processes: int) -> None:
  """Adds what is asked for to the results.

  In place of what was there for the same surface and agent.
  """
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  constitution, recipe = (
    constitution_lib.from_gin(),
    (layout.root_file('substrate') / 'recipe.gin').read_text(),
  )
  for surface in surfaces:
    settings = Settings(
      surface=surface, trials=str(TRIALS) if surface == 'fitted' else '', verdicts=False
    )
    for agent, (found, seconds) in study.outcomes(
      Scenario(constitution, settings, recipe, tuple(FAMILIES)), agents, campaigns, processes
    ).items():
      results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
      results.setdefault(surface, {})[agent] = {
        'summary': study.summary(found, seconds),
        'gains': [round(o.gain, 5) for o in found],
      }
      RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
      print(
        f'{surface} {agent}: {60 * len(found) / seconds:.0f} campaigns a minute and process',
        file=sys.stderr,
        flush=True,
      )


def table(results: dict) -> str:
  """Markdown, a row for each surface and agent."""
  lines = [
    (
      '| surface | agent | campaigns | true gain of the promoted recipe [95%] | regret | '
      'promoted something | a false promotion [95%] | statistical: won / lost | '
      'statistical gains more by [95%] |'
    ),
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for surface in (s for s in SURFACES if s in results):
    ours = np.asarray(results[surface].get(REFERENCE, {'gains': []})['gains'])
    for agent in (a for a in AGENTS if a in results[surface]):
      s, gains = results[surface][agent]['summary'], np.asarray(results[surface][agent]['gains'])
      versus, more = '', ''
      if agent != REFERENCE and len(ours):
        difference = ours[: len(gains)] - gains[: len(ours)]
        versus = (
          f'{(difference > MARGIN).sum()} / {(difference < -MARGIN).sum()} of {len(difference)}'
        )
        rng = np.random.default_rng(0)
        low, high = np.quantile(
          difference[rng.integers(len(difference), size=(4000, len(difference)))].mean(axis=1),
          [0.025, 0.975],
        )
        more = f'{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]'
      gain, false = s['gain'], s['false_promotion']
      lines.append(
        f'| {surface} | {agent} | {s["campaigns"]} | {gain["mean"]:+.4f} '
        f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}] | {s["regret"]["mean"]:.4f} | '
        f'{s["promoted"]["share"]:.3f} | '
        f'{false["share"]:.3f} [{false["low"]:.3f}, {false["high"]:.3f}] | {versus} | {more} |'
      )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table', 'collect'])
  parser.add_argument('runs', nargs='*', type=pathlib.Path)
  parser.add_argument('--surfaces', default=','.join(SURFACES))
  parser.add_argument('--agents', default=','.join(AGENTS))
  parser.add_argument('--campaigns', type=int, default=200)
  parser.add_argument('--processes', type=int, default=1)
  arguments = parser.parse_args()
  if arguments.mode == 'collect':
    collect(arguments.runs)
    return
  if arguments.mode == 'run':
    run(
      arguments.surfaces.split(','),
      arguments.agents.split(','),
      arguments.campaigns,
      arguments.processes,
    )
  print(table(json.loads(RESULTS.read_text())))


if __name__ == '__main__':
  main()
