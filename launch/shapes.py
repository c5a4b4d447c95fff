"""Print what a training run takes on each device of a mesh, from shapes alone.

  aevo shapes --gin_file=configs/models/nemotron3_nano_30b_a3b.gin \
    --gin_file=configs/meshes/fsdp.gin --devices=64
  aevo shapes --gin_file=configs/models/nemotron_h_8b.gin --gin_file=configs/meshes/fsdp.gin \
    --adaptation=lora --row_length=4096 --json

  aevo shapes --gin_file=configs/models/qwen3_8b.gin --gin_file=configs/meshes/fsdp.gin \
    --adaptation=lora --row_length=4096 --compile=h200x8

Nothing is allocated. Bytes per device of parameters, gradients and optimizer state are exact;
activations by remat policy are an estimate (docs/sharding.md). With --compile, XLA compiles the
training step for devices that need not be there, and what it allots, sends and multiplies stands
beside the estimate.
"""

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from aevo_jax import command, layout
from aevo_jax.analysis import targets

if TYPE_CHECKING:
  from aevo_jax.analysis.compiled import CompiledStep
  from aevo_jax.models.config import ModelConfig
  from aevo_jax.sharding.rules import Layout, Sharding
  from aevo_jax.training.recipe.memory_estimate import MemoryEstimate
  from aevo_jax.training.recipe.recipe import Recipe

COMMAND = command.Command('shapes', __doc__)
_DEVICES = flags.DEFINE_integer(
  'devices',
  None,
  "Devices of the mesh; without it 8, or the target's.",
  lower_bound=1,
  flag_values=COMMAND.flags,
)
_COMPILE = flags.DEFINE_string(
  'compile',
  None,
  'TARGET: compile the step for it too: h200x8, h200x64, v5p:2x2x2, cpux8 (make targets).',
  flag_values=COMMAND.flags,
)
_ROWS = flags.DEFINE_integer(
  'rows',
  0,
  'Rows of a batch, over all devices; 0 is one for each part of a microbatch by the rules.',
  lower_bound=0,
  flag_values=COMMAND.flags,
)
_ROW_LENGTH = flags.DEFINE_integer(
  'row_length', 8192, 'Tokens of a row.', lower_bound=2, flag_values=COMMAND.flags
)
_ADAPTATION = flags.DEFINE_enum(
  'adaptation',
  None,
  ['full', 'lora'],
  "Instead of gin's adaptation.method.",
  flag_values=COMMAND.flags,
)
_PLATFORM = flags.DEFINE_enum(
  'platform',
  'gpu',
  ['cpu', 'gpu', 'tpu'],
  "Whose kernels the estimate is for; with --compile the target's.",
  flag_values=COMMAND.flags,
)
_JSON = flags.DEFINE_boolean(
  'json', False, 'Print one JSON object of bytes instead of a table.', flag_values=COMMAND.flags
)

DEVICES = 8
# Fields of the estimate, as the table calls them.
PARTS = {
  'parameters': 'trained parameters',
  'frozen': 'frozen parameters',
  'gradients': 'gradients',
  'optimizer': 'optimizer',
  'moving_average': 'moving average',
}


@COMMAND
def main(arguments: list[str]) -> None:
  """Estimates the memory and prints it."""
  del arguments
  started = time.perf_counter()
  facts: dict[str, Any] = {}
  target = _target()
  from aevo_jax.config.loading import LoadError, resolve
  from aevo_jax.sharding.rules import IndivisibleError
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  COMMAND.load_gin(chip=target.hardware if target else '')
  try:
    config = resolve('model')
    recipe = recipe_lib.from_gin()
    if _ADAPTATION.value:
      recipe = dataclasses.replace(recipe, adaptation=recipe_lib.Adaptation(_ADAPTATION.value))
    mesh = resolve('mesh')
    if not mesh.axes:
      raise ValueError('no mesh: name a mesh file, e.g. --gin_file=configs/meshes/fsdp.gin')
    sizes = mesh.sizes(_DEVICES.value or (target.devices if target else DEVICES))
    rules = resolve('sharding')
    bound = rules.bind(sizes)
    rows = _ROWS.value or bound.shards('batch') * recipe.train.microbatches
    train = dataclasses.replace(recipe.train, batch_rows=rows, row_length=_ROW_LENGTH.value)
    recipe = dataclasses.replace(recipe, train=train)
    estimate = estimate_memory(
      config,
      recipe,
      bound,
      rows=rows,
      row_length=_ROW_LENGTH.value,
      platform=target.platform if target else _PLATFORM.value,
    )
    compiled = None
    if target is not None:
      from aevo_jax.analysis.compiled import compile_step

      compiled = compile_step(config, recipe, mesh, rules, target)
      facts = _largest_batch(target, config, recipe, bound, estimate)
  except IndivisibleError as error:
    sys.exit(f'shapes: {error}{_nearest_mesh(config, recipe, sizes, rules)}')
  except (LoadError, ValueError) as error:
    sys.exit(f'shapes: {error}')
  facts |= {
    'devices': bound.devices,
    'mesh': sizes,
    'rows': rows,
    'row_length': _ROW_LENGTH.value,
    'adaptation': recipe.adaptation.method,
    'optimizer': recipe.optimizer.name,
    'seconds': round(time.perf_counter() - started, 1),
  }
  if _JSON.value:
    _print_json(facts, estimate, compiled)
    return
  _print_estimate(estimate, facts)
  if compiled is not None:
    _print_compiled(compiled, config.remat_policy, estimate.temporary(config.remat_policy))
    _print_whether_it_fits(compiled, facts)


def _print_json(
  facts: dict[str, Any], estimate: 'MemoryEstimate', compiled: 'CompiledStep | None'
) -> None:
  """Prints everything as one JSON object."""
  facts = facts | dataclasses.asdict(estimate)
  facts['temporary'] = {policy: estimate.temporary(policy) for policy in estimate.activations}
  facts['total'] = {policy: estimate.total(policy) for policy in estimate.activations}
  if compiled is not None:
    facts['compiled'] = _as_json(compiled)
  print(json.dumps(facts, indent=1))


def _print_whether_it_fits(compiled: 'CompiledStep', facts: dict[str, Any]) -> None:
  """Prints the last line: whether the target's memory holds it, and how much more it would."""
  fits = compiled.arguments + compiled.temporaries <= facts['memory_gb'] * 1e9
  print(
    f'fits in {facts["memory_gb"]:g} GB: {"yes" if fits else "no"}, largest batch by the '
    f'estimate: {facts["largest_batch"]} rows'
  )


def _print_estimate(estimate: 'MemoryEstimate', facts: dict[str, Any]) -> None:
  """Prints the table of the estimate."""
  print(
    f'{estimate.count / 1e9:.2f} billion parameters on {facts["devices"]} devices '
    f'{facts["mesh"]}, {facts["rows"]} rows of {facts["row_length"]} tokens, '
    f'{facts["adaptation"]}, {facts["optimizer"]}\nGiB per device:'
  )
  for name, label in PARTS.items():
    _print_size(label, getattr(estimate, name))
  for policy, parts in estimate.activations.items():
    _print_size(f'beside the state at a time, remat {policy!r}', estimate.temporary(policy))
    for part, size in parts.items():
      _print_size(f'  {part}', size)
    _print_size('  with the state', estimate.total(policy))


def _target() -> targets.Target | None:
  """Reads --compile and prepares this process for its compiler."""
  if _COMPILE.value is None:
    return None
  try:
    target = targets.parse(_COMPILE.value)
    if _DEVICES.value not in (None, target.devices):
      sys.exit(
        f'shapes: --devices={_DEVICES.value} and --compile={target.name}, which has '
        f'{target.devices}; leave --devices out'
      )
    targets.prepare(target, layout.checkout_root())
  except targets.TargetError as error:
    sys.exit(f'shapes: --compile: {error}')
  return target


def _nearest_mesh(
  config: 'ModelConfig', recipe: 'Recipe', sizes: dict[str, int], rules: 'Sharding'
) -> str:
  """Names the mesh with the same axes and devices, nearest to the one that does not divide."""
  from aevo_jax.analysis.legal_meshes import legal
  from aevo_jax.training.placement import shapes_of

  model = shapes_of(config, recipe.adaptation, recipe.lora)
  shapes = model.trained | model.frozen
  meshes = legal(sizes, rules, shapes, model.axes, _ROW_LENGTH.value, _ROWS.value)
  if not meshes:
    return '; no mesh with these axes and as many devices divides it'
  return f'; the nearest mesh that divides it: mesh.axes = {meshes[0]}'


def _largest_batch(
  target: targets.Target,
  config: 'ModelConfig',
  recipe: 'Recipe',
  bound: 'Layout',
  estimate: 'MemoryEstimate',
) -> dict[str, Any]:
  """Returns the target's memory and the largest batch that fits by the estimate."""
  from aevo_jax.analysis.hardware import largest_batch, load_hardware
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  policy = config.remat_policy
  train = recipe.train
  twice = estimate_memory(
    config,
    recipe,
    bound,
    rows=2 * train.batch_rows,
    row_length=train.row_length,
    platform=target.platform,
  )
  hardware = load_hardware(target.hardware, layout.search_paths())
  temporary = {
    train.batch_rows: estimate.temporary(policy),
    2 * train.batch_rows: twice.temporary(policy),
  }
  state = estimate.total(policy) - estimate.temporary(policy)
  return {
    'memory_gb': hardware.memory_gb,
    'largest_batch': largest_batch(hardware, state, temporary),
    'estimated_state': state,
    'temporary_by_rows': temporary,
  }


def _as_json(compiled: 'CompiledStep') -> dict[str, Any]:
  """Returns a compiled step with its collectives added up."""
  from aevo_jax.analysis.collectives import totals
  from aevo_jax.analysis.resharding import sentence

  added = [total._asdict() for total in totals(compiled.collectives)]
  return dataclasses.asdict(dataclasses.replace(compiled, collectives=[])) | {
    'collectives': added,
    'gathered_bytes': compiled.gathered_bytes,
    'resharded': [sentence(one) for one in compiled.resharded],
    'findings': [dataclasses.asdict(one) | {'sentence': one.sentence} for one in compiled.findings],
  }


def _print_compiled(compiled: 'CompiledStep', policy: str, estimated: float) -> None:
  """Prints what the compiler made of the step, beside the estimate of its temporaries."""
  from aevo_jax.analysis.collectives import totals
  from aevo_jax.analysis.resharding import sentence

  print(
    f'compiled for {compiled.target}, remat {policy!r} '
    f'({compiled.trace_s:.0f} s traced, {compiled.compile_s:.0f} s compiled), GiB per device:'
  )
  _print_size('state, frozen weights and batch', compiled.arguments)
  _print_size('temporaries', compiled.temporaries)
  _print_size(f'  estimated, {estimated / compiled.temporaries:.2f} of it', estimated)
  print('collectives of a step, on each device:')
  for total in totals(compiled.collectives):
    print(
      f'  {total.kind:<20}{"+".join(total.axes):<18}{total.dtype:<6}{total.times:>6} times'
      f'{total.result_bytes / 2**30:>10.3f} GiB, {total.wire_bytes / 2**30:.3f} sent'
    )
  for one in compiled.resharded:
    print(sentence(one))
  for one in compiled.findings:
    print(one.sentence)
  print(
    f'matrix products: {compiled.compiled_flops / 1e12:.2f} TFLOP on each device, '
    f'{compiled.compiled_flops / compiled.useful_flops:.2f} of the useful ones'
  )


def _print_size(label: str, size: float) -> None:
  """Prints one line: a label and bytes as GiB."""
  print(f'  {label:<44}{size / 2**30:>10.3f}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
