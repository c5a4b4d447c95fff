"""The liveness check: a recipe with a binding that changes nothing is refused.

A binding is live if moving it alone changes the trial's fingerprint.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tokenizers

from aevo_jax.config.parameter import unmet_conditions
from aevo_jax.config.search_space import SearchSpace, perturbations
from aevo_jax.config.statements import Binding
from aevo_jax.models.config import ModelConfig
from aevo_jax.training.recipe.fingerprint import Component, components
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import plan_steps


class DeadBindingError(ValueError):
  """Bindings that change nothing, by name."""


def with_values(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
  """Replaces some fields of a recipe.

  Args:
    recipe: the recipe.
    values: selector -> value, as the field holds it.

  Raises:
    ValueError: a section refuses the values.
  """
  sections: dict[str, dict[str, object]] = {}
  for selector, value in values.items():
    section, _, field = selector.rpartition('.')
    sections.setdefault(section, {})[field] = value
  replaced = {
    section: dataclasses.replace(getattr(recipe, section), **fields)
    for section, fields in sections.items()
  }
  return dataclasses.replace(recipe, **replaced)


def value_of(recipe: Recipe, selector: str) -> object:
  """Returns the value of one field, by selector."""
  section, _, field = selector.rpartition('.')
  return getattr(getattr(recipe, section), field)


def _moved(
  recipe: Recipe, overlay: Sequence[Binding], space: SearchSpace, selector: str, value: object
) -> Recipe:
  """Moves one value, and drops the bindings whose conditions no longer hold."""
  values: dict[str, object] = {selector: value}
  while True:
    dropped = {}
    for binding in overlay:
      parameter = space.parameter(binding.selector)
      standing = {s: values.get(s, value_of(recipe, s)) for s in parameter.when}
      if binding.selector not in values and unmet_conditions(parameter, standing):
        dropped[binding.selector] = value_of(Recipe(), binding.selector)
    if not dropped:
      return with_values(recipe, values)
    values |= dropped


def check_live(
  recipe: Recipe,
  overlay: Sequence[Binding],
  space: SearchSpace,
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
  *,
  tokens: int,
  steps: int,
  config: ModelConfig | None = None,
) -> dict[str, str]:
  """Moves each binding of the overlay and compares fingerprints.

  Args:
    recipe: the whole recipe.
    overlay: the bindings to check.
    space: tells to which other values a binding can move.
    tokenizer: of the base.
    tasks: where items come from.
    tokens: budget of the trial.
    steps: budget of the trial.
    config: of the model; the micro model's, if left out.

  Returns:
    selector -> the component of the fingerprint that changed.

  Raises:
    DeadBindingError: naming every binding whose move changes nothing.
  """

  def fingerprint(candidate: Recipe) -> dict[str, Component]:
    plan = plan_steps(candidate, tokenizer, tasks, tokens=tokens, steps=steps)
    return components(candidate, tokenizer, tasks, plan, config)

  base = _Digests(fingerprint(recipe))
  changed = {}
  dead = []
  for binding in overlay:
    component = None
    for value in perturbations(space.parameter(binding.selector), binding.value):
      try:
        moved = fingerprint(_moved(recipe, overlay, space, binding.selector, value))
      except ValueError:
        # Impossible beside the rest of the recipe, e.g. more steps than the budget has.
        continue
      component = base.first_difference(moved)
      if component is not None:
        break
    if component is None:
      dead.append(binding.selector)
    else:
      changed[binding.selector] = component
  if dead:
    raise DeadBindingError(
      f'dead bindings, which nothing reads under this recipe: {", ".join(dead)}; remove '
      'them or meet the conditions that make them live'
    )
  return changed


class _Digests:
  """The components of one fingerprint, each computed at most once."""

  def __init__(self, parts: Mapping[str, Component]):
    self._parts = parts
    self._digests: dict[str, str] = {}

  def first_difference(self, moved: Mapping[str, Component]) -> str | None:
    """Returns the first component of another fingerprint that has another digest here."""
    for name, compute in moved.items():
      if compute.args == self._parts[name].args:
        continue
      if name not in self._digests:
        self._digests[name] = self._parts[name]()
      if compute() != self._digests[name]:
        return name
    return None
