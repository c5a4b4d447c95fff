"""Compare sharding strategies of one model: what fits, what is sent, how long a step takes.

  aevo compare_sharding --gin_file=configs/models/qwen3_8b.gin --meshes=configs/meshes/fsdp.gin \
    --meshes=configs/meshes/fsdp_tensor.gin --hardware=h200x8,h200x64 --adaptation=lora
  aevo compare_sharding --gin_file=configs/models/micro_qwen3.gin --meshes='configs/meshes/*.gin' \
    --hardware=cpux8 --row_length=64 --measure=10 --json=table.json --html=table.html
  aevo compare_sharding --gin_file=configs/models/qwen3_8b.gin --suggest --best=6 --hardware=h200x64

Every mesh and hardware is a row, also one that cannot be, with the reason. XLA compiles the
training step for each, on devices that need not be there (`make targets`), with the same batch for
all meshes. State, temporaries and collectives are the compiler's; times are bounds from datasheets
(configs/hardware): the shortest recomputes nothing and hides all that is sent, the longest does one
after the other. --measure also runs the steps where the devices are there (cpux8 simulates them):
all meshes in turns, with a control arm that runs the first mesh again. --suggest makes the meshes:
every combination of the axes of mesh files that the model allows and that fits.
"""

import contextlib
import dataclasses
import glob
import json
import math
import pathlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from absl import flags

from aevo_jax import command, layout
from aevo_jax.analysis import targets
from aevo_jax.config import flags as flags_lib

if TYPE_CHECKING:
  from aevo_jax.analysis.hardware import Hardware
  from aevo_jax.analysis.strategies.suggestion import Problem

COMMAND = command.Command('compare_sharding', __doc__)
_MESHES = flags.DEFINE_multi_string(
  'meshes',
  None,
  'FILE: mesh files, or patterns of them. The first is the baseline of --measure. With --suggest '
  'their axes and rules are combined; all of configs/meshes unless given.',
  flag_values=COMMAND.flags,
)
_SUGGEST = flags.DEFINE_boolean(
  'suggest',
  False,
  'Compile the best meshes for the devices instead of those of the files, and say why not others.',
  flag_values=COMMAND.flags,
)
_BEST = flags.DEFINE_integer(
  'best', 6, 'Meshes to compile with --suggest.', lower_bound=1, flag_values=COMMAND.flags
)
_MEASURE = flags.DEFINE_integer(
  'measure',
  0,
  'Steps to run in each round, on the devices at hand; 0 runs none.',
  lower_bound=0,
  flag_values=COMMAND.flags,
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Rounds of --measure.', lower_bound=3, flag_values=COMMAND.flags
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


@dataclasses.dataclass
class _Plan:
  """What to do for one kind of devices.

  Attributes:
    target, hardware: the devices.
    rows: of the batch of all meshes.
    meshes: name -> mesh file, the baseline first.
    gin: name -> text of the file, of meshes that were suggested.
    pruned: meshes that are not compiled, with reasons.
  """

  target: targets.Target
  hardware: 'Hardware'
  rows: int
  meshes: dict[str, str]
  gin: dict[str, str] = dataclasses.field(default_factory=dict)
  pruned: list[Any] = dataclasses.field(default_factory=list)


@COMMAND
def main(arguments: list[str]) -> int:
  """Compiles every mesh for every hardware, measures where asked to, and prints the table."""
  del arguments
  chosen = _check_flags()
  files = _mesh_files(_MESHES.value or ['configs/meshes/*.gin'])
  at_hand = _at_hand(chosen, files)
  COMMAND.load_gin(pathlib.Path(next(iter(files.values()))))  # bindings of meshes are for all
  import jax

  from aevo_jax.analysis import comparison

  jax.config.update('jax_platforms', 'cpu')  # accelerators are for the processes that measure
  rows: list[dict[str, Any]] = []
  interrupted = False
  with contextlib.ExitStack() as held:
    directory = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
    try:
      for plan in _plans(chosen, files, directory):
        of_target: list[dict[str, Any]] = []
        try:
          _compile(plan, of_target)
          if plan.target.name in at_hand:
            _measure(plan, of_target)
        finally:
          rows += of_target
    except KeyboardInterrupt:
      interrupted = True
      print('interrupted; what there was until then:', file=sys.stderr, flush=True)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=1) + '\n')
  if _HTML.value:
    pathlib.Path(_HTML.value).write_text(comparison.html(rows, COMMAND.line))
  print(comparison.text(rows), flush=True)
  if interrupted:
    return 130
  return int(not any('roofline' in found for found in rows))


def _check_flags() -> list[targets.Target]:
  """Returns the devices; a flag that is missing or wrong ends the command."""
  if not (_MESHES.value or _SUGGEST.value) or not _HARDWARE.value:
    sys.exit(
      'compare_sharding: name mesh files and devices, e.g. --meshes=configs/meshes/fsdp.gin '
      '--hardware=h200x8, or --suggest and devices'
    )
  for flag, other in ((_BEST, _SUGGEST), (_ROUNDS, _MEASURE)):
    if flag.present and not other.value:
      sys.exit(f'compare_sharding: --{flag.name} is read with --{other.name} alone; give both')
  try:
    chosen = [targets.parse(name) for name in _HARDWARE.value]
  except targets.TargetError as error:
    sys.exit(f'compare_sharding: --hardware: {error}')
  for path in (_JSON.value, _HTML.value):
    if path and not pathlib.Path(path).absolute().parent.is_dir():
      sys.exit(f'compare_sharding: {path}: there is no such directory; make it first')
  return chosen


def _at_hand(chosen: list[targets.Target], files: dict[str, str]) -> set[str]:
  """Returns the names of the devices on which steps can be run; none without --measure."""
  from aevo_jax.analysis.strategies import rounds

  if not _MEASURE.value:
    return set()
  if rounds.CONTROL in files and not _SUGGEST.value:
    sys.exit(
      f'compare_sharding: --measure: the mesh file {files[rounds.CONTROL]} has the name of the '
      'control arm; rename it'
    )
  absent = {target.name: rounds.why_not_at_hand(target) for target in chosen}
  at_hand = {name for name, why in absent.items() if not why}
  said = '; '.join(filter(None, absent.values()))
  if not at_hand:
    sys.exit(
      f'compare_sharding: --measure: {said}; leave --measure out, or name simulated devices as '
      '--hardware=cpux8'
    )
  if said:
    print(f'compiled and not measured: {said}', file=sys.stderr, flush=True)
  return at_hand


def _plans(
  chosen: list[targets.Target], files: dict[str, str], directory: pathlib.Path
) -> list[_Plan]:
  """Decides what to compile for each kind of devices; a mistake in gin ends the command."""
  from aevo_jax.analysis import comparison
  from aevo_jax.config.loading import LoadError

  plans = []
  try:
    for target in chosen:
      of_chip = _of_chip(files, target)
      if _SUGGEST.value:
        plans.append(_suggested(target, of_chip, directory))
        continue
      batch = _ROWS.value or _common_batch(of_chip, target)
      hardware = comparison.load(target, layout.search_paths(), _of_hardware())
      plans.append(_Plan(target, hardware, batch, of_chip))
  except (LoadError, ValueError) as error:
    sys.exit(f'compare_sharding: {error}')
  return plans


def _of_chip(files: dict[str, str], target: targets.Target) -> dict[str, str]:
  """Puts the mesh file that `mesh.for_chip` chooses in the place of one that chooses."""
  from aevo_jax.config import loading
  from aevo_jax.sharding import chips

  chosen = {}
  for name, path in files.items():
    loading.load([path], [], search_paths=layout.search_paths())
    chosen[name] = chips.chosen_file(target.hardware) or path
  return chosen


def _suggested(target: targets.Target, files: dict[str, str], directory: pathlib.Path) -> _Plan:
  """Chooses meshes for some devices and writes their files."""
  from aevo_jax.analysis.strategies import suggestion
  from aevo_jax.config import loading
  from aevo_jax.config.configurables import resolve

  bound = []
  for path in files.values():
    loading.load([path], [], search_paths=layout.search_paths())
    bound.append((resolve('mesh'), resolve('sharding')))
  axes = suggestion.axes_of(bound)
  problem = _problem(target)
  pruned = suggestion.without_effect(axes, problem.model)
  axes = {axis: cut for axis, cut in axes.items() if f'axis {axis}' not in dict(pruned)}
  meshes = suggestion.all_meshes(axes, target.devices)
  rows = _ROWS.value or suggestion.fewest_rows(meshes, problem)
  train = dataclasses.replace(problem.recipe.train, batch_rows=rows)
  problem = problem._replace(recipe=dataclasses.replace(problem.recipe, train=train))
  best, others = suggestion.best(meshes, problem, _BEST.value)
  if not best:
    raise ValueError(
      f'--suggest: none of {len(meshes)} meshes is possible for {target.name}; the last: '
      f'{others[-1].name}: {others[-1].reason}'
    )
  plan = _Plan(target, problem.hardware, rows, {}, pruned=pruned + others)
  for one in best:
    path = directory / f'{target.devices}_{one.mesh.name}.gin'
    path.write_text(one.mesh.gin)
    plan.meshes[one.mesh.name] = str(path)
    plan.gin[one.mesh.name] = one.mesh.gin
  said = f'{len(meshes)} meshes for {target.name}, of which {len(best)} are compiled'
  print(said, file=sys.stderr, flush=True)
  return plan


def _problem(target: targets.Target) -> 'Problem':
  """Reads what meshes are sought for."""
  from aevo_jax.analysis import comparison
  from aevo_jax.analysis.strategies.suggestion import Problem
  from aevo_jax.config import loading
  from aevo_jax.config.configurables import resolve
  from aevo_jax.training.recipe import recipe as recipe_lib

  loading.load(COMMAND.flags.gin_file or (), _of_model(), search_paths=layout.search_paths())
  config = resolve('model')
  sharding = resolve('sharding')
  recipe = recipe_lib.from_gin()
  if _ADAPTATION.value:
    recipe = dataclasses.replace(recipe, adaptation=recipe_lib.Adaptation(_ADAPTATION.value))
  train = dataclasses.replace(recipe.train, row_length=_ROW_LENGTH.value)
  recipe = dataclasses.replace(recipe, train=train)
  hardware = comparison.load(target, layout.search_paths(), _of_hardware())
  return Problem(config, recipe, hardware, target.platform, sharding)


def _mesh_files(patterns: list[str]) -> dict[str, str]:
  """Returns the files that are named, each once, by the name of their rows."""
  files: list[str] = []
  for pattern in patterns:
    found = sorted(glob.glob(pattern))
    if not found:
      found = [str(path) for path in _published(pattern)]
    if not found:
      sys.exit(f'compare_sharding: --meshes={pattern}: there is no such file')
    files += found
  by_name: dict[str, str] = {}
  for path in dict.fromkeys(files):
    name = pathlib.Path(path).stem
    by_name[path if name in by_name else name] = path
  return by_name


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


def _of_model() -> list[str]:
  """Returns the other bindings."""
  given = flags_lib.bindings(COMMAND.flags)
  return [text for text in given if not text.startswith('hardware.')]


def _common_batch(files: dict[str, str], target: targets.Target) -> int:
  """Returns the fewest rows that every mesh can cut; a mesh that does not fit has no say."""
  from aevo_jax.config import loading
  from aevo_jax.config.configurables import resolve

  batch = 1
  for path in files.values():
    loading.load([path], [], search_paths=layout.search_paths())
    try:
      bound = resolve('sharding').bind(resolve('mesh').sizes(target.devices))
    except ValueError:
      continue
    batch = math.lcm(batch, bound.shards('batch'))
  return batch


def _compile(plan: _Plan, rows: list[dict[str, Any]]) -> None:
  """Compiles the meshes of a plan and fills their rows, in the order of the plan."""
  from aevo_jax.analysis import comparison
  from aevo_jax.analysis.strategies.compilers import Compilers

  arguments = {name: _arguments(plan, path) for name, path in plan.meshes.items()}
  done: dict[str, dict[str, Any]] = {}
  try:
    with Compilers(_JOBS.value) as compilers:
      for name, found in compilers.compile(arguments):
        done[name] = comparison.row(name, plan.target, found, plan.hardware)
        said = found.get('error', f'compiled, {found.get("seconds")} s')
        print(f'{name} for {plan.target.name}: {said}', file=sys.stderr, flush=True)
  finally:
    for name in plan.meshes:
      if name in done:
        rows.append(done[name])
      if name in done and name in plan.gin:
        rows[-1]['gin'] = plan.gin[name]
    for one in plan.pruned:
      rows.append({'mesh': one.name, 'hardware': plan.target.name, 'left_out': one.reason})


def _arguments(plan: _Plan, path: str) -> list[str]:
  """Returns the flags of `aevo shapes` for one mesh."""
  arguments = [f'--gin_file={name}' for name in [*(COMMAND.flags.gin_file or ()), path]]
  arguments += [f'--gin_bindings={text}' for text in _of_model()]
  if _ADAPTATION.value:
    arguments.append(f'--adaptation={_ADAPTATION.value}')
  arguments += [f'--rows={plan.rows}', f'--row_length={_ROW_LENGTH.value}', '--json']
  return [*arguments, f'--compile={plan.target.name}']


def _measure(plan: _Plan, rows: list[dict[str, Any]]) -> None:
  """Runs the steps of the meshes that were compiled, and adds what was measured to their rows."""
  from aevo_jax.analysis.strategies import measured
  from aevo_jax.analysis.strategies.rounds import CONTROL, Rounds

  compiled = [row for row in rows if 'roofline' in row]
  if not compiled:
    return
  meshes = {row['mesh']: plan.meshes[row['mesh']] for row in compiled}
  first = next(iter(plan.meshes))
  if first not in meshes:
    instead = next(iter(meshes))
    print(f'{first} could not be compiled; {instead} is the baseline', file=sys.stderr, flush=True)
  meshes[CONTROL] = next(iter(meshes.values()))
  job = {
    'gin_files': list(COMMAND.flags.gin_file or ()),
    'bindings': _of_model(),
    'adaptation': _ADAPTATION.value or '',
    'rows': plan.rows,
    'row_length': _ROW_LENGTH.value,
    'meshes': meshes,
    'steps': _MEASURE.value,
    'rounds': _ROUNDS.value,
  }

  def report(line: str) -> None:
    print(f'{plan.target.name}, {line}', file=sys.stderr, flush=True)

  rounds = Rounds(report)
  try:
    rounds.run(job, plan.target)
  finally:
    rows.append(measured.add(compiled, rounds, _MEASURE.value))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
