"""Compiles training steps for devices that are not there, and keeps what the compilers say.

  python tools/compile_targets.py run                every case that is not kept for this code
  python tools/compile_targets.py run --only=TEXT    those whose name has the text
  python tools/compile_targets.py check              the two goldens again: nothing may have grown
  python tools/compile_targets.py table              what is kept, as Markdown
  python tools/compile_targets.py drawn              48 cases by chance, the estimate beside each

Needs `make targets`. A case is one call of `aevo shapes --compile=TARGET --json`; its row goes to
benchmarks/results/compiled.jsonl, keyed by the digest of the code that decides it. Where the code
has changed, `run` measures again and the row is replaced.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from aevo_jax import layout
from aevo_jax.analysis import targets
from aevo_jax.analysis.hardware import load_hardware

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'compiled.jsonl'
DRAWN = ROOT / 'benchmarks' / 'results' / 'estimates.jsonl'
# What decides a row: folders and files of the package.
CODE = (
  'models',
  'sharding',
  'training',
  *(
    f'analysis/{name}.py'
    for name in ('abstract_step', 'collectives', 'compiled', 'hlo', 'targets', 'useful_flops')
  ),
)
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
  remat: str = 'block'
  microbatches: int = 1
  logits_chunk: int = CHUNK

  @property
  def name(self) -> str:
    """How rows and people call it: what is usual is left out."""
    named = f'{self.model} {self.mesh} {self.adaptation} {self.target} {self.row_length}'
    for field in ('remat', 'microbatches', 'logits_chunk'):
      if getattr(self, field) != self._field_defaults[field]:
        named += f' {field}={getattr(self, field)}'
    return named

  def command(self) -> list[str]:
    """The command line, without the interpreter."""
    return [
      'shapes',
      f'--gin_file=configs/models/{self.model}.gin',
      f'--gin_file=configs/meshes/{self.mesh}.gin',
      f'--adaptation={self.adaptation}',
      f'--row_length={self.row_length}',
      f'--gin.train.logits_chunk={self.logits_chunk}',
      f"--gin.model.remat_policy='{self.remat}'",
      f'--gin.train.microbatches={self.microbatches}',
      f'--compile={self.target}',
      '--json',
    ]


MESHES = ('fsdp', 'fsdp_tensor', 'expert', 'context', 'hybrid')
NANO = 'nemotron3_nano_30b_a3b'


def adapted(model: str, mesh: str, target: str = 'h200x8') -> Case:
  """An adapter's step, which has room for the outputs of its products."""
  return Case(model, mesh, 'lora', target, remat='dots')


GOLDENS = (adapted('qwen3_8b', 'fsdp'), adapted(NANO, 'expert'))


def cases() -> list[Case]:
  """Lists every case, goldens first."""
  listed = list(GOLDENS)
  for model in ('qwen3_8b', NANO):
    listed += [adapted(model, mesh) for mesh in MESHES]
    listed += [Case(model, mesh, 'full', 'h200x8') for mesh in ('fsdp', 'expert')]
  for model in ('qwen3_0p6b', 'qwen3_1p7b', 'qwen3_4b', 'nemotron_h_8b', 'nemotron_nano_9b_v2'):
    listed.append(adapted(model, 'fsdp'))
  listed.append(adapted('qwen3_30b_a3b', 'expert'))
  listed.append(adapted('nemotron3_super_120b_a12b', 'expert'))
  listed.append(adapted('nemotron3_ultra_550b_a55b', 'expert', 'h200x16'))
  listed.append(adapted('qwen3_8b', 'fsdp', 'v5p:2x2x2'))
  listed.append(adapted(NANO, 'expert', 'v5p:2x2x2'))
  return list(dict.fromkeys(listed))


def code_digest() -> str:
  """Digest of the code on which the rows depend."""
  digest = hashlib.sha256()
  for name in CODE:
    place = ROOT / 'aevo_jax' / name
    for path in sorted(place.rglob('*.py')) if place.is_dir() else [place]:
      digest.update(path.relative_to(ROOT).as_posix().encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


def kept(results: pathlib.Path = RESULTS) -> dict[str, dict]:
  """Rows by the name of their case."""
  if not results.exists():
    return {}
  rows = [json.loads(line) for line in results.read_text().splitlines()]
  return {row['case']: row for row in rows}


def keep(row: dict, results: pathlib.Path = RESULTS) -> None:
  """Adds a row, or puts it in the place of the case's old one."""
  rows = kept(results) | {row['case']: row}
  results.write_text(''.join(json.dumps(one) + '\n' for one in rows.values()))


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
    said = done.stderr.strip().splitlines()[-1][:300]
    return row | {'refused' if 'divide' in said else 'error': said}
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
    'estimated_total': found['total'][case.remat],
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


PRESETS = (
  'qwen3_0p6b', 'qwen3_1p7b', 'qwen3_4b', 'qwen3_8b', 'qwen3_30b_a3b', 'nemotron_h_8b',
  'nemotron_nano_9b_v2', NANO, 'nemotron3_super_120b_a12b',
)  # fmt: skip
DRAWS = 48
WITHIN = 0.1


def by_chance(seed: str) -> Iterator[Case]:
  """Yields cases without end, every choice as likely as the other ones; none twice."""
  chance = random.Random(seed)
  seen = set()
  while True:
    case = Case(
      model=chance.choice(PRESETS),
      mesh=chance.choice(MESHES),
      adaptation=chance.choice(('lora', 'full')),
      target='h200x8',
      remat=chance.choice(('none', 'dots', 'minimal', 'block')),
      microbatches=chance.choice((1, 2, 4)),
      logits_chunk=chance.choice((0, CHUNK)),
    )
    if case not in seen:
      seen.add(case)
      yield case


def drawn(seed: str, count: int) -> None:
  """Compiles cases by chance until `count` have a row; a mesh that does not divide has none.

  The seed is the digest of the code unless told otherwise: nobody chooses it, and other code draws
  other cases. A file of another seed is begun anew.
  """
  seed = seed or code_digest()
  if any(row['seed'] != seed for row in kept(DRAWN).values()):
    DRAWN.unlink()
  for case in by_chance(seed):
    rows = kept(DRAWN)
    if sum('refused' not in row for row in rows.values()) >= count:
      break
    if case.name not in rows:
      row = compile_case(case) | {'seed': seed}
      keep(row, DRAWN)
      print(line(row), flush=True)
  print(how_near())


def how_near() -> str:
  """Says how many estimates are near what the compiler allots."""
  rows = [row for row in kept(DRAWN).values() if 'refused' not in row]
  ratios = [
    row['estimated_total'] / (row['arguments'] + row['temporaries'])
    for row in rows
    if 'error' not in row
  ]
  near = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
  return f'{near} of {len(rows)} estimates within {WITHIN:.0%} of the compiler'


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
    if 'temporaries' not in after:
      said.append(f'{case.name}: {after.get("error") or after["refused"]}')
      continue
    print(line(after), flush=True)
    said += grown(before, after)
  if said:
    sys.exit('\n'.join([*said, 'if that is meant: python tools/compile_targets.py run']))


HEAD = (
  '| model | mesh | adaptation, remat | target | rows | state | temporaries | fits | gathered | '
  'compiled / useful | estimate / compiled |\n|---|---|---|---|---|---|---|---|---|---|---|'
)


def line(row: dict) -> str:
  """A row as a line of Markdown, GiB per device."""
  how = f'{row["adaptation"]}, {row["remat"]}'
  first = f'| {row["model"]} | {row["mesh"]} | {how} | {row["target"]} |'
  for name in ('error', 'refused'):
    if name in row:
      return f'{first} | | | | | | {row[name]} |'
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
  parser.add_argument('command', choices=['run', 'check', 'table', 'drawn'])
  parser.add_argument('--only', default='', help='cases whose name has this text')
  parser.add_argument('--seed', default='', help="of 'drawn'; the code's digest without it")
  parser.add_argument('--count', type=int, default=DRAWS, help="cases of 'drawn'")
  options = parser.parse_args()
  if options.command == 'run':
    run(options.only)
  elif options.command == 'drawn':
    drawn(options.seed, options.count)
  elif options.command == 'check':
    check()
  else:
    print(table())


if __name__ == '__main__':
  main()
