"""Peak memory of importing and exporting a sharded bfloat16 checkpoint, beside its size.

Each in a process of its own, the interpreter included.

  python benchmarks/import_memory.py                 2 GB in 8 shards
  python benchmarks/import_memory.py --megabytes=200 --shards=4

The checkpoint is a Nemotron-H with experts one by one and random weights, written shard by shard.
The peak is VmHWM of the child; its value before the work began says what interpreter and libraries
take. Fails where a peak is above --limit times the checkpoint.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.hf.stored import INDEX
from aevo_jax.models.params import outline

CHILD = """
import pathlib, sys
import jax
from aevo_jax.substrate.hf_import import import_hf
from aevo_jax.substrate.hf_export import export_hf
def peak():
  for line in open('/proc/self/status'):
    if line.startswith('VmHWM'):
      return int(line.split()[1]) * 1024
jax.devices()
before = peak()
convert = {'import': import_hf, 'export': export_hf}[sys.argv[1]]
convert(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
print(before, peak())
"""


def write_checkpoint(directory: pathlib.Path, megabytes: int, shards: int) -> int:
  """Writes a random checkpoint of about that size and returns its bytes."""
  layers = max(1, megabytes // 26)  # an E block has about 26 MB
  config = ModelConfig(
    vocab_size=4096,
    hidden_size=1024,
    pattern='E' * layers,
    n_routed_experts=12,
    num_experts_per_tok=2,
    moe_intermediate_size=512,
    moe_shared_expert_intermediate_size=256,
  )
  (directory / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0))
  )
  shapes = {}
  for name, value in outline(config)[1].items():
    stored, shape = checkpoint.hf_name(name, config), value.shape
    if '.experts.' in stored:
      stem, leaf = stored.rsplit('.', 1)
      shapes |= {f'{stem}.{expert}.{leaf}.weight': shape[:0:-1] for expert in range(shape[0])}
    else:
      shapes[stored] = shape[::-1] if name.endswith('.kernel') else shape
  rng, names, weight_map, total = np.random.default_rng(0), sorted(shapes), {}, 0
  for i in range(shards):
    file = f'model-{i + 1:05}-of-{shards:05}.safetensors'
    members = names[i * len(names) // shards : (i + 1) * len(names) // shards]
    tensors = {
      name: (np.frombuffer(rng.bytes(2 * math.prod(shapes[name])), np.uint16) & 0xBFFF)
      .view(ml_dtypes.bfloat16)
      .reshape(shapes[name])  # finite
      for name in members
    }
    save_file(tensors, directory / file, metadata={'format': 'pt'})
    weight_map |= dict.fromkeys(members, file)
    total += sum(value.nbytes for value in tensors.values())
  (directory / INDEX).write_text(
    json.dumps({'metadata': {'total_size': total}, 'weight_map': weight_map})
  )
  return total


def measure(what: str, source: pathlib.Path, out: pathlib.Path) -> tuple[int, int, float]:
  """Peak resident bytes of a child before and after it has done `what`, and its seconds."""
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', CHILD, what, source, out], check=True, stdout=subprocess.PIPE, text=True
  )
  before, after = map(int, done.stdout.split())
  return before, after, time.monotonic() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--megabytes', type=int, default=2000)
  parser.add_argument('--shards', type=int, default=8)
  parser.add_argument('--limit', type=float, default=1.2)
  flags = parser.parse_args()
  worst = 0.0
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    (root / 'in').mkdir()
    size = write_checkpoint(root / 'in', flags.megabytes, flags.shards)
    print(f'checkpoint {size / 1e9:.3f} GB in {flags.shards} shards')
    for what, source, out in (('import', 'in', 'base'), ('export', 'base', 'out')):
      before, after, seconds = measure(what, root / source, root / out)
      print(
        (
          f'{what:7} {after / 1e9:6.3f} GB at the peak, {after / size:5.2f} x the '
          f'checkpoint; {before / 1e9:.3f} GB before it began   {seconds:5.1f} s'
        ),
        flush=True,
      )
      worst = max(worst, after / size)
  if worst > flags.limit:
    sys.exit(f'above {flags.limit} x the checkpoint')


if __name__ == '__main__':
  main()
