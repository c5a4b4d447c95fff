"""The starting recipe of a campaign: the substrate's, with what a person binds on top.

What a person binds stands in the constitution, so it is part of its digest and of the run
directory.
"""

import pathlib
from collections.abc import Sequence

from aevo_jax.campaign.setup.validation import InvalidCampaignError
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.config.configurables import Bound, resolve
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.sections import StartingRecipe
from aevo_jax.config.statements import Binding, parse_statements
from aevo_jax.data import corpus
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.tasks.own_data import OwnTasks
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import plan_steps

SEED = 0  # of the puzzles that a plan measures


def from_gin(bound: Sequence[Bound]) -> StartingRecipe:
  """Collects what is bound of a recipe.

  Args:
    bound: what a person bound, in files and on the command line.

  Returns:
    Gin's section `starting_recipe` with these bindings on top, sorted.

  Raises:
    LoadError: a section refuses its values.
  """
  bindings = dict(resolve('starting_recipe').bindings)
  for binding in bound:
    if binding.name in recipe_lib.NAMES:
      bindings[binding.selector] = getattr(resolve(binding.name), binding.parameter)
  return StartingRecipe(dict(sorted(bindings.items())))


def named(bound: Sequence[Bound]) -> list[str]:
  """Lists the sections of a recipe of which something is bound, sorted."""
  return sorted({binding.name for binding in bound} & set(recipe_lib.NAMES))


def text(constitution: Constitution, substrate_recipe: str) -> str:
  """Puts the constitution's bindings over a substrate's recipe.

  Args:
    constitution: with its section `starting_recipe`.
    substrate_recipe: trusted text.

  Returns:
    The text as it is where nothing is bound; else canonical text of the whole.
  """
  bindings = constitution.starting_recipe.bindings
  if not bindings:
    return substrate_recipe
  overlay = [Binding(selector, value) for selector, value in bindings.items()]
  return full_recipe(overlay, substrate_recipe)


def check(
  constitution: Constitution, recipe: str, base: pathlib.Path, tasks: OwnTasks | None
) -> None:
  """Checks that a trial of the starting recipe can be planned within the budget.

  Args:
    constitution: its budget and puzzle size.
    recipe: text of the whole starting recipe.
    base: the substrate's base.
    tasks: the user's; None for puzzles.

  Raises:
    LoadError: it is no recipe.
    InvalidCampaignError: its parts do not go together, or not one step fits the budget.
  """
  starting = recipe_lib.Recipe.from_bindings(parse_statements(recipe))
  if starting.method.name != 'sft' and starting.rollout.engine != 'jax':
    raise InvalidCampaignError(
      f"rollout.engine = {starting.rollout.engine!r} is for aevo train: a campaign's workers are "
      'confined and reach no server; leave it out'
    )
  train = () if tasks is None else tasks.of_split('train')
  source = TaskSource(constitution.objective.size, SEED, corpus.load(base, train))
  budget = constitution.budget
  try:
    plan_steps(
      starting,
      tokenizers.load(str(base)),
      source,
      tokens=budget.trial_tokens,
      steps=budget.trial_steps,
    )
  except ValueError as error:
    raise InvalidCampaignError(f'the starting recipe: {error}') from error
