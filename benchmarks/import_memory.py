"""Peak memory of importing and exporting a sharded bfloat16 checkpoint, beside its size; each in a process of its own, the interpreter included.

  python benchmarks/import_memory.py                 2 GB in 8 shards
  python benchmarks/import_memory.py --megabytes=200 --shards=4

The checkpoint is a Nemotron-H with experts one by one and random weights, written shard by shard. The peak is VmHWM of the child, the baseline that of a child
that only imports what the command imports. Fails where a peak is above --limit times the checkpoint.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from aevo_jax.models import hf_checkpoint
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf_stream import INDEX
from aevo_jax.models.params import outline

CHILD = """
import pathlib, sys
import jax
from aevo_jax.substrate.hf_import import import_hf
from aevo_jax.substrate.hf_export import export_hf
jax.devices()
if sys.argv[1] != 'baseline':
  {'import': import_hf, 'export': export_hf}[sys.argv[1]](pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])
"""


def write_checkpoint(directory: pathlib.Path, megabytes: int, shards: int) -> int:
  """Writes a random checkpoint of about that size and returns its bytes."""
  layers = max(1, megabytes // 50)  # an E block of about 50 MB
  config = ModelConfig(vocab_size=4096, hidden_size=1024, pattern='E' * layers, n_routed_experts=24, num_experts_per_tok=2, moe_intermediate_size=512,
                       moe_shared_expert_intermediate_size=256)
  (directory / hf_checkpoint.CONFIG).write_text(json.dumps(hf_checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)))
  shapes = {}
  for name, value in outline(config)[1].items():
    stored, shape = hf_checkpoint.hf_name(name, config), value.shape
    if '.experts.' in stored:
      stem, leaf = stored.rsplit('.', 1)
      shapes |= {f'{stem}.{expert}.{leaf}.weight': shape[:0:-1] for expert in range(shape[0])}
    else:
      shapes[stored] = shape[::-1] if name.endswith('.kernel') else shape
  rng, names, weight_map, total = np.random.default_rng(0), sorted(shapes), {}, 0
  for i in range(shards):
    file = f'model-{i + 1:05}-of-{shards:05}.safetensors'
    members = names[i * len(names) // shards:(i + 1) * len(names) // shards]
    tensors = {name: rng.standard_normal(shapes[name], np.float32).astype(ml_dtypes.bfloat16) for name in members}
    save_file(tensors, directory / file, metadata={'format': 'pt'})
    weight_map |= {name: file for name in members}
    total += sum(value.nbytes for value in tensors.values())
  (directory / INDEX).write_text(json.dumps({'metadata': {'total_size': total}, 'weight_map': weight_map}))
  return total


def peak(*arguments: str) -> tuple[int, float]:
  """(peak bytes of resident memory, seconds) of a child that does what `arguments` say."""
  start = time.monotonic()
  done = subprocess.run([sys.executable, '-c', CHILD, *arguments], check=True, stdout=subprocess.PIPE, text=True)
  return int(done.stdout.split()[-1]) * 1024, time.monotonic() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--megabytes', type=int, default=2000)
  parser.add_argument('--shards', type=int, default=8)
  parser.add_argument('--limit', type=float, default=1.2)
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    (root / 'in').mkdir()
    size = write_checkpoint(root / 'in', flags.megabytes, flags.shards)
    measured = {'baseline': peak('baseline'), 'import': peak('import', str(root / 'in'), str(root / 'base')),
                'export': peak('export', str(root / 'base'), str(root / 'out'))}
  for what, (memory, seconds) in measured.items():
    print(f'{what:9} {memory / 1e9:6.3f} GB   {memory / size:5.2f} x the checkpoint of {size / 1e9:.3f} GB   {seconds:5.1f} s')
  if max(memory for memory, _ in measured.values()) > flags.limit * size:
    sys.exit(f'above {flags.limit} x the checkpoint')


if __name__ == '__main__':
  main()
