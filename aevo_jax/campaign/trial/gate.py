"""The gate that every agent-written recipe passes before anything reads it.

It is parsed as data, checked against the search space, and written out canonically. An agent writes
an *overlay*: bindings over the substrate's default recipe. A trial runs the default recipe with the
overlay on top.
"""

import dataclasses
from collections.abc import Iterable

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import SearchSpaceError
from aevo_jax.config.statements import (
  Binding,
  StatementError,
  parse_statements,
  render,
)
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.training.recipe.recipe import Recipe


class RecipeRefusedError(ValueError):
  """The recipe may not run; the message says which binding and why."""


def default_values(default_recipe: str) -> dict[str, object]:
  """Lists what a recipe says of every parameter, dataclass defaults included.

  Args:
    default_recipe: trusted text of bindings, such as the substrate's default recipe.

  Returns:
    selector -> value as written.

  Raises:
    StatementError: the text is no list of bindings.
  """
  values = {}
  for name, section in Recipe().sections().items():
    for field in dataclasses.fields(section):
      values[f'{name}.{field.name}'] = field.default
  for binding in parse_statements(default_recipe):
    values[binding.selector] = binding.value
  return values


def admit(
  overlay: str,
  constitution: Constitution,
  default_recipe: str,
  parse: Parser = parse_untrusted,
) -> tuple[Binding, ...]:
  """Checks an agent's text.

  Args:
    overlay: the agent's text, untrusted.
    constitution: owns the search space.
    default_recipe: the substrate's recipe, trusted.
    parse: reads the text.

  Returns:
    The overlay's bindings, canonical.

  Raises:
    RecipeRefusedError: not pure statements, outside the search space, or against a condition.
  """
  space = constitution.space()
  try:
    bindings = parse(overlay)
    space.check(bindings, default_values(default_recipe))
    return space.normalise(bindings)
  except (StatementError, SearchSpaceError) as error:
    raise RecipeRefusedError(str(error)) from error


def full_recipe(overlay: Iterable[Binding], default_recipe: str) -> str:
  """Puts an overlay on top of the default recipe.

  Args:
    overlay: checked bindings.
    default_recipe: trusted text.

  Returns:
    Canonical text of the whole.
  """
  merged = {binding.selector: binding for binding in parse_statements(default_recipe)}
  for binding in overlay:
    merged[binding.selector] = binding
  return render(merged.values())
