"""A small stand-in for a model, with one block of each of its kinds."""

import dataclasses
import functools
import re
from typing import Any

import jax

from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import abstract
from aevo_jax.training.model_setup import PolicyModel, adapt_model
from aevo_jax.training.recipe.recipe import Adaptation, Lora


def stand_in(config: ModelConfig, adaptation: Adaptation, adapter: Lora) -> PolicyModel:
  """Builds the adapted stand-in, with shapes in place of trained arrays.

  Args:
    config: of the model that it stands for.
    adaptation: full fine-tuning or an adapter.
    adapter: its targets may name maps that only the model itself has.
  """
  if adaptation.method == 'lora':
    adapter = dataclasses.replace(adapter, targets=_small_targets(config, adapter.targets))
  model = adapt_model(_small(config), adaptation, adapter, None, seed=0)
  shapes: dict[str, Any] = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in model.params.items()
  }
  return model._replace(params=shapes)


@functools.cache
def adapted_maps(config: ModelConfig, targets: str) -> tuple[str, ...]:
  """Lists the maps of a model that an adapter is on.

  Args:
    config: of the model.
    targets: as `Lora.targets`.

  Raises:
    ValueError: the targets match nothing.
  """
  return tuple(lora.targeted(abstract(config), targets))


def _small(config: ModelConfig) -> ModelConfig:
  """Shrinks widths, and the pattern to a beginning that has every kind of block."""
  blocks = max(config.pattern.index(kind) for kind in set(config.pattern)) + 1
  return dataclasses.replace(
    config,
    pattern=config.pattern[:blocks],
    vocab_size=8,
    hidden_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    intermediate_size=64,
    mamba_num_heads=2,
    mamba_head_dim=16,
    n_groups=1,
    ssm_state_size=8,
    chunk_size=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    moe_shared_expert_intermediate_size=min(config.moe_shared_expert_intermediate_size, 16),
    moe_latent_size=min(config.moe_latent_size, 16),
    n_group=1,
    topk_group=1,
  )


def _by_kind(name: str, pattern: str) -> tuple[str, str]:
  """Returns the kind of block that a map is in, and its name there."""
  first, _, rest = name.partition('.')
  if first != 'layers':
    return '', name
  number, _, inner = rest.partition('.')
  return pattern[int(number)], inner


def _small_targets(config: ModelConfig, targets: str) -> str:
  """Translates targets into those of the stand-in: the same maps of the same kinds of block."""
  small = _small(config)
  targeted = {_by_kind(name, config.pattern) for name in adapted_maps(config, targets)}
  chosen = [
    re.escape(lora.hf_module(name, small))
    for name in lora.map_names(abstract(small))
    if _by_kind(name, small.pattern) in targeted
  ]
  return f'^({"|".join(chosen)})$'
