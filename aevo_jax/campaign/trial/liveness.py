"""Is every binding live? A binding is live if moving it alone changes the trial's fingerprint; a
recipe with a dead one is refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tokenizers

from aevo_jax.config.parameter import unmet_conditions
from aevo_jax.config.search_space import SearchSpace, perturbations
from aevo_jax.config.statements import Binding
from aevo_jax.data.corpus import Corpus
from aevo_jax.models.config import ModelConfig
from aevo_jax.training.recipe import token_budget as plan_lib
from aevo_jax.training.recipe.fingerprint import components
from aevo_jax.training.recipe.recipe import Recipe


class DeadBindingError(ValueError):
  """Bindings that change nothing, by name."""


def with_values(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
  """The recipe with some fields replaced, by selector."""
  sections: dict[str, dict[str, object]] = {}
  for selector, value in values.items():
    section, _, field = selector.rpartition('.')
    sections.setdefault(section, {})[field] = value
  return dataclasses.replace(
    recipe,
    **{
      section: dataclasses.replace(getattr(recipe, section), **fields)
      for section, fields in sections.items()
    },
  )


def value_of(recipe: Recipe, selector: str) -> object:
  section, _, field = selector.rpartition('.')
  return getattr(getattr(recipe, section), field)


def _moved(
  recipe: Recipe, overlay: Sequence[Binding], space: SearchSpace, selector: str, value: object
) -> Recipe:
  """The recipe with one value moved, and without the bindings whose conditions hold no more."""
  values: dict[str, object] = {selector: value}
  while True:
    dropped = {}
    for binding in overlay:
      parameter = space.parameter(binding.selector)
      if binding.selector not in values and unmet_conditions(
        parameter, {s: values.get(s, value_of(recipe, s)) for s in parameter.when}
      ):
        dropped[binding.selector] = value_of(Recipe(), binding.selector)
    if not dropped:
      return with_values(recipe, values)
    values |= dropped


def check_live(
  recipe: Recipe,
  overlay: Sequence[Binding],
  space: SearchSpace,
  tokenizer: tokenizers.Tokenizer,
  *,
  size: str,
  seed: int,
  tokens: int,
  steps: int,
  corpus: Corpus = Corpus(),
  config: ModelConfig = ModelConfig(),
) -> dict[str, str]:
  """Perturbs each binding of the overlay and compares fingerprints.

  Args:
    tokens, steps: the trial's budget. corpus: chat format and tasks of one's own. config: the
      model's.

  Returns:
    selector -> the component of the fingerprint that changed.

  Raises:
    DeadBindingError: naming every binding whose perturbation changes nothing.
  """

  def parts(candidate: Recipe):
    given = {'size': size, 'seed': seed, 'corpus': corpus}
    return components(
      candidate,
      tokenizer,
      plan=plan_lib.divide(candidate, tokenizer, tokens=tokens, steps=steps, **given),
      config=config,
      **given,
    )

  base, known, changed, dead = parts(recipe), {}, {}, []

  def first_difference(binding: Binding) -> str | None:
    for value in perturbations(space.parameter(binding.selector), binding.value):
      try:
        moved = parts(_moved(recipe, overlay, space, binding.selector, value))
      except ValueError:
        continue  # impossible beside the rest of the recipe, e.g. more steps than the budget has
      for name, compute in moved.items():
        if compute.args == base[name].args:
          continue
        if name not in known:
          known[name] = base[name]()
        if compute() != known[name]:
          return name
    return None

  for binding in overlay:
    name = first_difference(binding)
    if name is None:
      dead.append(binding.selector)
    else:
      changed[binding.selector] = name
  if dead:
    raise DeadBindingError(
      f'dead bindings, which nothing reads under this recipe: {", ".join(dead)}; remove '
      'them or meet the conditions that make them live'
    )
  return changed
