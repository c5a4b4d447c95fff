"""What a person binds of a recipe is the starting recipe of the campaign."""

import dataclasses

import pytest

from aevo_jax import layout
from aevo_jax.bindings import registered as _registered  # noqa: F401  as in `aevo campaign`
from aevo_jax.campaign.setup import starting_recipe
from aevo_jax.campaign.setup.validation import InvalidCampaignError
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.configurables import LoadError
from aevo_jax.config.sections import StartingRecipe
from aevo_jax.config.statements import parse_statements

CONSTITUTION = layout.root_file('constitution.gin')
SUBSTRATE = layout.root_file('substrate')
RECIPE = SUBSTRATE / 'recipe.gin'


def started(*bindings: str) -> constitution_lib.Constitution:
  """The constitution as `aevo campaign` freezes it."""
  files = [str(CONSTITUTION), str(RECIPE)]
  bound = loading.load(files, bindings, search_paths=layout.search_paths())
  theirs = [binding for binding in bound if binding.given not in files]
  return dataclasses.replace(
    constitution_lib.from_gin(), starting_recipe=starting_recipe.from_gin(theirs)
  )


def test_without_bindings_text_and_digest_are_as_before():
  loading.load([str(CONSTITUTION)], [], search_paths=())
  before = constitution_lib.from_gin()
  now = started('budget.rounds = 4')
  assert now.digest() == before.digest() and 'starting_recipe' not in now.text()
  assert starting_recipe.text(now, RECIPE.read_text()) == RECIPE.read_text()


def test_bindings_lie_over_the_substrates_recipe_and_stand_in_the_constitution(tmp_path):
  now = started('optimizer.learning_rate = 1e-3', 'train.batch_rows = 8')
  text = starting_recipe.text(now, RECIPE.read_text())
  values = {binding.selector: binding.value for binding in parse_statements(text)}
  assert values['optimizer.learning_rate'] == 1e-3 and values['train.batch_rows'] == 8
  assert values['optimizer.warmup_fraction'] == 0.1, "the substrate's"
  path = tmp_path / 'constitution.gin'
  path.write_text(now.text())
  read = constitution_lib.read(path)
  assert read.digest() == now.digest() != started().digest()
  assert starting_recipe.text(read, RECIPE.read_text()) == text


def test_a_rendered_constitution_begins_from_the_same_recipe(tmp_path):
  now = started('optimizer.learning_rate = 1e-3')
  path = tmp_path / 'constitution.gin'
  path.write_text(now.text())
  bound = loading.load([str(path)], [], search_paths=())
  assert starting_recipe.from_gin(bound) == now.starting_recipe


@pytest.mark.parametrize(
  ('bindings', 'error', 'said'),
  [
    ({'optimizer.learning_rat': 1.0}, LoadError, 'no parameter'),
    ({'train.steps': 10**6}, InvalidCampaignError, 'exceeds the budget'),
    ({'method.name': 'rl', 'rollout.engine': 'vllm'}, InvalidCampaignError, 'is for aevo train'),
    ({'method.name': 'rl', 'rollout.prompts': 10**5}, InvalidCampaignError, 'not one fits'),
    ({'method.name': 'distill'}, InvalidCampaignError, 'needs distillation.teacher'),
  ],
)
def test_a_recipe_that_cannot_start_is_refused_before_a_run_exists(bindings, error, said):
  constitution = dataclasses.replace(started(), starting_recipe=StartingRecipe(bindings))
  text = starting_recipe.text(constitution, RECIPE.read_text())
  with pytest.raises(error, match=said):
    starting_recipe.check(constitution, text, SUBSTRATE / 'base', None)
