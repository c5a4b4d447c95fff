"""Compare sharding strategies of one model: what fits, what is sent, how long a step takes.

  aevo compare_sharding --gin_file=configs/models/qwen3_8b.gin --meshes=configs/meshes/fsdp.gin \
    --meshes=configs/meshes/fsdp_tensor.gin --hardware=h200x8,h200x64 --adaptation=lora
  aevo compare_sharding --gin_file=configs/models/micro_qwen3.gin --meshes='configs/meshes/*.gin' \
    --hardware=cpux8 --row_length=64 --json=table.json --html=table.html

Every mesh and hardware is a row, also one that cannot be, with the reason. XLA compiles the
training step for each, on devices that need not be there (`make targets`), with the same batch for
all meshes. State, temporaries and collectives are the compiler's; times are bounds from datasheets
(configs/hardware): the shortest recomputes nothing and hides all that is sent, the longest does one
after the other.
"""

import concurrent.futures
import glob
import json
import math
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

from aevo_jax import command, layout
from aevo_jax.analysis import targets

COMMAND = command.Command('compare_sharding', __doc__)
_MESHES = flags.DEFINE_multi_string(
  'meshes', None, 'FILE: mesh files, or patterns of them.', flag_values=COMMAND.flags
)
_HARDWARE = flags.DEFINE_list(
  'hardware',
  None,
  'TARGET,...: devices to compile for, as aevo shapes --compile has them.',
  flag_values=COMMAND.flags,
)
_ADAPTATION = flags.DEFINE_enum(
  'adaptation',
  None,
  ['full', 'lora'],
  "Instead of gin's adaptation.method.",
  flag_values=COMMAND.flags,
)
_ROWS = flags.DEFINE_integer(
  'rows',
  0,
  'Rows of a batch, the same for all; 0 is the fewest that all meshes divide.',
  lower_bound=0,
  flag_values=COMMAND.flags,
)
_ROW_LENGTH = flags.DEFINE_integer(
  'row_length', 8192, 'Tokens of a row.', lower_bound=2, flag_values=COMMAND.flags
)
_JOBS = flags.DEFINE_integer(
  'jobs', 2, 'Compilers at a time.', lower_bound=1, flag_values=COMMAND.flags
)
_JSON = flags.DEFINE_string('json', None, 'FILE: gets all rows.', flag_values=COMMAND.flags)
_HTML = flags.DEFINE_string(
  'html', None, 'FILE: gets the table and a plot of time and memory.', flag_values=COMMAND.flags
)


@COMMAND
def main(arguments: list[str]) -> int:
  """Compiles every mesh for every hardware and prints the table."""
  del arguments
  if not _MESHES.value or not _HARDWARE.value:
    sys.exit(
      'compare_sharding: name mesh files and devices, e.g. --meshes=configs/meshes/fsdp.gin '
      '--hardware=h200x8'
    )
  files = _mesh_files(_MESHES.value)
  try:
    chosen = [targets.parse(name) for name in _HARDWARE.value]
  except targets.TargetError as error:
    sys.exit(f'compare_sharding: --hardware: {error}')
  for path in (_JSON.value, _HTML.value):
    if path and not pathlib.Path(path).absolute().parent.is_dir():
      sys.exit(f'compare_sharding: {path}: there is no such directory; make it first')
  COMMAND.load_gin()
  from aevo_jax.analysis import comparison

  rows: list[dict[str, Any]] = []
  pool = concurrent.futures.ThreadPoolExecutor(_JOBS.value)
  interrupted = False
  try:
    for target in chosen:
      batch = _ROWS.value or _common_batch(files, target)
      compiled = pool.map(lambda path, t=target, b=batch: _compile(path, t, b), files)
      hardware = comparison.load(target, layout.search_paths(), _of_hardware())
      for path, found in zip(files, compiled, strict=True):
        rows.append(comparison.row(pathlib.Path(path).stem, target, found, hardware))
        said = found.get('error', f'compiled, {found.get("seconds")} s')
        print(f'{path} for {target.name}: {said}', file=sys.stderr, flush=True)
  except KeyboardInterrupt:
    interrupted = True
    print('interrupted; what was compiled until then:', file=sys.stderr, flush=True)
  finally:
    pool.shutdown(cancel_futures=True)
  print(comparison.text(rows))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1) + '\n')
  if _HTML.value:
    pathlib.Path(_HTML.value).write_text(comparison.html(rows, COMMAND.line))
  if interrupted:
    return 130
  return int(all('error' in found for found in rows))


def _mesh_files(patterns: list[str]) -> list[str]:
  """Returns the files that are named, each once."""
  files: list[str] = []
  for pattern in patterns:
    found = sorted(glob.glob(pattern))
    if not found:
      found = [str(path) for path in _published(pattern)]
    if not found:
      sys.exit(f'compare_sharding: --meshes={pattern}: there is no such file')
    files += found
  return list(dict.fromkeys(files))


def _published(pattern: str) -> list[pathlib.Path]:
  """Returns files of this project's configs/, from wherever it lies."""
  for root in layout.search_paths():
    found = sorted(pathlib.Path(root).glob(pattern))
    if found:
      return found
  return []


def _of_hardware() -> list[str]:
  """Returns the bindings that describe a device rather than a model."""
  return [text for text in COMMAND.flags.gin_bindings or () if text.startswith('hardware.')]


def _common_batch(files: list[str], target: targets.Target) -> int:
  """Returns the fewest rows that every mesh can cut; a mesh that does not fit has no say."""
  from aevo_jax.config import loading
  from aevo_jax.config.configurables import resolve

  batch = 1
  for path in files:
    loading.load([path], [], search_paths=layout.search_paths())
    try:
      bound = resolve('sharding').bind(resolve('mesh').sizes(target.devices))
    except ValueError:
      continue
    batch = math.lcm(batch, bound.shards('batch'))
  return batch


def _compile(path: str, target: targets.Target, rows: int) -> dict[str, Any]:
  """Compiles one mesh in a process of its own; `error` says why it cannot be."""
  arguments = [f'--gin_file={name}' for name in [*(COMMAND.flags.gin_file or ()), path]]
  for text in COMMAND.flags.gin_bindings or ():
    if not text.startswith('hardware.'):
      arguments.append(f'--gin_bindings={text}')
  if _ADAPTATION.value:
    arguments.append(f'--adaptation={_ADAPTATION.value}')
  arguments += [f'--rows={rows}', f'--row_length={_ROW_LENGTH.value}', '--json']
  done = subprocess.run(
    [sys.executable, '-m', 'aevo_jax.cli', 'shapes', *arguments, f'--compile={target.name}'],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    # No refusal but a fault: all of it is wanted.
    if 'Traceback' in done.stderr and 'KeyboardInterrupt' not in done.stderr:
      sys.stderr.write(done.stderr)
    lines = done.stderr.strip().splitlines() or [f'ended with status {done.returncode}']
    return {'error': lines[-1].removeprefix('shapes: ')}
  return json.loads(done.stdout[done.stdout.index('{') :])


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
