"""The header of a run: what it is about to do, as a few aligned lines.

recipe   optimizer.learning_rate = 0.00025, train.batch_rows = 4
model    nemotron_h, 925,696 parameters, M-*-M-*-
method   sft, full
devices  1 cpu
"""

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from aevo_jax.config.statements import render_value
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import outline
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.token_budget import StepPlan

WIDTH = 100
_LONGEST_PATTERN = 24  # of what is written whole


def text(rows: Mapping[str, str]) -> str:
  """Aligns rows of name and value; values that are long go on below themselves.

  Args:
    rows: name -> value.
  """
  width = max(map(len, rows)) + 2
  lines = []
  for name, value in rows.items():
    lines += textwrap.wrap(
      value,
      WIDTH,
      initial_indent=f'  {name:<{width}}',
      subsequent_indent=' ' * (width + 2),
      break_long_words=False,
      break_on_hyphens=False,
    )
  return '\n'.join(lines)


def changes(sections: Iterable[tuple[str, Any]]) -> str:
  """Words what differs from the defaults.

  Args:
    sections: name and frozen dataclass of each.

  Returns:
    'optimizer.name = 'muon', ...', or 'all defaults'.
  """
  changed = []
  for name, section in sections:
    for field in dataclasses.fields(section):
      default = field.default
      if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
      value = getattr(section, field.name)
      if value != default:
        changed.append(f'{name}.{field.name} = {render_value(value)}')
  return ', '.join(changed) or 'all defaults'


def parameters(config: ModelConfig) -> int:
  """Counts the parameters of a model from its shapes."""
  params = outline(config)[1]
  return sum(math.prod(value.shape) for value in params.values())


def model(config: ModelConfig) -> str:
  """Words a model: family, number of parameters, blocks."""
  pattern = config.pattern
  if len(pattern) > _LONGEST_PATTERN:
    pattern = f'{len(pattern)} blocks'
  return f'{config.family}, {parameters(config):,} parameters, {pattern}'


def method(recipe: Recipe) -> str:
  """Words what is trained and how."""
  trained = 'all weights'
  if recipe.adaptation.method == 'lora':
    trained = f'LoRA of rank {recipe.lora.rank} on {recipe.lora.targets}'
  return f'{recipe.method.name}, {trained}'


def devices(placement: Any = None) -> str:
  """Words the devices of this process and the mesh over them.

  Args:
    placement: `placement.Placement`; None where one device computes.
  """
  if placement is None:
    return f'1 {jax.default_backend()}, no mesh'
  mesh = placement.mesh
  sizes = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  source = f' ({placement.source})' if placement.source else ''
  return f'{mesh.size} {jax.default_backend()}, mesh {sizes}{source}'


def steps(plan: StepPlan, recipe: Recipe) -> str:
  """Words the steps of a run and their size."""
  parts = []
  if plan.sft_steps:
    train = recipe.train
    parts.append(f'{plan.sft_steps:,} of {train.batch_rows} rows x {train.row_length} tokens')
  if plan.rl_steps:
    rollout = recipe.rollout
    parts.append(
      f'{plan.rl_steps:,} of {rollout.prompts} prompts x {rollout.group_size} completions'
    )
  return ', then '.join(parts)
