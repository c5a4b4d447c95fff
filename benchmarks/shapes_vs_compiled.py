"""The estimate of `aevo shapes` beside what XLA allots to the same training step.

The step is compiled for simulated devices and never run.

  .venv/bin/python benchmarks/shapes_vs_compiled.py
  --gin_file=configs/models/nemotron3_nano_30b_a3b.gin --gin_file=configs/meshes/fsdp.gin

The step is the real one, on abstract arrays with the rules' shardings, under model.remat_policy,
scanned if model.scan says so. --blocks takes the first so many of the pattern: without a scan every
block is compiled anew. The JSON line that it prints belongs into
benchmarks/results/shapes_vs_compiled.jsonl, from which `aevo status` knows what was compiled. XLA's
CPU compiler turns bfloat16 products into float32 ones, so --gin.model.compute_dtype='"float32"'
compares like with like.
"""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import sys
import time

from absl import app, flags

from aevo_jax import layout
from aevo_jax.config import flags as gin_flags

_DEVICES = flags.DEFINE_integer('devices', 8, 'Simulated devices.')
_BLOCKS = flags.DEFINE_integer('blocks', 0, 'Blocks of the pattern; 0 for all.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows of a batch.')
_ROW_LENGTH = flags.DEFINE_integer('row_length', 512, 'Tokens of a row.')


def compile_step(config, recipe, placement):
  """Compiles the training step of a recipe for a mesh, from shapes alone."""
  import jax
  import jax.numpy as jnp

  from aevo_jax.models import lora, scan_layers
  from aevo_jax.models.params import abstract, unbind
  from aevo_jax.training import placement as placement_lib
  from aevo_jax.training.optimizer import transformation
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.train_state import TrainState
  from aevo_jax.training.train_step import make_train_step

  trained, frozen, _axes = placement_lib.shapes_of(config, recipe.adaptation, recipe.lora)
  model = abstract(config)
  if recipe.adaptation.method == 'lora':
    lora.attach(
      model,
      rank=recipe.lora.rank,
      alpha=recipe.lora.alpha,
      targets=recipe.lora.targets,
      seed=0,
      shapes=True,
    )
  structure = unbind(scan_layers.Scanned(model) if config.scan else model)[0]
  optimizer = transformation(recipe.optimizer)
  state = jax.eval_shape(
    lambda params: TrainState.create(params, optimizer, recipe.train.ema_decay), trained
  )

  def place(tree, shardings):
    return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      tree,
      shardings,
    )

  shardings = placement.state(state, trained)
  shape = (_ROWS.value, _ROW_LENGTH.value)
  batch = {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=placement.batch())
    for name, dtype in (('tokens', jnp.int32), ('segment_ids', jnp.int32), ('weights', jnp.float32))
  }
  # As if rows went through the model together, whatever the recipe's microbatches.
  train = recipe_lib.Train(ema_decay=recipe.train.ema_decay)
  step = make_train_step(structure, optimizer, recipe_lib.TrainConfig(recipe.loss, train))
  with placement.use():
    return (
      jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
      .lower(
        place(state, shardings),
        place(frozen, placement.params(frozen)),
        batch,
        jax.ShapeDtypeStruct((), jnp.float32),
      )
      .compile()
    )


def gib(size: float) -> float:
  return round(size / 2**30, 3)


def beside(estimate: float, compiled: float) -> dict[str, float]:
  """Two sizes in bytes and their ratio."""
  return {
    'estimate': gib(estimate),
    'compiled': gib(compiled),
    'ratio': round(estimate / compiled, 3),
  }


def main(argv: list[str]) -> None:
  del argv
  os.environ['XLA_FLAGS'] = ' '.join(
    [
      os.environ.get('XLA_FLAGS', ''),
      f'--xla_force_host_platform_device_count={_DEVICES.value}',
      '--xla_backend_optimization_level=0',
      # By default the CPU compiler orders a program for concurrency and lets memory grow, threefold
      # here; accelerators' compilers order it for memory.
      '--xla_cpu_enable_concurrency_optimized_scheduler=false',
    ]
  )
  from aevo_jax.config.configurables import resolve
  from aevo_jax.training import placement as placement_lib
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  gin_flags.load_from_flags(layout.search_paths())
  config, recipe = resolve('model'), recipe_lib.from_gin()
  if _BLOCKS.value:
    config = dataclasses.replace(config, pattern=config.pattern[: _BLOCKS.value])
  recipe = dataclasses.replace(
    recipe,
    train=dataclasses.replace(recipe.train, batch_rows=_ROWS.value, row_length=_ROW_LENGTH.value),
  )
  placement = placement_lib.from_gin(config, recipe)
  estimate = estimate_memory(
    config, recipe, placement.layout, rows=_ROWS.value, row_length=_ROW_LENGTH.value
  )
  started = time.perf_counter()
  analysis = compile_step(config, recipe, placement).memory_analysis()
  held = estimate.parameters + estimate.frozen + estimate.optimizer + estimate.moving_average
  activations = estimate.activations[config.remat_policy]
  # Gradients are made and used within the step, so XLA counts them with the activations.
  temporary = estimate.gradients + sum(activations.values())

  print(
    json.dumps(
      {
        'date': datetime.date.today().isoformat(),
        'command': shlex.join(['python', *sys.argv]),
        'gin_files': flags.FLAGS.gin_file,
        'machine': (
          f'{platform.machine()}, {os.cpu_count()} cores, {_DEVICES.value} simulated devices'
        ),
        'pattern': config.pattern,
        'mesh': dict(placement.mesh.shape),
        'rows': (_ROWS.value, _ROW_LENGTH.value),
        'adaptation': recipe.adaptation.method,
        'remat_policy': config.remat_policy,
        'scan': config.scan,
        'compute_dtype': config.compute_dtype,
        'compile_s': round(time.perf_counter() - started, 1),
        'held_gib': beside(held, analysis.argument_size_in_bytes),
        'temporary_gib': beside(temporary, analysis.temp_size_in_bytes),
        'parts_gib': {'gradients': gib(estimate.gradients)}
        | {part: gib(size) for part, size in activations.items()},
      }
    )
  )


if __name__ == '__main__':
  gin_flags.define()
  app.run(main, flags_parser=gin_flags.parse)
