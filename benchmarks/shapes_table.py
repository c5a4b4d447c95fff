"""The table of docs/sharding.md.

What the published Nemotron 3 models take on each of 8, 64 and 512 devices, as `aevo shapes` says,
and how long it takes to say so.

.venv/bin/python benchmarks/shapes_table.py
"""

import json
import subprocess
import sys

MODELS = {
  '30B': 'nemotron3_nano_30b_a3b',
  '120B': 'nemotron3_super_120b_a12b',
  '550B': 'nemotron3_ultra_550b_a55b',
}
DEVICES = (8, 64, 512)


def shapes(model: str, adaptation: str, devices: int) -> dict:
  command = [
    sys.executable,
    '-m',
    'aevo_jax.cli',
    'shapes',
    f'--gin_file=configs/models/{model}.gin',
    '--gin_file=configs/meshes/fsdp_tensor.gin',
    f'--devices={devices}',
    f'--adaptation={adaptation}',
    '--gin.train.logits_chunk=512',
    '--json',
  ]
  return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
  seconds = []
  print(
    f'| model | adaptation | {" | ".join(f"{d} devices" for d in DEVICES)} |\n|---|---|---|---|---|'
  )
  for name, model in MODELS.items():
    for adaptation in ('full', 'lora'):
      cells = []
      for devices in DEVICES:
        found = shapes(model, adaptation, devices)
        seconds.append(found['seconds'])
        gib = {policy: size / 2**30 for policy, size in found['temporary'].items()}
        state = (found['total']['block'] / 2**30) - gib['block']
        cells.append(f'{state:.1f} + {gib["block"]:.1f} ({gib["dots"]:.1f})')
      print(f'| {name} | {adaptation} | {" | ".join(cells)} |', flush=True)
  print(f'\nseconds, the quickest and the slowest: {min(seconds):.1f}, {max(seconds):.1f}')


if __name__ == '__main__':
  main()
