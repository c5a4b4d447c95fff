"""The gate every agent-written recipe passes before gin sees it: parsed as data, checked against
the search space, re-emitted canonically.

An agent writes an *overlay*: bindings over the substrate's default recipe. What a trial runs is the
default recipe with the overlay on top.
"""

import dataclasses
from collections.abc import Callable, Iterable

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import SearchSpaceError
from aevo_jax.config.statements import (
  Binding,
  StatementError,
  parse_statements,
  parse_untrusted,
  render,
)
from aevo_jax.training.recipe.recipe import Recipe

# Reads an agent's text; raises StatementError for what is not a list of literal bindings.
Parser = Callable[[str], tuple[Binding, ...]]


class RecipeRefusedError(ValueError):
  """The recipe may not run; the message says which binding and why."""


def default_values(default_recipe: str) -> dict[str, object]:
  """selector -> value of the substrate's default recipe, dataclass defaults included."""
  values = {
    f'{section.name}.{field.name}': field.default
    for section in dataclasses.fields(Recipe)
    for field in dataclasses.fields(section.type)
  }
  return values | {b.selector: b.value for b in parse_statements(default_recipe)}


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
  """Canonical text of the default recipe with the overlay on top."""
  merged = {b.selector: b for b in parse_statements(default_recipe)} | {
    b.selector: b for b in overlay
  }
  return render(merged.values())
