"""The families by name, and what a model's config says that its family has no words for."""

import re
import types
from typing import TYPE_CHECKING

from aevo_jax.models.families import nemotron_h, qwen3

if TYPE_CHECKING:
  from aevo_jax.models.config import ModelConfig

FAMILIES: dict[str, types.ModuleType] = {'nemotron_h': nemotron_h, 'qwen3': qwen3}


def of_model_type(model_type: object) -> str:
  """The family of a config.json's model_type.

  Raises:
    ValueError: no family has it.
  """
  known = {name: family for family, module in FAMILIES.items() for name in module.MODEL_TYPES}
  if model_type not in known:
    raise ValueError(
      f'config.json has model_type {model_type!r}; this reader knows {sorted(known)}'
    )
  return known[model_type]


def refusals(config: 'ModelConfig') -> list[str]:
  """Fields whose values would be lost in the family's config.json, each with what it can say."""
  family, said = FAMILIES[config.family], []
  of_pattern = lambda table: [
    fields
    for blocks, fields in table.items()
    if not blocks or any(block in config.pattern for block in blocks)
  ]
  expression, words = family.PATTERN
  if not re.fullmatch(expression, config.pattern):
    said.append(f'pattern = {config.pattern!r} (only {words})')
  said += [
    f'{field} = {getattr(config, field)!r} (only {value!r})'
    for fixed in of_pattern(family.FIXED)
    for field, value in fixed.items()
    if getattr(config, field) != value
  ]
  said += [
    f'{field} = {getattr(config, field)!r} (only more than 0)'
    for needed in of_pattern(family.NEEDED)
    for field in needed
    if not getattr(config, field)
  ]
  return said
