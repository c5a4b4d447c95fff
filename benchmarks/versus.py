"""Training, sampling and a step of GRPO beside TRL and Hugging Face: the same model, data and threads, in turns within one run.

  make parity                                              once: makes the peers' environment
  .venv/bin/python benchmarks/versus.py run [--only=C1,C3] [--pairs=11]     measures, and adds to benchmarks/results/versus.json
  .venv/bin/python benchmarks/versus.py table              prints what was measured

Each side is a process of its own that stays; they are asked in turns, ours, theirs, ours, ..., each with all cores while the other waits. The ratio is that of the medians of tokens
(or steps) a second, with a bootstrap interval over pairs. Both sides begin with the same weights; where they train on the same sequences, nothing is timed unless their first losses agree.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax import layout

ROOT = layout.root_file('constitution.gin').parent
RESULTS = pathlib.Path(__file__).parent / 'results' / 'versus.json'
PEERS = pathlib.Path(__file__).parent / 'peers'
PARITY = ROOT / 'third_party' / 'parity' / '.venv' / 'bin' / 'python'
LOSS_TOLERANCE = 0.05  # relative
# id -> (what, unit, our options, {peer: its options}, calls a turn, goal)
COMPARISONS: dict[str, tuple[str, str, dict[str, Any], dict[str, dict[str, Any]], int, str]] = {
    'C1': ('SFT, full rows of 256', 'tokens', {'workload': 'sft', 'ragged': False}, {'TRL': {}, 'TRL, eager attention': {'attention': 'eager'}}, 4, '1.5'),
    'C2': ('SFT, ragged, mean 96', 'tokens', {'workload': 'sft', 'ragged': True}, {'TRL': {}, 'TRL, packing': {'packing': True}}, 4, '3 and 1.5'),
    'C3': ('sampling 8 x 8, 192 + 64 tokens', 'tokens', {'workload': 'sampling'}, {'HF generate': {}, 'HF generate, static cache': {'generate': {'cache_implementation': 'static'}}}, 1, '3'),
    'C4': ('a step of GRPO, the same shapes', 'steps', {'workload': 'grpo'}, {'TRL': {}, 'TRL, 4 accumulated': {'accumulate': 4}}, 1, '3'),
}


class Side:
  """A process that runs one workload when asked."""

  def __init__(self, command: Sequence[str], asked: dict[str, Any], log: pathlib.Path):
    self._log = log
    self._process = subprocess.Popen([*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open('w'), text=True)
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
    return said[unit] / said['seconds']

  def close(self) -> None:
    self._process.stdin.close()
    self._process.kill()
    self._process.wait()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
  """Ratio of medians, and its 95% bootstrap interval over pairs."""
  pairs, rng = np.array([ours, theirs]).T, np.random.default_rng(0)
  drawn = pairs[rng.integers(len(pairs), size=(4000, len(pairs)))]
  ratios = np.median(drawn[..., 0], axis=1) / np.median(drawn[..., 1], axis=1)
  low, high = np.quantile(ratios, [0.025, 0.975])
  return {'ratio': float(np.median(pairs[:, 0]) / np.median(pairs[:, 1])), 'low': float(low), 'high': float(high)}


def measure(name: str, pairs: int, model: str, scratch: pathlib.Path) -> list[dict[str, Any]]:
  what, unit, asked, peers, calls, goal = COMPARISONS[name]
  found = []
  for peer, options in peers.items():
    ours = Side([sys.executable, str(PEERS / 'ours.py')], asked | {'model': model}, scratch / 'ours.log')
    theirs = Side([str(PARITY), str(PEERS / 'trl_peer.py')], asked | options | {'model': model}, scratch / 'theirs.log')
    first = [side.run(2) for side in (ours, theirs)]  # compiles
    if 'loss' in first[0]:  # batches are not drawn in one order, so that losses agree as far as batches of Zipf tokens do
      a, b = (said['loss'] / 2 for said in first)
      if abs(a - b) > LOSS_TOLERANCE * b:
        raise SystemExit(f'{name}: the sides do not train the same thing: losses of the first two steps are {a:.4f} here and {b:.4f} at {peer}')
    rates = [(ours.rate(calls, unit), theirs.rate(calls, unit)) for _ in range(pairs)]
    ours.close()
    theirs.close()
    a, b = zip(*rates)
    found.append({'id': name, 'what': what, 'unit': unit, 'peer': peer, 'goal': goal, 'pairs': pairs, 'ours': list(a), 'theirs': list(b), **ratio(a, b)})
    print(row(found[-1]), flush=True)
  return found


def facts() -> dict[str, Any]:
  code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('trl', 'transformers', 'torch')}))"
  versions = json.loads(subprocess.run([str(PARITY), '-c', code], check=True, capture_output=True, text=True).stdout)
  return {'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'), 'cores': len(os.sched_getaffinity(0)), 'machine': f'{platform.machine()}, {platform.system()}',
          'versions': versions | {'jax': importlib.metadata.version('jax')}}


def row(r: dict[str, Any]) -> str:
  return (f'| {r["id"]} | {r["what"]} | {r["peer"]} | {np.median(r["ours"]):.3g} | {np.median(r["theirs"]):.3g} | {r["unit"]}/s | {r["ratio"]:.2f} [{r["low"]:.2f}, {r["high"]:.2f}] | '
          f'{r["goal"]} |')


def table(results: dict[str, Any]) -> str:
  lines = ['| id | what | peer | ours | theirs | unit | ratio of medians [95%] | goal |', '|---|---|---|---|---|---|---|---|']
  return '\n'.join(lines + [row(r) for name in COMPARISONS for r in results['measured'].get(name, [])] + ['', json.dumps(results['facts'])])


def write_model(directory: pathlib.Path) -> None:
  """A checkpoint with random weights that both sides load."""
  (directory / 'config.json').write_text(json.dumps({'architectures': ['Qwen3ForCausalLM'], 'model_type': 'qwen3', 'hidden_act': 'silu', 'attention_bias': False, 'eos_token_id': 2,
                                                     'pad_token_id': 0, 'torch_dtype': 'float32'} | json.loads(_workload_model())))
  code = ('import sys, torch; from transformers import AutoConfig, AutoModelForCausalLM; torch.manual_seed(0); '
          'AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]), dtype=torch.float32).save_pretrained(sys.argv[1])')
  subprocess.run([str(PARITY), '-c', code, str(directory)], check=True, capture_output=True)


def _workload_model() -> str:
  sys.path.insert(0, str(PEERS))
  import workload
  return json.dumps(workload.MODEL)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--only', default=','.join(COMPARISONS))
  parser.add_argument('--pairs', type=int, default=11)
  arguments = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {'measured': {}}
  if arguments.mode == 'run':
    if not PARITY.exists():
      sys.exit("versus: the peers' environment is missing; make it with: make parity")
    with tempfile.TemporaryDirectory() as scratch:
      write_model(pathlib.Path(scratch))
      for name in arguments.only.split(','):
        results['measured'][name] = measure(name, arguments.pairs, scratch, pathlib.Path(scratch))
        results['facts'] = facts()
        RESULTS.write_text(json.dumps(results, indent=1) + '\n')
  print(table(results))


if __name__ == '__main__':
  main()
