"""The families by name, and what a model's config says that its family cannot express."""

import re
import types
from collections.abc import Mapping
from typing import Any

from aevo_jax.models.families import nemotron_h, qwen3

FAMILIES: dict[str, types.ModuleType] = {'nemotron_h': nemotron_h, 'qwen3': qwen3}


def of_model_type(model_type: object) -> str:
  """Finds the family of a checkpoint.

  Args:
    model_type: the field of that name in config.json.

  Returns:
    A key of `FAMILIES`.

  Raises:
    ValueError: no family has it.
  """
  known = {}
  for family, module in FAMILIES.items():
    known |= dict.fromkeys(module.MODEL_TYPES, family)
  if model_type not in known:
    raise ValueError(
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
  expression, words = family.PATTERN
  refused = []
  if not re.fullmatch(expression, pattern):
    refused.append(f'pattern = {pattern!r} (only {words})')
  for blocks, fixed in family.FIXED.items():
    if not _concerns(blocks, pattern):
      continue
    for field, value in fixed.items():
      if values[field] != value:
        refused.append(f'{field} = {values[field]!r} (only {value!r})')
  for blocks, needed in family.NEEDED.items():
    if not _concerns(blocks, pattern):
      continue
    for field in needed:
      if not values[field]:
        refused.append(f'{field} = {values[field]!r} (only more than 0)')
  return refused


def _concerns(blocks: str, pattern: str) -> bool:
  """Returns whether a pattern has one of the blocks; '' stands for any pattern."""
  return not blocks or any(block in pattern for block in blocks)
