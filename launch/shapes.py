"""Print what a training run takes on each device of a mesh, from shapes alone.

  aevo shapes --gin_file=configs/models/nemotron3_nano_30b_a3b.gin \
    --gin_file=configs/meshes/fsdp.gin --devices=64
  aevo shapes --gin_file=configs/models/nemotron_h_8b.gin --gin_file=configs/meshes/fsdp.gin \
    --adaptation=lora --row_length=4096 --json

Nothing is allocated. Bytes per device of parameters, gradients and optimizer state are exact;
activations by remat policy are an estimate (docs/sharding.md).
"""

import dataclasses
import json
import sys
import time

from absl import flags

from aevo_jax import command

COMMAND = command.Command('shapes', __doc__)
_DEVICES = flags.DEFINE_integer(
  'devices', 8, 'Devices of the mesh.', lower_bound=1, flag_values=COMMAND.flags
)
_ROWS = flags.DEFINE_integer(
  'rows',
  0,
  'Rows of a batch, over all devices; 0 is one for each part into which the rules cut batches.',
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
_JSON = flags.DEFINE_boolean(
  'json', False, 'Print one JSON object of bytes instead of a table.', flag_values=COMMAND.flags
)

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
  from aevo_jax.config.loading import LoadError, resolve
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  COMMAND.load_gin()
  try:
    config = resolve('model')
    recipe = recipe_lib.from_gin()
    if _ADAPTATION.value:
      recipe = dataclasses.replace(recipe, adaptation=recipe_lib.Adaptation(_ADAPTATION.value))
    mesh = resolve('mesh')
    if not mesh.axes:
      raise ValueError('no mesh: name a mesh file, e.g. --gin_file=configs/meshes/fsdp.gin')
    sizes = mesh.sizes(_DEVICES.value)
    bound = resolve('sharding').bind(sizes)
    rows = _ROWS.value or bound.shards('batch')
    estimate = estimate_memory(config, recipe, bound, rows=rows, row_length=_ROW_LENGTH.value)
  except (LoadError, ValueError) as error:
    sys.exit(f'shapes: {error}')
  facts = {
    'devices': _DEVICES.value,
    'mesh': sizes,
    'rows': rows,
    'row_length': _ROW_LENGTH.value,
    'adaptation': recipe.adaptation.method,
    'optimizer': recipe.optimizer.name,
    'seconds': round(time.perf_counter() - started, 1),
  }
  if _JSON.value:
    totals = {policy: estimate.total(policy) for policy in estimate.activations}
    print(json.dumps(facts | dataclasses.asdict(estimate) | {'total': totals}, indent=1))
    return
  print(
    f'{estimate.count / 1e9:.2f} billion parameters on {_DEVICES.value} devices {sizes}, '
    f'{rows} rows of {_ROW_LENGTH.value} tokens, {recipe.adaptation.method}, '
    f'{recipe.optimizer.name}\nGiB per device:'
  )
  for name, label in PARTS.items():
    _print_size(label, getattr(estimate, name))
  for policy, parts in estimate.activations.items():
    _print_size(f'activations, remat {policy!r}', sum(parts.values()))
    for part, size in parts.items():
      _print_size(f'  {part}', size)
    _print_size('  all of the above', estimate.total(policy))


def _print_size(label: str, size: float) -> None:
  """Prints one line: a label and bytes as GiB."""
  print(f'  {label:<44}{size / 2**30:>10.3f}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
