"""What reinforcement learning adds to supervised fine-tuning on few demonstrations.

Beside more fine-tuning of the same length on the clock.

  .venv/bin/python benchmarks/rl_gain.py run [--seeds=0-2] [--algorithm=grpo] [--demonstrations=64]
  [--gin_bindings=...]     trains what is missing, then prints the table .venv/bin/python
  benchmarks/rl_gain.py table

For each seed: the base is fine-tuned on so many demonstrations until their loss is next to nothing
(`sft`); from there `rl`, on puzzles of which it is told no solution but only whether an answer is
right, and, for as many seconds of steps, `more`: fine-tuning on the same demonstrations at each of
two learning rates, of which the best on the scored items counts; and `endless`: fine-tuning on
demonstrations that never repeat, which is what reinforcement learning does without.
--demonstrations=0 gives every arm endless ones. Greedy accuracy on 3,000 items with rules of the
external split, differences with paired bootstrap intervals over items and seeds. Results accumulate
in benchmarks/results/rl_gain/, item by item.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()

import numpy as np

import aevo_jax.campaign.setup.settings  # noqa: F401  registers what gin may bind
from aevo_jax import layout
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation import scoring, sets
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline
from aevo_jax.stats.intervals import paired_bootstrap
from aevo_jax.tasks.mixture import FAMILIES

RESULTS = pathlib.Path(__file__).parent / 'results' / 'rl_gain'
SECRET = hashlib.sha256(b'benchmarks/rl_gain.py').digest()  # of the scored items; no run is told
SFT_TOKENS = {64: 60_000, 0: 1_000_000}  # by demonstrations: until more of them gains little
RATES = (5e-5, 2.5e-4)  # of `more`; the last is the starting recipe's
MORE_SEED = 1000


def aevo(*arguments: str) -> None:
  subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', 'train', '--checkpoint_every=0', *arguments], check=True
  )


def seconds(run: pathlib.Path) -> float:
  """Of all steps after the first, which compiles."""
  return sum(
    json.loads(line)['seconds'] for line in (run / 'metrics.jsonl').read_text().splitlines()[1:]
  )


def score(run: pathlib.Path) -> list[int]:
  """1 for each item that is answered right."""
  base = run / 'export'
  config = checkpoint.read_config(base)
  scorer = scoring.Scorer(
    outline(config)[0],
    tokenizers.load(str(base)),
    items(),
    max_new_tokens=constitution().objective.max_new_tokens,
  )
  return [
    int(result.strict) for result in scorer(weights_lib.load(base / checkpoint.WEIGHTS, config))
  ]


def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def items():
  return sets.private_items(constitution(), 'external', SECRET)


def train_as_long(
  rl: pathlib.Path, out: pathlib.Path, tokens: int, *arguments: str
) -> dict[str, Any]:
  """Trains by supervision for about as long as the run `rl` took, from a guess of the tokens."""
  # The second time with what the first shows to be right, where it was not as long.
  for _ in range(2):
    shutil.rmtree(out, ignore_errors=True)
    aevo(f'--out={out}', f'--tokens={tokens}', '--steps=1000000', *arguments)
    if abs(seconds(out) / seconds(rl) - 1) < 0.1:
      break
    tokens = int(tokens * seconds(rl) / seconds(out))
  return {'right': score(out), 'seconds': seconds(out)}


def run_seed(
  seed: int,
  algorithm: str,
  demonstrations: int,
  steps: int,
  bindings: Sequence[str],
  runs: pathlib.Path,
) -> dict[str, Any]:
  few, sft_tokens = f'--gin.data.demonstrations={demonstrations}', SFT_TOKENS[demonstrations]
  sft, rl = runs / f'sft{demonstrations}_{seed}', runs / f'{algorithm}{demonstrations}_{seed}'
  if not (sft / 'export').exists():
    aevo(f'--out={sft}', f'--seed={seed}', few, f'--tokens={sft_tokens}', '--steps=100000')
  started_from = [f'--base={sft / "export"}']
  aevo(
    *started_from,
    f'--out={rl}',
    f'--seed={seed}',
    f'--gin_file=configs/algorithms/{algorithm}.gin',
    f'--rl_steps={steps}',
    *(f'--gin_bindings={b}' for b in bindings),
  )
  rows = [json.loads(line) for line in (sft / 'metrics.jsonl').read_text().splitlines()]
  tokens = int(seconds(rl) * sft_tokens / (seconds(sft) * len(rows) / (len(rows) - 1)))

  def supervised(name: str, rate: float, number: int, *extra: str) -> dict[str, Any]:
    return train_as_long(
      rl,
      runs / f'{name}_{rl.name}_{rate}',
      tokens,
      *started_from,
      f'--seed={number}',
      f'--gin.optimizer.learning_rate={rate}',
      *extra,
    )

  # The same seed is the same demonstrations; where they never repeat, another seed is others.
  more = {
    str(rate): supervised('more', rate, seed if demonstrations else MORE_SEED + seed, few)
    for rate in RATES
  }
  endless = (
    supervised('endless', RATES[-1], MORE_SEED + seed) if demonstrations else more[str(RATES[-1])]
  )
  return {
    'algorithm': algorithm,
    'seed': seed,
    'demonstrations': demonstrations,
    'steps': steps,
    'bindings': list(bindings),
    'sft': {'right': score(sft), 'seconds': seconds(sft)},
    'rl': {'right': score(rl), 'seconds': seconds(rl)},
    'more': more,
    'endless': endless,
    'families': [item.family for item in items()],
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'machine': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores',
  }


def table(found: Sequence[dict[str, Any]]) -> str:
  families = np.array(found[0]['families'])

  def of(name):
    return np.array([r[name]['right'] for r in found])

  best = np.array([max((m['right'] for m in r['more'].values()), key=sum) for r in found])

  def each(xs):
    return '/'.join(f'{x:.0f}' for x in xs)

  lines = [
    f'{found[0]["algorithm"]}, {found[0]["steps"]} steps, '
    f'{found[0]["demonstrations"] or "endless"} demonstrations, {len(found)} seeds; '
    f'seconds of steps by seed: sft {each(r["sft"]["seconds"] for r in found)}, '
    f'rl {each(r["rl"]["seconds"] for r in found)}, more '
    f'{each(max(m["seconds"] for m in r["more"].values()) for r in found)}, endless '
    f'{each(r["endless"]["seconds"] for r in found)}; '
    f'bindings {" ".join(found[0]["bindings"]) or "none"}; '
    f'{", ".join(sorted({r["machine"] for r in found}))}, {found[-1]["date"]}',
    '',
    '| family | sft | more sft | rl | rl - sft [95%] | rl - more sft [95%] | endless |',
    '|---|---|---|---|---|---|---|',
  ]
  for family in (*FAMILIES, 'overall'):
    at = families == family if family != 'overall' else np.ones(len(families), bool)
    a, b, c, d = of('sft')[:, at], best[:, at], of('rl')[:, at], of('endless')[:, at]
    cells = []
    for other in (a, b):
      gain, interval = paired_bootstrap(c, other, seed=0)
      cells.append(f'{gain:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]')
    lines.append(
      f'| {family} | {a.mean():.3f} | {b.mean():.3f} | {c.mean():.3f} | '
      f'{" | ".join(cells)} | {d.mean():.3f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--seeds', default='0-2', help='one seed, or the first and the last')
  parser.add_argument('--algorithm', default='grpo')
  parser.add_argument('--demonstrations', type=int, default=64, choices=sorted(SFT_TOKENS))
  parser.add_argument('--steps', type=int, default=80)
  parser.add_argument('--gin_bindings', action='append', default=[])
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'rl_gain')
  arguments = parser.parse_args()
  RESULTS.mkdir(exist_ok=True)
  if arguments.mode == 'run':
    first, _, last = arguments.seeds.partition('-')
    for seed in range(int(first), int(last or first) + 1):
      path = RESULTS / f'{arguments.algorithm}_{arguments.demonstrations}_{seed}.json'
      if not path.exists():
        path.write_text(
          json.dumps(
            run_seed(
              seed,
              arguments.algorithm,
              arguments.demonstrations,
              arguments.steps,
              arguments.gin_bindings,
              arguments.runs,
            )
          )
          + '\n'
        )
  for kind in sorted({p.stem.rpartition('_')[0] for p in RESULTS.glob('*.json')}):
    print(table([json.loads(p.read_text()) for p in sorted(RESULTS.glob(f'{kind}_*.json'))]) + '\n')


if __name__ == '__main__':
  main()
