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


def gib(size: float) -> float:
  return round(size / 2**30, 3)


def beside(estimate: float, compiled: float) -> dict[str, float]:
  """Two sizes in bytes and their ratio."""
  return {
    'estimate': gib(estimate),
    'compiled': gib(compiled),
    'ratio': round(estimate / compiled, 3),
  }


def set_flags() -> None:
  """Makes XLA simulate devices, and order programs as compilers of accelerators do."""
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


def main(argv: list[str]) -> None:
  del argv
  set_flags()
  from aevo_jax.analysis.abstract_step import lower_step
  from aevo_jax.config.configurables import resolve
  from aevo_jax.models.config import REMAT_ALIASES
  from aevo_jax.training import placement as placement_lib
  from aevo_jax.training.recipe import recipe as recipe_lib
  from aevo_jax.training.recipe.memory_estimate import estimate_memory

  gin_flags.load_from_flags(layout.search_paths())
  config, recipe = resolve('model'), recipe_lib.from_gin()
  if _BLOCKS.value:
    config = dataclasses.replace(config, pattern=config.pattern[: _BLOCKS.value])
  # As if rows went through the model together, whatever the recipe's microbatches.
  train = recipe_lib.Train(
    batch_rows=_ROWS.value, row_length=_ROW_LENGTH.value, ema_decay=recipe.train.ema_decay
  )
  recipe = dataclasses.replace(recipe, train=train)
  placement = placement_lib.from_gin(config, recipe)
  estimate = estimate_memory(
    config, recipe, placement.layout, rows=_ROWS.value, row_length=_ROW_LENGTH.value
  )
  started = time.perf_counter()
  analysis = lower_step(config, recipe, placement).lowered.compile().memory_analysis()
  held = estimate.parameters + estimate.frozen + estimate.optimizer + estimate.moving_average
  policy = REMAT_ALIASES.get(config.remat_policy, config.remat_policy)
  activations = estimate.activations[policy]
  temporary = estimate.temporary(config.remat_policy)

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
