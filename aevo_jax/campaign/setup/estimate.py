"""The estimate of a trial's memory on each device, for `aevo campaign --dry_run`.

Nothing of it reaches a run, whose workers have one device and no mesh.
"""

import dataclasses
import pathlib

from aevo_jax import layout
from aevo_jax.config import loading
from aevo_jax.config.configurables import configurable, resolve
from aevo_jax.config.constitution import Constitution
from aevo_jax.training.recipe import recipe as recipe_lib


@configurable('estimate')
@dataclasses.dataclass(frozen=True)
class Estimate:
  """What to estimate.

  Attributes:
    model: gin file of the model; '' for no estimate.
    mesh: gin file of the mesh.
    devices: of the mesh.
    row_length: tokens of a row.
  """

  model: str = ''
  mesh: str = 'configs/meshes/fsdp.gin'
  devices: int = 8
  row_length: int = 8192


def memory(estimate: Estimate, constitution: Constitution) -> dict[str, str]:
  """Estimates a trial's memory, sharded and as a campaign runs today.

  The model's and the mesh's gin replace what was loaded.

  Args:
    estimate: with a model.
    constitution: says whether submissions are adapters, and of which rank.

  Returns:
    Rows of a table: name, and GiB in words.

  Raises:
    ValueError: the rules do not divide the parameters or the batch; LoadError is one.
  """
  # Late, since it imports jax, and settings import this file.
  from aevo_jax.training.recipe.memory_estimate import estimate_memory  # noqa: PLC0415  imports jax

  recipe = recipe_lib.Recipe()
  trained = 'all weights'
  limit = constitution.submission.max_rank
  if limit:
    recipe = recipe_lib.Recipe(
      adaptation=recipe_lib.Adaptation('lora'), lora=recipe_lib.Lora(rank=limit, targets='all')
    )
    trained = f'an adapter of rank {limit}'
  config, bound = _load(estimate.model, estimate.mesh, estimate.devices)
  sharded = estimate_memory(
    config,
    recipe,
    bound,
    rows=bound.shards('batch'),
    row_length=estimate.row_length,
    platform='gpu',
  )
  single_config, single_bound = _load(estimate.model, 'configs/meshes/single.gin', 1)
  single_config = dataclasses.replace(
    single_config, compute_dtype='float32', remat_policy='none', scan=False
  )
  single = estimate_memory(
    single_config, recipe, single_bound, rows=1, row_length=estimate.row_length
  )
  return {
    'model': f'{sharded.count / 1e9:.1f} billion parameters ({estimate.model}), training {trained}',
    'memory a device': f'about {_gib(sharded.total("block"))} on {estimate.devices} devices '
    f'({pathlib.Path(estimate.mesh).name}), {config.compute_dtype}, remat block, rows of '
    f'{estimate.row_length} tokens; {_gib(sharded.total("dots"))} with remat dots',
    'as a campaign runs': (
      f'about {_gib(single.total("none"))} on the one device of a worker, float32, nothing '
      'recomputed: campaigns cannot carry a mesh, remat or bfloat16 yet'
    ),
  }


def _load(model: str, mesh: str, devices: int) -> tuple:
  """The model's config, and the sharding rules bound to the mesh."""
  loading.load([model, mesh], [], search_paths=layout.search_paths())
  return resolve('model'), resolve('sharding').bind(resolve('mesh').sizes(devices))


def _gib(size: float) -> str:
  return f'{size / 2**30:,.1f} GiB'
