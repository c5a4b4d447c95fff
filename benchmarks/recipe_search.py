"""Accuracy of many recipes on dev: the learning-rate x steps grid behind the starting recipe, and a wider random search for headroom.

  .venv/bin/python benchmarks/recipe_search.py grid   --out=substrate/grid.json
  .venv/bin/python benchmarks/recipe_search.py random --count=40 --out=benchmarks/results/headroom.json

Each recipe is one worker process, unconfined but otherwise as in a campaign, scored by the evaluator process on the constitution's dev set. Results
accumulate in --out, keyed by recipe, seed and base: run again, it continues. The grid's seed is not one that campaigns use.
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.gate import admit, default_values, full_recipe
from aevo_jax.campaign.processes import Nursery, Server, Worker
from aevo_jax.campaign.trial import EXPORT, RESULT, TrialSpec
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.search_space import sample
from aevo_jax.config.statements import parse_statements, render
from aevo_jax.meta_agent.policy import render_overlay
from aevo_jax.meta_agent.statistical_agent import prune
from aevo_jax.substrate import build
from aevo_jax.substrate.store import Store

LEARNING_RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3)
STEP_ROWS = ((320, 2), (160, 4), (80, 8), (40, 16))  # steps x rows of 128 tokens: equal tokens
SHORTER = ((20, 16),)  # half the tokens, to show that the budget is worth using


def grid() -> list[dict]:
  """Overlays of the grid; train.steps is bound so that the table shows it."""
  return [{'optimizer.learning_rate': rate, 'train.batch_rows': rows, 'train.steps': steps}
          for rate, (steps, rows) in itertools.product(LEARNING_RATES, STEP_ROWS + SHORTER)]


def random_recipes(constitution, defaults, count: int, seed: int) -> list[dict]:
  """Overlays that draw each axis with probability 1/2; the first is the starting recipe."""
  space, recipes = constitution.space(), [{}]
  for index in range(count):
    rng, overlay = np.random.default_rng([seed, index]), {}
    for axis in space.axes:
      drawn = sample(axis, rng, {**defaults, **overlay})
      if rng.random() < 0.5:
        overlay |= {b.selector: b.value for b in drawn}
    recipes.append(prune(overlay, space, defaults))
  return recipes


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('mode', choices=['grid', 'random', 'overlays'])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--count', type=int, default=40)
  parser.add_argument('--seeds', type=int, default=1)
  parser.add_argument('--seed', type=int, default=9000, help='of recipes and of training')
  parser.add_argument('--overlays', type=pathlib.Path, help='a JSON list of overlays, for mode overlays')
  parser.add_argument('--parallel', type=int, default=len(os.sched_getaffinity(0)))
  arguments = parser.parse_args()

  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  constitution = constitution_lib.from_gin()
  root = layout.root_file('substrate')
  scratch = pathlib.Path(tempfile.mkdtemp(prefix='aevo-search-'))
  store = Store(scratch / 'store')
  measured = build.measure(root, pathlib.Path(layout.__file__).parent.parent)
  substrate = build.build(root, measured, store)
  (scratch / 'constitution.gin').write_text(constitution.text())
  defaults = default_values(substrate.recipe)
  overlays = {'grid': grid, 'random': lambda: random_recipes(constitution, defaults, arguments.count, arguments.seed),
              'overlays': lambda: json.loads(arguments.overlays.read_text())}[arguments.mode]()

  results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {'command': '', 'runs': {}}
  results['command'] = 'python ' + ' '.join(sys.argv)
  jobs = []
  for overlay, k in itertools.product(overlays, range(arguments.seeds)):
    recipe = full_recipe(parse_statements(render_overlay(overlay)), substrate.recipe)
    if arguments.mode == 'random':
      admit(render_overlay(overlay), constitution, substrate.recipe)
    seed = arguments.seed + k
    key = hashlib.sha256(f'{recipe}|{seed}|{measured.base_checkpoint.logical_digest}|{constitution.dev_set}'.encode()).hexdigest()[:16]
    if key not in results['runs']:
      jobs.append((key, overlay, recipe, seed))
  print(f'{len(jobs)} of {len(overlays) * arguments.seeds} to run')

  evaluator = Server([sys.executable, '-m', 'aevo_jax.evaluation.evaluator', '--base', str(store.path(substrate.object)), '--constitution',
                      str(scratch / 'constitution.gin'), '--cache', str(scratch / 'cache')], scratch / 'evaluator.log')
  nursery = Nursery(scratch / 'nursery.log')
  running, budget = {}, constitution.budget

  def finish(key: str, worker: Worker, job) -> None:
    claim = json.loads((worker.directory / RESULT).read_text()) if (worker.directory / RESULT).exists() else {'status': 'crashed'}
    if claim['status'] != 'trained':
      results['runs'][key] = {'overlay': job[1], 'seed': job[3], 'claim': claim}
    else:
      weights = worker.directory / EXPORT
      evaluator.submit((key, job, claim, worker.directory), {'op': 'score', 'weights': str(weights), 'file_digest': file_digest(weights),
                                                             'out': str(worker.directory / 'dev.json')})

  while jobs or running or evaluator.waiting or evaluator.busy:
    if evaluator.waiting and len(running) + evaluator.busy < arguments.parallel:
      evaluator.send_next()
    while jobs and len(running) + evaluator.busy < arguments.parallel:
      job = jobs.pop(0)
      key, overlay, recipe, seed = job
      directory = scratch / key
      directory.mkdir()
      TrialSpec(trial=key, store=str(store.root), substrate=substrate.object, base_digest=measured.base_checkpoint.logical_digest,
                constitution=constitution.digest(), recipe=recipe, overlay='', seed=seed, size=constitution.objective.size, tokens=budget.trial_tokens,
                steps=budget.trial_steps, threads=1, axes=constitution.search_space.axes, cache=str(scratch / 'cache'), locked=False).write(directory)
      store.fork(substrate.object, directory)
      running[key] = (nursery.start(key, directory, budget.trial_deadline_s), job)
    answer = evaluator.poll()
    if answer is not None:
      (key, job, claim, directory), reply = answer
      overall = reply['summary']['overall']
      results['runs'][key] = {'overlay': job[1], 'seed': job[3], 'accuracy': overall['accuracy'], 'low': overall['low'], 'high': overall['high'],
                              'by_family': {n: s['accuracy'] for n, s in reply['summary']['by_family'].items()}, 'claim': claim}
      print(f'{overall["accuracy"]:.3f}  {job[1]}  ' + ' '.join(f'{n[:4]}={s["accuracy"]:.2f}' for n, s in reply['summary']['by_family'].items()), flush=True)
      arguments.out.parent.mkdir(parents=True, exist_ok=True)
      arguments.out.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
      shutil.rmtree(directory)
    for key, (worker, job) in list(running.items()):
      if worker.poll() is not None:
        del running[key]
        finish(key, worker, job)
    time.sleep(0.02)
  evaluator.close()
  nursery.close()
  arguments.out.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
  shutil.rmtree(scratch)
  ranked = sorted((r for r in results['runs'].values() if 'accuracy' in r), key=lambda r: -r['accuracy'])
  for run in ranked[:10]:
    print(f'{run["accuracy"]:.3f} [{run["low"]:.3f}, {run["high"]:.3f}]  seed {run["seed"]}  {run["overlay"]}')


if __name__ == '__main__':
  main()
