"""Accuracy of many recipes on dev.

The learning-rate x steps grid behind the starting recipe, and a wider random search for headroom.

  .venv/bin/python benchmarks/recipe_search.py grid   --out=substrate/grid.json
  .venv/bin/python benchmarks/recipe_search.py random --count=40
  --out=benchmarks/results/headroom.json

Each recipe is one worker process, unconfined but otherwise as in a campaign, scored by the
evaluator process on the constitution's dev set. Results accumulate in --out, keyed by recipe, seed
and base: run again, it continues. The grid's seed is not one that campaigns use.
"""

import argparse
import collections
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from aevo_jax import layout
from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Ended
from aevo_jax.campaign.executors.protocol import Job as Attempt
from aevo_jax.campaign.trial.gate import admit, default_values, full_recipe
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.search_space import prune, sample
from aevo_jax.config.statements import parse_statements
from aevo_jax.evaluation.servers.client import EVALUATOR, Server, ServerArguments
from aevo_jax.meta_agent.policy import render_overlay
from aevo_jax.substrate import build
from aevo_jax.substrate.store import Store

LEARNING_RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3)
STEP_ROWS = ((320, 2), (160, 4), (80, 8), (40, 16))  # steps x rows of 128 tokens: equal tokens
SHORTER = ((20, 16),)  # half the tokens, to show that the budget is worth using


def grid() -> list[dict]:
  """Overlays of the grid; train.steps is bound so that the table shows it."""
  return [
    {'optimizer.learning_rate': rate, 'train.batch_rows': rows, 'train.steps': steps}
    for rate, (steps, rows) in itertools.product(LEARNING_RATES, STEP_ROWS + SHORTER)
  ]


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


class Job(NamedTuple):
  """One recipe to train and score; `key` names it in the results."""

  key: str
  overlay: dict
  recipe: str
  seed: int


class Search:
  """Trains and scores jobs in a scratch store, at most `parallel` processes at a time.

  And adds what they gave to `results`, which is saved in `out`.
  """

  def __init__(self, constitution, out: pathlib.Path, parallel: int):
    self.constitution, self._out, self._parallel = constitution, out, parallel
    self._scratch = pathlib.Path(tempfile.mkdtemp(prefix='aevo-search-'))
    self._store = Store(self._scratch / 'store')
    root = layout.root_file('substrate')
    measured = build.measure(root, pathlib.Path(layout.__file__).parent.parent)
    self._substrate, self._base_digest = (
      build.build(root, measured, self._store),
      measured.base_checkpoint.logical_digest,
    )
    (self._scratch / 'constitution.gin').write_text(constitution.text())
    self.starting = self._substrate.recipe
    self.results = json.loads(out.read_text()) if out.exists() else {'command': '', 'runs': {}}
    self.results['command'] = 'python ' + ' '.join(sys.argv)

  def job(self, overlay: dict, seed: int) -> Job:
    recipe = full_recipe(parse_statements(render_overlay(overlay)), self.starting)
    key = hashlib.sha256(
      f'{recipe}|{seed}|{self._base_digest}|{self.constitution.dev_set}'.encode()
    ).hexdigest()[:16]
    return Job(key, overlay, recipe, seed)

  def run(self, jobs: Iterable[Job]) -> None:
    """Trains and scores every job."""
    jobs, running = collections.deque(jobs), {}
    arguments = ServerArguments(
      base=self._store.path(self._substrate.object),
      constitution=self._scratch / 'constitution.gin',
      cache=str(self._scratch / 'cache'),
    )
    evaluator = Server(arguments.command(EVALUATOR), self._scratch / 'evaluator.log')
    executor = LocalExecutor(self._parallel, self._scratch / 'fork_server.log')
    deadline_s = self.constitution.budget.trial_deadline_s
    while jobs or running or evaluator.waiting or evaluator.busy:
      if evaluator.waiting and len(running) + evaluator.busy < self._parallel:
        evaluator.send_next()
      while jobs and len(running) + evaluator.busy < self._parallel:
        job = jobs.popleft()
        executor.submit(job.key, Attempt(self._prepare(job), deadline_s))
        running[job.key] = job
      if (answer := evaluator.poll()) is not None:
        (job, claim), reply = answer
        self._scored(job, claim, reply['summary'])
      for key in list(running):
        if isinstance(executor.poll(key), Ended):
          self._ended(running.pop(key), evaluator)
      time.sleep(0.02)
    evaluator.close()
    executor.close()
    self._save()
    shutil.rmtree(self._scratch)

  def _prepare(self, job: Job) -> pathlib.Path:
    directory, budget = self._scratch / job.key, self.constitution.budget
    directory.mkdir()
    TrialSpec(
      trial=job.key,
      store=str(self._store.root),
      substrate=self._substrate.object,
      base_digest=self._base_digest,
      constitution=self.constitution.digest(),
      recipe=job.recipe,
      overlay='',
      seed=job.seed,
      size=self.constitution.objective.size,
      tokens=budget.trial_tokens,
      steps=budget.trial_steps,
      threads=1,
      axes=self.constitution.search_space.axes,
      cache=str(self._scratch / 'cache'),
      locked=False,
    ).write(directory)
    self._store.fork(self._substrate.object, directory)
    return directory

  def _ended(self, job: Job, evaluator: Server) -> None:
    directory = self._scratch / job.key
    claim = {'status': 'crashed'}
    if (directory / RESULT).exists():
      claim = json.loads((directory / RESULT).read_text())
    if claim['status'] != 'trained':
      self.results['runs'][job.key] = {'overlay': job.overlay, 'seed': job.seed, 'claim': claim}
      return
    weights = directory / EXPORT
    evaluator.submit(
      (job, claim),
      {
        'op': 'score',
        'weights': str(weights),
        'file_digest': file_digest(weights),
        'out': str(directory / 'dev.json'),
      },
    )

  def _scored(self, job: Job, claim: dict, summary: dict) -> None:
    overall, families = (
      summary['overall'],
      {name: score['accuracy'] for name, score in summary['by_family'].items()},
    )
    self.results['runs'][job.key] = {
      'overlay': job.overlay,
      'seed': job.seed,
      'accuracy': overall['accuracy'],
      'low': overall['low'],
      'high': overall['high'],
      'by_family': families,
      'claim': claim,
    }
    print(
      f'{overall["accuracy"]:.3f}  {job.overlay}  '
      + ' '.join(f'{name[:4]}={accuracy:.2f}' for name, accuracy in families.items()),
      flush=True,
    )
    self._save()
    shutil.rmtree(self._scratch / job.key)

  def _save(self) -> None:
    self._out.parent.mkdir(parents=True, exist_ok=True)
    self._out.write_text(json.dumps(self.results, indent=1, sort_keys=True) + '\n')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['grid', 'random', 'overlays'])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--count', type=int, default=40)
  parser.add_argument('--seeds', type=int, default=1)
  parser.add_argument('--seed', type=int, default=9000, help='of recipes and of training')
  parser.add_argument(
    '--overlays', type=pathlib.Path, help='a JSON list of overlays, for mode overlays'
  )
  parser.add_argument('--parallel', type=int, default=len(os.sched_getaffinity(0)))
  arguments = parser.parse_args()

  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  constitution = constitution_lib.from_gin()
  search = Search(constitution, arguments.out, arguments.parallel)
  if arguments.mode == 'grid':
    overlays = grid()
  elif arguments.mode == 'random':
    overlays = random_recipes(
      constitution, default_values(search.starting), arguments.count, arguments.seed
    )
    for overlay in overlays:
      admit(render_overlay(overlay), constitution, search.starting)
  else:
    overlays = json.loads(arguments.overlays.read_text())
  jobs = [
    search.job(overlay, arguments.seed + k) for overlay in overlays for k in range(arguments.seeds)
  ]
  missing = [job for job in jobs if job.key not in search.results['runs']]
  print(f'{len(missing)} of {len(jobs)} to run')
  search.run(missing)
  ranked = sorted(
    (r for r in search.results['runs'].values() if 'accuracy' in r), key=lambda r: -r['accuracy']
  )
  for run in ranked[:10]:
    print(
      f'{run["accuracy"]:.3f} [{run["low"]:.3f}, {run["high"]:.3f}]  seed {run["seed"]}  '
      f'{run["overlay"]}'
    )


if __name__ == '__main__':
  main()
