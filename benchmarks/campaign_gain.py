"""What a campaign gains on the final set.

The statistical agent beside search without evidence, with the same number of trials.

  .venv/bin/python benchmarks/campaign_gain.py            runs what is missing of five seeds and
  five agents, then prints the table .venv/bin/python benchmarks/campaign_gain.py --table    only
  the table of what has been run

For each campaign seed and agent: the demo's campaign, ending with the promoted and the starting
recipe retrained on fresh seeds at equal budget. Differences of final-set accuracy (promoted minus
base, promoted minus the round-1 standing recipe, and the statistical agent's promoted recipe minus
another agent's of the same campaign seed), with paired bootstrap 95% intervals over items and
training seeds. Won and lost count campaigns in which that last interval lies above or below 0.
Results accumulate in benchmarks/results/campaign_gain/, one file for each constitution, base
checkpoint, starting recipe, seed and agent; each also names the code it ran on, as the table does
(an agent that changed needs its files deleted and run again). So campaigns may run side by side,
which leaves no core idle at the end of a round: one process with --agents=statistical --parallel=1,
another with --agents=random --parallel=1.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import aevo_jax.campaign.setup.settings  # noqa: F401  registers what gin may bind
from aevo_jax import layout
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.setup import setup
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.evaluation.scoring import from_rows
from aevo_jax.ledger.append import read
from aevo_jax.stats.intervals import paired_bootstrap
from aevo_jax.substrate import build, manifest

RESULTS = pathlib.Path(__file__).parent / 'results' / 'campaign_gain'
AGENTS = ('statistical', 'random', 'tpe', 'best_of_n', 'frozen')
REFERENCE = 'statistical'


def correct(run: pathlib.Path, group: str, seeds: int, verifier: str) -> np.ndarray:
  """[seeds, items] of 0 / 1 on the final set; a retraining that failed is left out."""
  names = ['base'] if group == 'base' else [f'{group}{k}' for k in range(seeds)]
  files = [path for n in names if (path := run / 'scores' / f'{n}.final.json').exists()]
  if not files:
    raise SystemExit(
      f'{run}: no retraining of the {group} recipe was scored; see `aevo trial {run} {names[0]}`'
    )
  return np.asarray(
    [
      [getattr(result, verifier) for result in from_rows(json.loads(path.read_text())['items'])]
      for path in files
    ],
    np.int8,
  )


def outcome(run: pathlib.Path, constitution) -> dict:
  """Gains of a finished run, with intervals."""
  records = read(run / 'ledger.jsonl', strict=False)
  state, seeds = fold(records), constitution.budget.final_seeds
  groups = {
    g: correct(run, g, seeds, constitution.objective.verifier)
    for g in ('base', 'starting', 'promoted')
  }
  gains = {}
  for other in ('base', 'starting'):
    gain, interval = paired_bootstrap(groups['promoted'], groups[other], seed=0)
    gains[f'promoted - {other}'] = {
      'gain': round(gain, 4),
      'low': round(interval.low, 4),
      'high': round(interval.high, 4),
    }
  return {
    'accuracy': {g: round(float(c.mean()), 4) for g, c in groups.items()},
    'gains': gains,
    'items': {'promoted': [''.join(map(str, row)) for row in groups['promoted']]},
    'promoted': state.promotions[max(state.promotions)]['promoted'],
    'reasons': [r for k in sorted(state.promotions) for r in state.promotions[k]['reasons']],
    'trials': len(state.trials),
    'parallel': records[0].payload['slots'],
    'seconds': round(records[-1].time - records[0].time),
  }


def answers(result: dict) -> np.ndarray:
  """[seeds, items] of 0 / 1 of a result's promoted recipe."""
  return np.asarray([[int(c) for c in row] for row in result['items']['promoted']], np.int8)


def table(results: Sequence[dict]) -> str:
  """Markdown: one row per campaign, then one line per agent."""
  lines = [
    (
      '| seed | agent | starting | promoted | promoted - base [95%] | promoted - starting '
      '[95%] | statistical - this [95%] | code |'
    ),
    '|---|---|---|---|---|---|---|---|',
  ]

  def show(gain, low, high):
    return f'{gain:+.3f} [{low:+.3f}, {high:+.3f}]'

  reference = {r['seed']: r for r in results if r['agent'] == REFERENCE}
  of: dict[str, list[dict]] = {agent: [] for agent in AGENTS}
  against: dict[str, list[tuple[float, float, float]]] = {agent: [] for agent in AGENTS}
  for r in sorted(results, key=lambda r: (r['seed'], AGENTS.index(r['agent']))):
    a, b = (
      show(g['gain'], g['low'], g['high'])
      for g in (r['gains']['promoted - base'], r['gains']['promoted - starting'])
    )
    difference = ''
    if r['agent'] != REFERENCE and r['seed'] in reference:
      gain, interval = paired_bootstrap(answers(reference[r['seed']]), answers(r), seed=0)
      against[r['agent']].append((gain, interval.low, interval.high))
      difference = show(gain, interval.low, interval.high)
    of[r['agent']].append(r)
    lines.append(
      f'| {r["seed"]} | {r["agent"]} | {r["accuracy"]["starting"]:.3f} | '
      f'{r["accuracy"]["promoted"]:.3f} | {a} | {b} | {difference} | {r["code"][:8]} |'
    )
  lines.append('')
  for agent, ran in of.items():
    if ran:
      above = [
        sum(r['gains'][f'promoted - {other}']['low'] > 0 for r in ran)
        for other in ('base', 'starting')
      ]
      mean = np.mean([r['gains']['promoted - starting']['gain'] for r in ran])
      lines.append(
        f'{agent}: above base in {above[0]} of {len(ran)}, above the starting recipe in '
        f'{above[1]} of {len(ran)} (interval above 0), by {mean:+.3f} on average'
      )
  for agent, pairs in against.items():
    if pairs:
      lines.append(
        f'{REFERENCE} against {agent}: won {sum(low > 0 for _, low, _ in pairs)}, lost '
        f'{sum(high < 0 for _, _, high in pairs)} of {len(pairs)}, '
        f'{np.mean([gain for gain, _, _ in pairs]):+.3f} on average'
      )
  return '\n'.join(lines)


def run_campaign(
  seed: int, agent: str, run: pathlib.Path, constitution, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Runs a campaign, or what is missing of it, and returns what it came to."""
  start = [
    f'--run={run}',
    f'--gin_file={arguments.gin_file}',
    f'--gin.campaign.seed={seed}',
    f'--gin.campaign.agent="{agent}"',
    f'--gin.campaign.parallel={arguments.parallel}',
  ]
  if run.exists():
    start = [f'--resume={run}']
  subprocess.run([sys.executable, '-m', 'aevo_jax.cli', 'campaign', *start], check=True)
  return outcome(run, constitution) | {
    'seed': seed,
    'agent': agent,
    'code': manifest.read(run / setup.SUBSTRATE).code_tree.digest,
    'finished': time.strftime('%Y-%m-%d %H:%M', time.gmtime()),
  }


def parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--first_seed', type=int, default=0)
  parser.add_argument('--agents', default=','.join(AGENTS))
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'campaign_gain')
  parser.add_argument('--gin_file', default='configs/campaigns/quickstart.gin')
  parser.add_argument(
    '--parallel',
    type=int,
    default=0,
    help='processes of a campaign that compute at once; 0 is one per core',
  )
  parser.add_argument('--keep', action='store_true', help='keep trial directories of finished runs')
  parser.add_argument('--table', action='store_true')
  return parser.parse_args()


def main() -> None:
  arguments = parse_arguments()

  loading.load(
    [str(layout.root_file('constitution.gin')), arguments.gin_file],
    [],
    search_paths=layout.search_paths(),
  )
  constitution = constitution_lib.from_gin()
  measured = build.measure(
    layout.root_file('substrate'), pathlib.Path(layout.__file__).parent.parent
  )
  base = measured.base_checkpoint.logical_digest
  inputs = f'{constitution.digest()[:12]}-{base[:12]}-{measured.recipe[:12]}'
  keys = {
    (seed, agent): f'{inputs}-{agent}{seed}'
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for agent in arguments.agents.split(',')
  }
  for (seed, agent), key in keys.items():
    path = RESULTS / f'{key}.json'
    if arguments.table or path.exists():
      continue
    run = arguments.runs / f'{agent}{seed}-{measured.base_checkpoint.logical_digest[:8]}'
    result = run_campaign(seed, agent, run, constitution, arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + '\n')
    if not arguments.keep:
      shutil.rmtree(run / 'trials')
  results = []
  for key in keys.values():
    path = RESULTS / f'{key}.json'
    if path.exists():
      results.append(json.loads(path.read_text()))
  print(table(results))


if __name__ == '__main__':
  main()
