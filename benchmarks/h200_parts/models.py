"""Models of h200.py: presets, or micro ones in their place, with random weights on the device."""

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp

from aevo_jax import layout
from aevo_jax.config.configurables import resolve
from aevo_jax.config.loading import load
from aevo_jax.models.config import ModelConfig
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train

TOYS = {
  'nemotron3_nano_30b_a3b': ModelConfig(
    pattern='ME*', compute_dtype='bfloat16', remat_policy='block', scan=True
  )
}
_TOY = ModelConfig(
  family='qwen3',
  pattern='*-*-',
  rope_theta=1e4,
  qk_norm=True,
  mlp_activation='swiglu',
  tie_word_embeddings=True,
  compute_dtype='bfloat16',
  remat_policy='block',
  scan=True,
)


def preset(name: str, size: str) -> ModelConfig:
  """A published model, or a micro one of its kind."""
  if size == 'toy':
    return TOYS.get(name, _TOY)
  path = pathlib.Path('configs') / 'models' / f'{name}.gin'
  load([str(path)], [], search_paths=layout.search_paths())
  return resolve('model')


def recipe(rows: int, row_length: int, *, rank: int = 0, logits_chunk: int = 0) -> Recipe:
  """Supervised fine-tuning with AdamW, of all weights or of an adapter."""
  adapted = {}
  if rank:
    adapted = {'adaptation': Adaptation('lora'), 'lora': Lora(rank=rank, alpha=2.0 * rank)}
  train = Train(batch_rows=rows, row_length=row_length, logits_chunk=logits_chunk)
  return Recipe(optimizer=Optimizer(learning_rate=1e-5), train=train, **adapted)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _filled(seed: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
  if len(shape) < 2:
    return jnp.ones(shape, dtype)
  return jax.random.normal(jax.random.key(seed), shape, dtype) / math.sqrt(shape[-2])


def weights(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Random weights, by shapes: matrices scaled as at initialization, vectors 1."""
  made = {}
  for seed, (name, shape) in enumerate(shapes.items()):
    made[name] = _filled(seed, shape.shape, str(shape.dtype))
    if name.endswith(('A_log', 'bias')):
      made[name] = jnp.zeros_like(made[name])
  return made


def cut(config: ModelConfig, blocks: int) -> ModelConfig:
  """The first so many blocks."""
  return dataclasses.replace(config, pattern=config.pattern[:blocks])
