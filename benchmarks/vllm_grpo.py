"""GRPO whose rollouts a vLLM server draws, with weights updated in place before each step.

Beside the same run with the in-process sampler.

  .venv/bin/python benchmarks/vllm_grpo.py run [--seeds=0-2] [--steps=60] [--runs=runs/vllm_grpo]
  trains what is missing, then prints the table .venv/bin/python benchmarks/vllm_grpo.py table

For each seed the base is fine-tuned on 64 demonstrations as in rl_gain.py, and from there GRPO runs
with each of three engines: `jax`; `vllm`; and `vllm, ahead`, where the next step's rollouts are
drawn while this one trains (rollout.asynchronous). The engines draw other tokens from the same
seeds, so that rewards differ as between two seeds of one engine. Compared are the mean reward of
the last third of the steps, and greedy accuracy on rl_gain.py's 3,000 items with a paired bootstrap
over items and seeds. Results are kept in benchmarks/results/vllm_grpo.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform

import numpy as np
import rl_gain  # beside this file
from scipy import stats

from aevo_jax.stats.intervals import paired_bootstrap

RESULTS = pathlib.Path(__file__).parent / 'results' / 'vllm_grpo.json'
SERVED = ("--gin.rollout.engine='vllm'", '--gin.vllm.max_model_len=512')
ENGINES = {'jax': (), 'vllm': SERVED, 'vllm, ahead': (*SERVED, '--gin.rollout.asynchronous=True')}
DEMONSTRATIONS, PROMPTS = 64, 16
FIXED = (
  '--gin_file=configs/algorithms/grpo.gin',
  '--gin.optimizer.learning_rate=2e-4',
  '--gin.optimizer.weight_decay=0.0',
  f'--gin.rollout.prompts={PROMPTS}',
  '--gin.policy_gradient.kl_coefficient=0.001',
)


def run_seed(seed: int, engine: str, steps: int, runs: pathlib.Path) -> dict:
  sft, out = runs / f'sft_{seed}', runs / f'{engine.replace(", ", "_")}_{seed}'
  if not (sft / 'export').exists():
    rl_gain.aevo(
      f'--out={sft}',
      f'--seed={seed}',
      f'--gin.data.demonstrations={DEMONSTRATIONS}',
      f'--tokens={rl_gain.SFT_TOKENS[DEMONSTRATIONS]}',
      '--steps=100000',
    )
  rl_gain.aevo(
    f'--base={sft / "export"}',
    f'--out={out}',
    f'--seed={seed}',
    *FIXED,
    *ENGINES[engine],
    f'--rl_steps={steps}',
  )
  rows = [json.loads(line) for line in (out / 'metrics.jsonl').read_text().splitlines()]

  def of(name):
    return [row[name] for row in rows]

  digests = [
    {
      json.loads(line)['digests'][0]
      for line in (out / 'rollouts' / f'{step:06}.jsonl').read_text().splitlines()[1:]
    }
    if engine != 'jax'
    else set()
    for step in range(steps)
  ]
  return {
    'seed': seed,
    'engine': engine,
    'steps': steps,
    'reward': of('reward'),
    'before': rl_gain.score(sft),
    'after': rl_gain.score(out),
    'gap_max': max(of('logprob_gap_max')),
    'staleness': float(np.mean(of('staleness'))),
    'digests': len(set().union(*digests)),
    'mixed_steps': sum(len(d) > 1 for d in digests),
    'seconds': {
      name: float(np.median(of(name)[1:]))
      for name in (
        'seconds',
        'seconds/sync',
        'seconds/generate',
        'seconds/update',
        'seconds/waiting',
      )
    },
    'facts': facts(),
  }


def facts() -> dict:
  return {
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'machine': f'{platform.machine()}, {platform.system()}, {len(os.sched_getaffinity(0))} cores',
    'jax': importlib.metadata.version('jax'),
  }


def last_third(row: dict) -> float:
  return float(np.mean(row['reward'][-(len(row['reward']) // 3) :]))


def difference(a: list[float], b: list[float]) -> str:
  """Mean of a - b over seeds, which have their prompts in common.

  And the 95% interval of the paired t.
  """
  found = stats.ttest_rel(a, b).confidence_interval()
  return f'{np.mean(a) - np.mean(b):+.3f} [{found.low:+.3f}, {found.high:+.3f}]'


def table(rows: list[dict]) -> str:
  steps = rows[-1]['steps']  # rows of another length are of another comparison
  seeds = sorted({r['seed'] for r in rows if r['steps'] == steps and r['engine'] == 'jax'})
  by = {
    engine: [
      r
      for seed in seeds
      for r in rows
      if (r['seed'], r['engine'], r['steps']) == (seed, engine, steps)
    ]
    for engine in ENGINES
  }

  def each(values):
    return ' / '.join(f'{v:.3f}' for v in values)

  lines = [
    (
      '| engine | reward, first 10 steps, by seed | reward, last third, by seed | less jax '
      '[95%] | accuracy before -> after | less jax [95%] | largest gap | files given | '
      'median s of a step |'
    ),
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for engine, found in by.items():
    if not found:
      continue
    rewards = [last_third(r) for r in found]
    less = ('', '')
    if engine != 'jax' and len(found) == len(seeds) > 1:
      gain, interval = paired_bootstrap(
        *(np.array([r['after'] for r in side]) for side in (found, by['jax'])), seed=0
      )
      less = (
        difference(rewards, [last_third(r) for r in by['jax']]),
        f'{gain:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]',
      )
    lines.append(
      f'| {engine} | {each(np.mean(r["reward"][:10]) for r in found)} | {each(rewards)} | '
      f'{less[0]} | {np.mean([r["before"] for r in found]):.3f} -> '
      f'{np.mean([r["after"] for r in found]):.3f} | '
      f'{less[1]} | {max(r["gap_max"] for r in found):.1e} | '
      f'{" / ".join(str(r["digests"]) for r in found)} | '
      f'{" / ".join(f"{r['seconds']['seconds']:.1f}" for r in found)} |'
    )
  return '\n'.join(
    [
      *lines,
      '',
      f'GRPO, {steps} steps of {PROMPTS} x 8 completions, seeds '
      f'{", ".join(str(r["seed"]) for r in by["jax"])}; steps whose completions were made '
      'by more than one file: '
      f'{sum(r["mixed_steps"] for r in rows)}; '
      f'{"; ".join(sorted({json.dumps(r["facts"]) for r in rows}))}',
    ]
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--seeds', default='0-2', help='one seed, or the first and the last')
  parser.add_argument('--engines', default=';'.join(ENGINES), help='divided by semicolons')
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs') / 'vllm_grpo')
  arguments = parser.parse_args()
  rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
  if arguments.mode == 'run':
    first, _, last = arguments.seeds.partition('-')
    for seed in range(int(first), int(last or first) + 1):
      for engine in arguments.engines.split(';'):
        if not any(
          (r['seed'], r['engine'], r['steps']) == (seed, engine, arguments.steps) for r in rows
        ):
          rows.append(run_seed(seed, engine, arguments.steps, arguments.runs))
          RESULTS.write_text(json.dumps(rows) + '\n')
  if not rows:
    raise SystemExit('vllm_grpo: nothing was measured yet; run it first')
  print(table(rows))


if __name__ == '__main__':
  main()
