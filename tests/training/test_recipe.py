"""A recipe's bad values are refused by the name a person would bind."""

import dataclasses
import math

import pytest

from aevo_jax.config import loading
from aevo_jax.config.statements import Binding, render
from aevo_jax.training.recipe import recipe


def test_the_default_recipe_is_valid_and_frozen():
  default = recipe.Recipe()
  assert hash(default) == hash(recipe.Recipe())
  with pytest.raises(dataclasses.FrozenInstanceError):
    default.train.steps = 1
  assert default.mixture('micro').size == 'micro'


@pytest.mark.parametrize(
  'steps, token_budget, step_budget, expected',
  [
    (0, 1000, 99, 10),  # a step is 100 tokens here; 0 asks for all that fit
    (0, 1000, 7, 7),
    (0, 1099, 99, 10),
    (9, 1000, 99, 9),
    (10, 1000, 10, 10),
  ],
)
def test_steps_within_the_budget(steps, token_budget, step_budget, expected):
  assert (
    recipe.Train(steps=steps, batch_rows=4, row_length=25).steps_within(token_budget, step_budget)
    == expected
  )


@pytest.mark.parametrize(
  'steps, token_budget, step_budget', [(11, 1000, 99), (8, 1000, 7), (0, 99, 5), (0, 1000, 0)]
)
def test_a_recipe_over_budget_is_refused(steps, token_budget, step_budget):
  with pytest.raises(
    ValueError,
    match=rf'train\.steps = {steps} .*budget of {token_budget} tokens and {step_budget} steps',
  ):
    recipe.Train(steps=steps, batch_rows=4, row_length=25).steps_within(token_budget, step_budget)


@pytest.mark.parametrize(
  'part, field, value',
  [
    (recipe.Optimizer, 'optimizer.name', 'adam'),
    (recipe.Optimizer, 'optimizer.schedule', 'step'),
    (recipe.Optimizer, 'optimizer.learning_rate', -1e-3),
    (recipe.Optimizer, 'optimizer.learning_rate', math.nan),
    (recipe.Optimizer, 'optimizer.learning_rate', math.inf),
    (recipe.Optimizer, 'optimizer.warmup_fraction', 1.5),
    (recipe.Optimizer, 'optimizer.decay_fraction', -0.1),
    (recipe.Optimizer, 'optimizer.b1', 1.0),
    (recipe.Optimizer, 'optimizer.b2', 1.0),
    (recipe.Optimizer, 'optimizer.b2', -0.1),
    (recipe.Optimizer, 'optimizer.weight_decay', -0.1),
    (recipe.Optimizer, 'optimizer.weight_decay', math.nan),
    (recipe.Optimizer, 'optimizer.clip_norm', 0.0),
    (recipe.Optimizer, 'optimizer.clip_norm', -1.0),
    (recipe.Optimizer, 'optimizer.clip_norm', math.nan),
    (recipe.Train, 'train.steps', -1),
    (recipe.Train, 'train.batch_rows', -1),
    (recipe.Train, 'train.row_length', 1),
    (recipe.Train, 'train.ema_decay', 1.0),
    (recipe.Train, 'train.ema_decay', math.nan),
    (recipe.Loss, 'loss.reasoning_weight', -0.5),
    (recipe.Loss, 'loss.label_smoothing', 0.9),
    (recipe.Data, 'data.plain_share', 1.1),
    (recipe.Adaptation, 'adaptation.method', 'prefix'),
    (recipe.Lora, 'lora.rank', 0),
    (recipe.Lora, 'lora.alpha', 0.0),
    (recipe.Lora, 'lora.alpha', math.nan),
  ],
)
def test_a_bad_value_names_its_field_and_itself(part, field, value):
  with pytest.raises(ValueError) as error:
    part(**{field.split('.')[1]: value})
  assert field in str(error.value) and str(value) in str(error.value)


def through_gin(bindings):
  loading.load([], [render([binding]).strip() for binding in bindings], search_paths=())
  values = {b.selector: b.value for b in loading.resolved_bindings(recipe.NAMES)}
  return recipe.from_gin(), values


@pytest.mark.parametrize(
  'values',
  [
    {},
    {'optimizer.learning_rate': 1, 'optimizer.clip_norm': 2},
    {'optimizer.groups': [['layers.*', 1, 0.5], ['.*', 1.0, 1]]},
    {'method.name': 'sft_then_rl', 'method.share': 0.25, 'rollout.group_size': 4},
    {'adaptation.method': 'lora', 'lora.alpha': 8, 'lora.targets': 'attention'},
    {'data.demonstrations': 10, 'train.packing': 'first_fit_decreasing', 'train.packing_window': 7},
  ],
)
def test_bindings_make_the_recipe_that_gin_makes(values):
  bindings = [Binding(selector, value) for selector, value in values.items()]
  direct, (by_gin, recorded) = recipe.Recipe.from_bindings(bindings), through_gin(bindings)
  assert direct == by_gin
  assert list(direct.values().items()) == list(recorded.items())


@pytest.mark.parametrize(
  'values, name',
  [
    ({'optimizer.learning_rate': '1e-3'}, r'optimizer\.learning_rate expects float'),
    ({'train.steps': 1.0}, r'train\.steps expects int'),
    ({'train.steps': True}, r'train\.steps expects int'),
    ({'optimizer.groups': [['.*', 1.0]]}, r'optimizer\.groups expects tuple'),
    ({'optimizer.learning_rat': 1e-3}, "did you mean 'learning_rate'"),
    ({'optimiser.learning_rate': 1e-3}, "did you mean 'optimizer.learning_rate'"),
    ({'nothing.like_it': 1, 'train.step': 1}, r"(?s)'nothing\.like_it'.*did you mean 'steps'"),
    ({'train.batch_rows': 0}, r'train: train\.batch_rows must'),
    ({'train.batch_rows': 6, 'train.microbatches': 4}, r'train\.microbatches = 4 does not divide'),
  ],
)
def test_bindings_are_refused_in_the_words_of_gin(values, name):
  bindings = [Binding(selector, value) for selector, value in values.items()]
  with pytest.raises(loading.LoadError, match=name) as direct:
    recipe.Recipe.from_bindings(bindings)
  with pytest.raises(loading.LoadError) as by_gin:
    through_gin(bindings)
  assert '; known' in str(direct.value) or str(direct.value) == str(by_gin.value)


def test_bindings_of_another_configurable_are_refused():
  with pytest.raises(
    loading.LoadError, match=r"no configurable 'upkeep' for 'upkeep\.profile_first'"
  ):
    recipe.Recipe.from_bindings([Binding('upkeep.profile_first', 3)])
