"""Parts d and e: steps of supervised fine-tuning, their speed, and their memory as predicted."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from h200_parts import models
from h200_parts.kernels import product
from h200_parts.timing import attempt, limit_bytes, peak_gib, seconds

from aevo_jax.analysis.abstract_step import lower_step
from aevo_jax.analysis.useful_flops import useful_flops
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Sharding
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.memory_estimate import estimate_memory
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.train_state import TrainState

ROWS = {'h200': 4, 'toy': 2}
LENGTH = {'h200': 4096, 'toy': 64}
CALLS = {'h200': 6, 'toy': 2}


class DoesNotFitError(RuntimeError):
  """The compiled step needs more than the device has."""


def sft_small(size: str) -> Iterator[dict]:
  """Steps of the two small models."""
  for name in ('qwen3_0p6b', 'qwen3_1p7b'):
    yield from _steps(name, size, ('none', 'dots', 'block'))


def sft_large(size: str) -> Iterator[dict]:
  """A step of the largest dense model whose training state one device holds."""
  yield from _steps('qwen3_4b', size, ('none', 'block'))


def sft_one(size: str) -> Iterator[dict]:
  """A step of one model, to be compared under other flags."""
  yield from _steps('qwen3_1p7b', size, ('dots', 'block'))


def _steps(name: str, size: str, policies: tuple[str, ...]) -> Iterator[dict]:
  """Steps under the policies that keep the most first; the first that fits ends it."""
  config = models.preset(name, size)
  recipe = models.recipe(ROWS[size], LENGTH[size], logits_chunk=min(512, LENGTH[size]))
  for policy in policies:
    chosen = dataclasses.replace(config, remat_policy=policy)
    rows = list(attempt(f'{name}, remat {policy}', lambda c=chosen: step(c, recipe, size)))
    yield from rows
    if 'error' not in rows[0]:
      return


def nano_lora(size: str) -> Iterator[dict]:
  """All blocks of Nemotron 3 Nano, or as many as fit, under each implementation of experts."""
  whole = models.preset('nemotron3_nano_30b_a3b', size)
  recipe = models.recipe(1, LENGTH[size], rank=32, logits_chunk=min(512, LENGTH[size]))
  count = len(whole.pattern)
  for implementation, blocks in (
    ('mosaic', count),
    ('mosaic', count // 2),
    ('tiled', count),
    ('tiled', count // 3),
    ('ragged_dot', 2),
  ):
    config = models.cut(whole, blocks)
    config = dataclasses.replace(config, moe_implementation=implementation)
    case = f'{implementation}, {len(config.pattern)} of {count} blocks'
    rows = list(attempt(case, lambda c=config: step(c, recipe, size)))
    yield from rows
    if 'error' not in rows[0]:
      return


def step(config: ModelConfig, recipe: Recipe, size: str) -> dict:
  """Compiles a step, says what it should take, runs it if it fits and says what it took."""
  train = recipe.train
  traced = lower_step(config, recipe)
  compiled = traced.lowered.compile()
  memory = compiled.memory_analysis()
  layout = Sharding({'batch': 'data'}).bind({'data': 1})
  estimate = estimate_memory(
    config, recipe, layout, rows=train.batch_rows, row_length=train.row_length
  )
  predicted = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  sizes = {
    'estimated_gib': estimate.total(config.remat_policy) / 2**30,
    'compiled_gib': predicted / 2**30,
  }
  if predicted > limit_bytes():
    raise DoesNotFitError(f'{sizes}')
  optimizer = transformation(recipe.optimizer)
  params = models.weights(traced.state.params)
  state = jax.jit(lambda p: TrainState.create(p, optimizer, 0.0), donate_argnums=0)(params)
  frozen = models.weights(traced.frozen)
  shape = (train.batch_rows, train.row_length)
  batch = {
    'tokens': jax.random.randint(jax.random.key(0), shape, 0, config.vocab_size),
    'segment_ids': jnp.ones(shape, jnp.int32),
    'weights': jnp.ones(shape, jnp.float32),
  }
  rate = jnp.float32(1e-5)

  def run() -> jax.Array:
    nonlocal state
    state, metrics = compiled(state, frozen, batch, rate)
    return metrics['loss']

  elapsed = seconds(run, calls=CALLS[size])
  flops = useful_flops(config, recipe, rows=train.batch_rows, row_length=train.row_length)
  peak = peak_gib()
  ceiling = product(8192 if size == 'h200' else 256)['tflops'] * 1e12
  return {
    'rows': f'{shape[0]} x {shape[1]}',
    'ms': elapsed * 1e3,
    'tokens_per_second': shape[0] * shape[1] / elapsed,
    'tflops': flops / elapsed / 1e12,
    'share_of_measured_product': flops / elapsed / ceiling,
    'loss': float(run()),
    **sizes,
    'peak_gib': peak,
  }
