"""Compiles training steps for devices that are not there, and keeps what the compilers say.

  python tools/compile_targets.py run                every case that is not kept for this code
  python tools/compile_targets.py run --only=TEXT    those whose name has the text
  python tools/compile_targets.py check              the two goldens again: nothing may have grown
  python tools/compile_targets.py table              what is kept, as Markdown

Needs `make targets`. A case is one call of `aevo shapes --compile=TARGET --json`; its row goes to
benchmarks/results/compiled.jsonl, keyed by the digest of the code that decides it. Where the code
has changed, `run` measures again and the row is replaced.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

from aevo_jax import layout
from aevo_jax.analysis import targets
from aevo_jax.analysis.hardware import load_hardware

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'compiled.jsonl'
CODE = ('models', 'sharding', 'training', 'analysis')  # folders of the package
CHUNK = 512
MAY_GROW = 1.02
LIMIT_S = 1200


class Case(NamedTuple):
  """A step to compile."""

  model: str
  mesh: str
  adaptation: str
  target: str
  row_length: int = 4096

  @property
  def name(self) -> str:
    """How rows and people call it."""
    return f'{self.model} {self.mesh} {self.adaptation} {self.target} {self.row_length}'

  def command(self) -> list[str]:
    """The command line, without the interpreter."""
    return [
      'shapes',
      f'--gin_file=configs/models/{self.model}.gin',
      f'--gin_file=configs/meshes/{self.mesh}.gin',
      f'--adaptation={self.adaptation}',
      f'--row_length={self.row_length}',
      f'--gin.train.logits_chunk={CHUNK}',
      f'--compile={self.target}',
      '--json',
    ]


MESHES = ('fsdp', 'fsdp_tensor', 'expert', 'context', 'hybrid')
NANO = 'nemotron3_nano_30b_a3b'
GOLDENS = (
  Case('qwen3_8b', 'fsdp', 'lora', 'h200x8'),
  Case(NANO, 'expert', 'lora', 'h200x8'),
)


def cases() -> list[Case]:
  """Lists every case, goldens first."""
  listed = list(GOLDENS)
  for model in ('qwen3_8b', NANO):
    listed += [Case(model, mesh, 'lora', 'h200x8') for mesh in MESHES]
    listed += [Case(model, mesh, 'full', 'h200x8') for mesh in ('fsdp', 'expert')]
  for model in ('qwen3_0p6b', 'qwen3_1p7b', 'qwen3_4b', 'qwen3_30b_a3b', 'nemotron_h_8b'):
    listed.append(Case(model, 'fsdp', 'lora', 'h200x8'))
  listed.append(Case('nemotron_nano_9b_v2', 'fsdp', 'lora', 'h200x8'))
  listed.append(Case('nemotron3_super_120b_a12b', 'expert', 'lora', 'h200x8'))
  listed.append(Case('nemotron3_ultra_550b_a55b', 'expert', 'lora', 'h200x16'))
  listed.append(Case('qwen3_8b', 'fsdp', 'lora', 'v5p:2x2x2'))
  listed.append(Case(NANO, 'expert', 'lora', 'v5p:2x2x2'))
  return list(dict.fromkeys(listed))


def code_digest() -> str:
  """Digest of the code on which the rows depend."""
  digest = hashlib.sha256()
  for folder in CODE:
    for path in sorted((ROOT / 'aevo_jax' / folder).rglob('*.py')):
      digest.update(path.relative_to(ROOT).as_posix().encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


def kept() -> dict[str, dict]:
  """Rows by the name of their case."""
  if not RESULTS.exists():
    return {}
  rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
  return {row['case']: row for row in rows}


def keep(row: dict) -> None:
  """Adds a row, or puts it in the place of the case's old one."""
  rows = kept() | {row['case']: row}
  RESULTS.write_text(''.join(json.dumps(one) + '\n' for one in rows.values()))


def compile_case(case: Case) -> dict:
  """Compiles a case and returns its row; one that cannot be compiled says why."""
  row = {
    'case': case.name,
    **case._asdict(),
    'date': datetime.date.today().isoformat(),
    'command': ' '.join(['aevo', *case.command()]),
    'code': code_digest(),
  }
  try:
    done = subprocess.run(
      [sys.executable, '-m', 'aevo_jax.cli', *case.command()],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=LIMIT_S,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return row | {'error': f'not compiled within {LIMIT_S} s'}
  if done.returncode:
    return row | {'error': done.stderr.strip().splitlines()[-1][:300]}
  found = json.loads(done.stdout[done.stdout.index('{') :])
  compiled = found['compiled']
  wire = {}
  for one in compiled['collectives']:
    axes = '+'.join(one['axes'])
    wire[axes] = wire.get(axes, 0) + one['wire_bytes']
  return row | {
    'rows': found['rows'],
    'mesh_sizes': found['mesh'],
    'arguments': compiled['arguments'],
    'temporaries': compiled['temporaries'],
    'estimated_total': found['total']['block'],
    'gathered_bytes': compiled['gathered_bytes'],
    'wire_bytes': wire,
    'compiled_over_useful': compiled['compiled_flops'] / compiled['useful_flops'],
    'seconds': round(compiled['trace_s'] + compiled['compile_s'], 1),
  }


def run(only: str) -> None:
  """Compiles what is not kept for this code."""
  code = code_digest()
  for case in cases():
    if only not in case.name or kept().get(case.name, {}).get('code') == code:
      continue
    row = compile_case(case)
    keep(row)
    print(line(row), flush=True)


GROWS = ('temporaries', 'gathered_bytes', 'compiled_over_useful')


def grown(before: dict, after: dict) -> list[str]:
  """Says which figures of a case have grown."""
  said = []
  for name in GROWS:
    if after[name] > before[name] * MAY_GROW:
      said.append(f'{after["case"]}: {name} {after[name]:.4g} was {before[name]:.4g}')
  return said


def check() -> None:
  """Compiles the goldens and exits with 1 where a figure has grown beyond the committed one."""
  said = []
  for case in GOLDENS:
    before = kept()[case.name]
    after = compile_case(case)
    if 'error' in after:
      said.append(f'{case.name}: {after["error"]}')
      continue
    print(line(after), flush=True)
    said += grown(before, after)
  if said:
    sys.exit('\n'.join([*said, 'if that is meant: python tools/compile_targets.py run']))


HEAD = (
  '| model | mesh | adaptation | target | rows | state | temporaries | fits | gathered | '
  'compiled / useful | estimate / compiled |\n|---|---|---|---|---|---|---|---|---|---|---|'
)


def line(row: dict) -> str:
  """A row as a line of Markdown, GiB per device."""
  first = f'| {row["model"]} | {row["mesh"]} | {row["adaptation"]} | {row["target"]} |'
  if 'error' in row:
    return f'{first} | | | | | | {row["error"]} |'
  gib = 2**30
  held = row['arguments'] + row['temporaries']
  device = targets.parse(row['target']).hardware
  memory = load_hardware(device, layout.search_paths()).memory_gb * 1e9
  return (
    f'{first} {row["rows"]} x {row["row_length"]} | {row["arguments"] / gib:.1f} | '
    f'{row["temporaries"] / gib:.1f} | {"yes" if held <= memory else "no"} | '
    f'{row["gathered_bytes"] / gib:.1f} | {row["compiled_over_useful"]:.2f} | '
    f'{row["estimated_total"] / held:.2f} |'
  )


def table() -> str:
  """All rows."""
  return '\n'.join([HEAD, *(line(row) for row in kept().values())])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('command', choices=['run', 'check', 'table'])
  parser.add_argument('--only', default='', help='cases whose name has this text')
  options = parser.parse_args()
  if options.command == 'run':
    run(options.only)
  elif options.command == 'check':
    check()
  else:
    print(table())


if __name__ == '__main__':
  main()
