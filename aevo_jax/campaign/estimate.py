"""What a trial would take on each device, for `aevo campaign --dry_run`; nothing of it reaches a
run, whose workers have one device and no mesh.
"""

import dataclasses
import pathlib

from aevo_jax import layout
from aevo_jax.config import loading
from aevo_jax.config.configurables import configurable, resolve
from aevo_jax.config.constitution import Constitution


@configurable('estimate')
@dataclasses.dataclass(frozen=True)
class Estimate:
  """model, mesh: gin files of the model and of the mesh. devices: of the mesh. row_length: tokens
  of a row. model '' asks for no estimate.
  """

  model: str = ''
  mesh: str = 'configs/meshes/fsdp.gin'
  devices: int = 8
  row_length: int = 8192


def memory(estimate: Estimate, constitution: Constitution) -> dict[str, str]:
  """Rows of a table: what to call it, and GiB in words. Loads the model's and the mesh's gin in
  place of what was loaded.

  Raises:
    ValueError: the rules do not divide the parameters or the batch; LoadError is one.
  """
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  def load(mesh: str, devices: int):
    loading.load([estimate.model, mesh], [], search_paths=layout.search_paths())
    return resolve('model'), resolve('sharding').bind(resolve('mesh').sizes(devices))

  limit = constitution.submission.max_rank
  recipe = (
    recipe_lib.Recipe(
      adaptation=recipe_lib.Adaptation('lora'), lora=recipe_lib.Lora(rank=limit, targets='all')
    )
    if limit
    else recipe_lib.Recipe()
  )
  trained = f'an adapter of rank {limit}' if limit else 'all weights'
  config, bound = load(estimate.mesh, estimate.devices)
  sharded = estimate_memory(
    config, recipe, bound, rows=bound.shards('batch'), row_length=estimate.row_length
  )
  plain, alone = load('configs/meshes/single.gin', 1)
  plain = dataclasses.replace(plain, compute_dtype='float32', remat_policy='none', scan=False)
  single = estimate_memory(plain, recipe, alone, rows=1, row_length=estimate.row_length)
  gib = lambda size: f'{size / 2**30:,.1f} GiB'
  return {
    'model': f'{sharded.count / 1e9:.1f} billion parameters ({estimate.model}), training {trained}',
    'memory a device': f'about {gib(sharded.total("block"))} on {estimate.devices} devices '
    f'({pathlib.Path(estimate.mesh).name}), {config.compute_dtype}, remat block, rows of '
    f'{estimate.row_length} tokens; {gib(sharded.total("dots"))} with remat dots',
    'as a campaign runs': (
      f'about {gib(single.total("none"))} on the one device of a worker, float32, nothing '
      'recomputed: campaigns cannot carry a mesh, remat or bfloat16 yet'
    ),
  }
