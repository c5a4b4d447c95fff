"""Recipes with one key have one compiled training step, whichever field they differ in."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.tasks import item, verify
from aevo_jax.training import post_train
from aevo_jax.training.losses import advantages, policy_gradient
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe import rl_settings
from aevo_jax.training.recipe.program_key import program_key
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

TOKENIZER = tokenizers.build()
CONFIG = ModelConfig(
  vocab_size=TOKENIZER.get_vocab_size(),
  hidden_size=8,
  pattern='-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=4,
  intermediate_size=8,
)
BASE = unbind(create(CONFIG, 0))[1]
ROWS = Train(batch_rows=4)
BASES = {
  'adamw': Recipe(train=ROWS),
  'lora': Recipe(
    train=dataclasses.replace(ROWS, ema_decay=0.5),
    adaptation=Adaptation('lora'),
    lora=Lora(rank=2),
    optimizer=Optimizer('muon'),
  ),
  'lion': Recipe(train=ROWS, optimizer=Optimizer('lion')),
  'muon': Recipe(train=ROWS, optimizer=Optimizer('muon', schedule='wsd')),
  'adafactor': Recipe(train=ROWS, optimizer=Optimizer('adafactor')),
  'sgd': Recipe(train=ROWS, optimizer=Optimizer('sgd')),
  'groups': Recipe(train=ROWS, optimizer=Optimizer(groups=(('.*', 0.5, 1.0),))),
}
# Every word that some setting of a recipe may be.
WORDS = {*lora.TARGETS, 'somewhere'}
for module in (recipe_lib, rl_settings, advantages, policy_gradient, item, verify):
  for constant in vars(module).values():
    if isinstance(constant, (tuple, dict)):
      WORDS |= {word for word in constant if isinstance(word, str)}


def candidates(value):
  """Other values of the type of this one, of which some are legal."""
  if isinstance(value, bool):
    return [not value]
  if value is None:
    return [0.25, 0.5]
  if isinstance(value, int):
    return [value + 1, value * 2, value // 2]
  if isinstance(value, float):
    return [value / 2, value + 0.25, value + 2]
  if isinstance(value, str):
    return sorted(WORDS - {value})
  return [(('.*', 0.25, 1.0),), (('.*', 0.25, 0.5),)]


def replaced(section, field):
  """The section with other legal values of one field."""
  for value in candidates(getattr(section, field)):
    try:
      yield dataclasses.replace(section, **{field: value})
    except (ValueError, TypeError):
      continue


def pairs(section, field):
  """(before, after): sections that differ in the field; another one is moved where that must be."""
  found = [(section, after) for after in replaced(section, field)]
  if found:
    return found
  for other in dataclasses.fields(section):
    for before in replaced(section, other.name):
      found += [(before, after) for after in replaced(before, field) if other.name != field]
  return found


def shapes(tree):
  return tuple((jax.tree_util.keystr(path), x.shape, str(x.dtype)) for path, x in leaves(tree))


def leaves(tree):
  return jax.tree_util.tree_leaves_with_path(tree)


def step_jaxpr(recipe):
  """The training step of a recipe as text, with its constants; None where a worker refuses it."""
  try:
    prepared = post_train.prepare(CONFIG, recipe, BASE, TOKENIZER, TaskSource('micro', 0))
    batch = next(prepared.batches)
  except ValueError:
    return None
  arguments = (prepared.model.params, prepared.model.frozen, batch)
  return traced(
    prepared.model.structure, recipe.optimizer, recipe.train_config(), *map(shapes, arguments)
  )


@functools.cache
def traced(structure, config, train_config, *argument_shapes):
  """The step is a function of these alone, so equal ones are traced once."""
  params, frozen, batch = (
    {name[2:-2]: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in tree}
    for tree in argument_shapes
  )
  optimizer = transformation(config)
  ema_decay = train_config.train.ema_decay
  state = jax.eval_shape(lambda p: TrainState.create(p, optimizer, ema_decay), params)
  step = make_train_step(structure, optimizer, train_config)
  closed = jax.make_jaxpr(step)(state, frozen, batch, np.float32(0))
  constants = [np.asarray(constant).tobytes() for constant in closed.consts]
  return re.sub(r'0x[0-9a-f]+', '', str(closed.jaxpr)) + str(constants)


def assert_key_tells_programs_apart(before, after):
  if program_key(before) == program_key(after):
    assert step_jaxpr(before) == step_jaxpr(after), (before, after)


@pytest.mark.parametrize('section', recipe_lib.NAMES)
def test_a_change_of_a_field_changes_the_key_or_leaves_the_program(section):
  """Every field of every section of a recipe, so that a new field cannot be forgotten."""
  bases = {'optimizer': tuple(BASES), 'train': ('adamw', 'lora'), 'loss': ('adamw', 'lora')}
  for name in bases.get(section, ('lora',)):
    base = BASES[name]
    for field in dataclasses.fields(getattr(base, section)):
      found = pairs(getattr(base, section), field.name)
      assert found, f'{section}.{field.name}: no other legal value to compare with, on {name}'
      before, after = found[0]
      assert_key_tells_programs_apart(
        dataclasses.replace(base, **{section: before}),
        dataclasses.replace(base, **{section: after}),
      )


@pytest.mark.parametrize(
  'section, changes',
  [
    ('loss', {'label_smoothing': 0.1}),
    ('train', {'batch_rows': 2}),
    ('train', {'row_length': 256}),
    ('train', {'ema_decay': 0.5}),
    ('train', {'microbatches': 2}),
    ('train', {'logits_chunk': 32}),
    ('optimizer', {'name': 'lion'}),
    ('optimizer', {'groups': (('.*', 0.5, 1.0),)}),
  ],
)
def test_other_programs_are_seen_to_be_others(section, changes):
  """So the comparison of programs above compares something."""
  base = BASES['adamw']
  moved = dataclasses.replace(
    base, **{section: dataclasses.replace(getattr(base, section), **changes)}
  )
  assert program_key(base) != program_key(moved)
  assert step_jaxpr(base) != step_jaxpr(moved)


def test_the_shape_of_an_adapter_that_is_not_there_is_no_part_of_the_key():
  base = BASES['adamw']
  assert program_key(base) == program_key(dataclasses.replace(base, lora=Lora(rank=3)))
  adapted = dataclasses.replace(base, adaptation=Adaptation('lora'))
  assert program_key(adapted) != program_key(dataclasses.replace(adapted, lora=Lora(rank=3)))
