"""The families by name, and what a model's config says that its family cannot express."""

import re
from collections.abc import Mapping
from typing import Any

from aevo_jax.models.families import llama, nemotron_h, qwen3
from aevo_jax.models.families.config_json import ConfigJsonError
from aevo_jax.models.families.family import Family

FAMILIES: dict[str, Family] = {
  'nemotron_h': nemotron_h.FAMILY,
  'qwen3': qwen3.FAMILY,
  'llama': llama.FAMILY,
}


def of_model_type(model_type: object) -> str:
  """Finds the family of a checkpoint.

  Args:
    model_type: the field of that name in config.json.

  Returns:
    A key of `FAMILIES`.

  Raises:
    ConfigJsonError: no family has it.
  """
  known = {}
  for name, family in FAMILIES.items():
    known |= dict.fromkeys(family.model_types, name)
  if not isinstance(model_type, str) or model_type not in known:
    raise ConfigJsonError(
      f'config.json has model_type {model_type!r}; this reader knows {sorted(known)}'
    )
  return known[model_type]


def refusals(values: Mapping[str, Any]) -> list[str]:
  """Lists the fields whose values the family's config.json would lose.

  Args:
    values: the fields of a ModelConfig.

  Returns:
    For each such field its value, and the values that the family can express.
  """
  family = FAMILIES[values['family']]
  pattern = values['pattern']
  refused = []
  if not re.fullmatch(family.pattern, pattern):
    refused.append(f'pattern = {pattern!r} (only {family.pattern_words})')
  for blocks, fixed in family.fixed.items():
    if not _concerns(blocks, pattern):
      continue
    for field, value in fixed.items():
      if values[field] != value:
        refused.append(f'{field} = {values[field]!r} (only {value!r})')
  for blocks, needed in family.needed.items():
    if not _concerns(blocks, pattern):
      continue
    for field in needed:
      if not values[field]:
        refused.append(f'{field} = {values[field]!r} (only more than 0)')
  for field, divisor in family.multiples.items():
    if values[field] % values[divisor]:
      only = f'only multiples of {divisor} = {values[divisor]}'
      refused.append(f'{field} = {values[field]!r} ({only})')
  return refused


def _concerns(blocks: str, pattern: str) -> bool:
  """Returns whether a pattern has one of the blocks; '' stands for any pattern."""
  return not blocks or any(block in pattern for block in blocks)
