r"""Whether `aevo compare_sharding` predicts the order in which meshes are measured.

  .venv/bin/python benchmarks/sharding_order.py                 micro model, 8 simulated devices
  .venv/bin/python benchmarks/sharding_order.py --hardware=h200x8 \
    --gin_file=configs/models/qwen3_8b.gin --row_length=4096

Runs the comparison with --suggest and --measure and adds a row to
benchmarks/results/sharding_order.jsonl, from which `aevo status` takes it. Simulated devices share
the cores of one machine: what they send are copies in its memory, and what a step takes is mostly
waiting for each other. A row says what was found, good or bad, with the machine's load before and
after.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

RESULTS = pathlib.Path(__file__).parent / 'results' / 'sharding_order.jsonl'

INTERRUPTED = 130  # the rounds that were measured until then count


def row(rows: list[dict], command: str, devices: str, loads: list[float]) -> dict:
  """Makes the line that is kept.

  Args:
    rows: of the comparison's --json, on one kind of devices.
    command: that made them.
    devices: the target's name.
    loads: the machine's load average before and after.
  """
  (control,) = [one for one in rows if 'repeats' in one]
  meshes = {}
  for one in rows:
    if 'seconds' not in one.get('measured', {}) or 'roofline' not in one:
      continue
    bounds = one['roofline']
    meshes[one['mesh']] = {
      'predicted_ms': 1e3 * math.sqrt(bounds['shortest'] * bounds['longest']),
      'measured_ms': 1e3 * one['measured']['seconds'],
      'verdict': one['measured'].get('verdict', ''),
    }
  return {
    'date': datetime.date.today().isoformat(),
    'command': command,
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'load': [round(load, 1) for load in loads],
    'devices': devices,
    'ran_on': control['measured']['devices'],
    'steps': control['measured']['steps'],
    'rounds': len(control['measured']['round_seconds']),
    'spread': control.get('spread'),
    'rank_correlation': control.get('rank_correlation'),
    'meshes': meshes,
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--hardware', default='cpux8', help='one target')
  parser.add_argument('--gin_file', default='configs/models/micro_qwen3.gin')
  parser.add_argument('--row_length', type=int, default=64)
  parser.add_argument('--best', type=int, default=8, help='meshes')
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--rounds', type=int, default=6)
  options = parser.parse_args()
  arguments = [
    'compare_sharding',
    f'--gin_file={options.gin_file}',
    '--suggest',
    f'--best={options.best}',
    f'--hardware={options.hardware}',
    f'--row_length={options.row_length}',
    f'--measure={options.steps}',
    f'--rounds={options.rounds}',
  ]
  before = os.getloadavg()[1]
  with tempfile.TemporaryDirectory() as directory:
    written = pathlib.Path(directory) / 'rows.json'
    done = subprocess.run(
      [sys.executable, '-m', 'aevo_jax.cli', *arguments, f'--json={written}'], check=False
    )
    if done.returncode not in (0, INTERRUPTED):
      sys.exit(done.returncode)
    rows = json.loads(written.read_text())
  command = ' '.join(['aevo', *arguments])
  found = row(rows, command, options.hardware, [before, os.getloadavg()[1]])
  with RESULTS.open('a') as file:
    file.write(json.dumps(found) + '\n')


if __name__ == '__main__':
  main()
