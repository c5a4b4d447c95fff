"""From the start of a worker's process to its first training step.

Alone, as the second process of a campaign would without what campaigns share, and as a campaign
starts it (C9).

  make smoke                                                       once: a finished campaign, and
  its compilation cache beside it .venv/bin/python benchmarks/worker_start.py [--run=runs/smoke]
  [--pairs=11]

`cold` is a new interpreter without a compilation cache; `warm` is forked from the fork server and
reads the campaign's cache. Both are on one thread, locked in, with the campaign's starting recipe.
They run in turns; each ends with the first line of metrics.jsonl.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import versus

from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Job
from aevo_jax.campaign.trial.spec import TrialSpec

COLD = 'aevo_jax.campaign.trial.worker'


def prepare(directory: pathlib.Path, spec: TrialSpec) -> None:
  directory.mkdir()
  spec.write(directory)
  (directory / 'substrate.fork.json').write_text(
    json.dumps({'schema': 1, 'digest': spec.substrate, 'store': spec.store}) + '\n'
  )


def until_first_step(directory: pathlib.Path, started: float) -> float:
  metrics = directory / 'metrics.jsonl'
  while not metrics.exists() or not metrics.stat().st_size:
    if (directory / 'result.json').exists() and not metrics.exists():
      sys.exit(f'the worker did not train: {(directory / "result.json").read_text()}')
    time.sleep(0.002)
  return time.perf_counter() - started


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--run', type=pathlib.Path, default=pathlib.Path('runs') / 'smoke')
  parser.add_argument('--pairs', type=int, default=11)
  arguments = parser.parse_args()
  found = sorted(
    path.parent
    for path in arguments.run.glob('trials/*/spec.json')
    if not TrialSpec.read(path.parent).overlay.strip()
  )
  if not found:
    sys.exit(
      f'worker_start: no trial of the starting recipe in {arguments.run}; finish a '
      'campaign there first: make smoke'
    )
  spec = TrialSpec.read(found[0])
  if not os.path.isdir(os.path.join(spec.cache, 'programs')):
    sys.exit(f'worker_start: {arguments.run} has left no compilation cache beside it')
  cold, warm = [], []
  with tempfile.TemporaryDirectory() as scratch:
    root = pathlib.Path(scratch)
    executor = LocalExecutor(1, root / 'fork_server.log')
    executor.prepare()
    for i in range(arguments.pairs + 1):  # the first pair fills the page cache
      prepare(root / f'cold{i}', dataclasses.replace(spec, cache=''))
      started = time.perf_counter()
      process = subprocess.Popen(
        [sys.executable, '-m', COLD, str(root / f'cold{i}')],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      )
      cold.append(until_first_step(root / f'cold{i}', started))
      process.kill()
      process.wait()
      prepare(root / f'warm{i}', spec)
      started = time.perf_counter()
      handle = executor.submit(f'warm{i}', Job(root / f'warm{i}', 600))
      warm.append(until_first_step(root / f'warm{i}', started))
      executor.cancel(handle)
    executor.close()
  r = versus.ratio(warm[1:], cold[1:])
  print(
    f'warm {np.median(warm[1:]):.2f} s, cold {np.median(cold[1:]):.2f} s, ratio of '
    f'medians {r["ratio"]:.2f} [{r["low"]:.2f}, {r["high"]:.2f}], {arguments.pairs} pairs'
  )


if __name__ == '__main__':
  main()
