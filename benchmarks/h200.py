"""What only a GPU can say, in the order that gives the most for the first minute.

  python3 benchmarks/h200.py --out=DIRECTORY                    on an H200: 8 minutes at most
  python3 benchmarks/h200.py --out=DIRECTORY --size=toy         the same code anywhere
  python3 benchmarks/h200.py table DIRECTORY/h200.jsonl         the rows as Markdown

Every part runs in a process of its own, so that neither a crash nor another part's memory touches
it. Rows are written as they are measured: what was measured before a limit or a fault stays. A
measurement that fails is a row that says so. Needs jax >= 0.11, flax, optax and orbax;
benchmarks/h200_wheels.sh fetches what an accelerator's image lacks beside them. Run it from the
project's root.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUDGET_S = 480
LATENCY_HIDING = '--xla_gpu_enable_latency_hiding_scheduler=true'


class Part(NamedTuple):
  """A part of the list.

  Attributes:
    module: of `h200_parts`, whose function `name` yields rows.
    name: of the function.
    limit_s: seconds after which the part is ended.
    what: it measures, in words.
    environment: variables of its process.
  """

  module: str
  name: str
  limit_s: int
  what: str
  environment: tuple[tuple[str, str], ...] = ()


PARTS = {
  'a': Part('kernels', 'device', 40, 'the device: bf16 product and copy as yardsticks'),
  'b': Part('kernels', 'grouped', 60, "experts' grouped product at 30B shapes"),
  'c': Part('kernels', 'attention', 40, 'attention at 4 x 4096'),
  'd1': Part('training', 'sft_small', 60, 'SFT step, Qwen3-0.6B and 1.7B'),
  'd2': Part('training', 'sft_large', 60, 'SFT step, Qwen3-4B'),
  'e': Part('training', 'nano_lora', 100, 'Nemotron 3 Nano, LoRA of rank 32'),
  'f': Part('sampling', 'decode', 60, 'decoding, Qwen3-1.7B'),
  'g': Part('sampling', 'grpo', 80, 'a step of GRPO, Qwen3-1.7B, by phase'),
  'h': Part('sampling', 'gap', 40, 'bf16: sampler beside trainer'),
  'd3': Part(
    'training',
    'sft_one',
    50,
    'SFT step, Qwen3-1.7B, with latency hiding',
    (('XLA_FLAGS', LATENCY_HIDING),),
  ),
  'd4': Part(
    'training',
    'sft_one',
    50,
    'SFT step, Qwen3-1.7B, at optimization level O1',
    (('JAX_OPTIMIZATION_LEVEL', 'O1'),),
  ),
}


def header() -> dict:
  """What the rows below depend on, but for the device, which part a names."""
  commit = subprocess.run(
    ['git', 'rev-parse', '--short=12', 'HEAD'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  return {
    'part': 'header',
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': ' '.join(['python3', *sys.argv]),
    'commit': commit.stdout.strip(),
    'python': platform.python_version(),
    'cores': os.cpu_count(),
  }


def run_part(key: str, size: str, limit_s: float, results: pathlib.Path) -> None:
  """Runs a part in a process of its own and appends its rows."""
  part = PARTS[key]
  environment = os.environ | {
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
    'PYTHONUNBUFFERED': '1',
    'TF_CPP_MIN_LOG_LEVEL': '2',
    'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92',
  }
  for name, value in part.environment:
    environment[name] = ' '.join(filter(None, [environment.get(name), value]))
  started = time.monotonic()
  said = []
  with (
    results.open('a') as file,
    subprocess.Popen(
      [sys.executable, __file__, 'part', key, f'--size={size}'],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=environment,
    ) as child,
  ):
    ender = threading.Timer(limit_s, child.kill)
    ender.start()
    for line in child.stdout:
      if not line.startswith('{'):
        said.append(line.rstrip())
        continue
      row = {'part': key, 'what': part.what} | json.loads(line)
      file.write(json.dumps(row) + '\n')
      file.flush()
      print(json.dumps(row), flush=True)
    status = child.wait()
    ender.cancel()
    seconds = round(time.monotonic() - started, 1)
    end = {'part': key, 'what': part.what, 'case': 'whole part', 'seconds': seconds}
    if status:
      end['error'] = f'status {status}: ' + ' / '.join(said[-3:])[-600:]
      print('\n'.join(said[-30:]), file=sys.stderr, flush=True)
    file.write(json.dumps(end) + '\n')


def run(options: argparse.Namespace) -> None:
  """Runs the parts one after the other, as far as the budget goes."""
  results = pathlib.Path(options.out) / 'h200.jsonl'
  results.parent.mkdir(parents=True, exist_ok=True)
  with results.open('a') as file:
    file.write(json.dumps(header()) + '\n')
  ends = time.monotonic() + options.budget_s
  for key in options.only.split(',') if options.only else PARTS:
    left = ends - time.monotonic()
    if left < 15:
      print(f'the budget of {options.budget_s} s is used up before part {key}', flush=True)
      break
    run_part(key, options.size, min(left, PARTS[key].limit_s), results)
  print(table(results.read_text()))


def run_here(options: argparse.Namespace) -> None:
  """Yields a part's rows as lines, in this process."""
  import importlib

  part = PARTS[options.key]
  module = importlib.import_module(f'h200_parts.{part.module}')
  for row in getattr(module, part.name)(options.size):
    print(json.dumps(row), flush=True)


def table(text: str) -> str:
  """The rows of a file as Markdown: one line each, figures as `name value`."""
  lines = ['| part | what | case | figures |', '|---|---|---|---|']
  for line in text.splitlines():
    row = json.loads(line)
    part = row.pop('part')
    what = row.pop('what', '')
    case = row.pop('case', '')
    figures = ', '.join(f'{name} {_short(value)}' for name, value in row.items())
    lines.append(f'| {part} | {what} | {case} | {figures} |')
  return '\n'.join(lines)


def _short(value: object) -> str:
  if isinstance(value, float):
    return f'{value:.4g}'
  return str(value).replace('|', '/').replace('\n', ' ')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('command', nargs='?', default='run', choices=['run', 'part', 'table'])
  parser.add_argument('key', nargs='?', help='of a part, or the file of a table')
  parser.add_argument('--out', default='.', help='gets h200.jsonl; rows are appended')
  parser.add_argument('--only', default='', help=f'parts, of {",".join(PARTS)}')
  parser.add_argument('--size', default='h200', choices=['h200', 'toy'])
  parser.add_argument('--budget_s', type=int, default=BUDGET_S)
  options = parser.parse_args()
  unknown = sorted(set(filter(None, options.only.split(','))) - PARTS.keys())
  if unknown:
    parser.error(f'--only: no part {", ".join(unknown)}; there are {", ".join(PARTS)}')
  if options.command == 'table':
    print(table(pathlib.Path(options.key).read_text()))
  elif options.command == 'part':
    run_here(options)
  else:
    run(options)


if __name__ == '__main__':
  main()
