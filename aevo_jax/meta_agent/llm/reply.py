"""A language model's reply, read into checked recipes.

The words are untrusted: JSON is decoded, gin is parsed as data, and every value is held against the
space. What is harmless is repaired: prose or a fence around the JSON, bindings as an object where
gin text is expected, more recipes than asked, one recipe twice among them. Everything else is a
`ReplyError` that says what is wrong, so that the model may mend it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax.config.search_space import Axis, SearchSpace, SearchSpaceError, prune
from aevo_jax.config.statements import Binding, StatementError
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.meta_agent.llm.dialogue import ReplyError
from aevo_jax.meta_agent.observations import by_axis
from aevo_jax.meta_agent.policy import Assignment, render_overlay

# Characters of a sentence; sentences and proposals that are kept.
SENTENCE = 300
SENTENCES = 8
# Recipes that are looked at, whatever the length of the list.
LISTED = 64

_FENCE = re.compile(r'```[A-Za-z]*\n(.*?)```', re.DOTALL)


class Recipe(NamedTuple):
  """A recipe that the model proposes.

  Attributes:
    changes: over the standing recipe.
    overlay: the standing one with the changes on top.
    reason: a sentence.
  """

  changes: dict[str, Any]
  overlay: dict[str, Any]
  reason: str


class Choice(NamedTuple):
  """A usable reply to the policy question.

  Attributes:
    assignments: of the explorers.
    proposals: changes that the model would promote, which the rule decides.
    sentences: remarks.
  """

  assignments: tuple[Assignment, ...]
  proposals: tuple[Recipe, ...]
  sentences: tuple[str, ...]


def read_policy(
  text: str,
  count: int,
  standing: Mapping[str, Any],
  space: SearchSpace,
  defaults: Mapping[str, Any],
  parse: Parser = parse_untrusted,
) -> Choice:
  """Reads a reply to the policy question.

  Args:
    text: the reply.
    count: of explorers.
    standing: the standing recipe's overlay.
    space: what may be bound.
    defaults: what holds otherwise.
    parse: reads bindings that are written as gin text.

  Returns:
    What the model chose.

  Raises:
    ReplyError: fewer than `count` different recipes in it are usable, or anything else in it is of
      the wrong form.
  """
  reply = _object(text)
  problems: list[str] = []
  recipes: dict[str, Recipe] = {}
  for i, entry in enumerate(_list(reply, 'assignments', problems)[:LISTED]):
    if len(recipes) == count:
      break
    try:
      recipe = _recipe(entry, standing, space, defaults, parse)
    except ReplyError as error:
      for problem in error.problems:
        problems.append(f'assignments[{i}]: {problem}')
      continue
    if recipes.setdefault(render_overlay(recipe.overlay), recipe) is not recipe:
      problems.append(f'assignments[{i}] is the same recipe as an earlier one')
  if len(recipes) < count:
    raise ReplyError(
      [f'{count} different usable assignments are needed, {len(recipes)} came', *problems]
    )
  proposals = []
  for entry in _list(reply, 'promote', [])[:SENTENCES]:
    try:
      proposals.append(_recipe(entry, standing, space, defaults, parse))
    except ReplyError:
      # A proposal decides nothing, so a broken one is worth no further request.
      continue
  sentences = []
  for entry in _list(reply, 'sentences', []):
    remark = sentence(entry)
    if remark:
      sentences.append(remark)
  assignments = []
  for recipe in recipes.values():
    label = _label(recipe.changes, space)
    assignments.append(Assignment(label, recipe.changes, recipe.overlay, recipe.reason))
  return Choice(tuple(assignments), tuple(proposals), tuple(sentences[:SENTENCES]))


def read_worker(
  text: str,
  axes: Sequence[Axis],
  standing: Mapping[str, Any],
  space: SearchSpace,
  defaults: Mapping[str, Any],
  parse: Parser = parse_untrusted,
) -> Recipe:
  """Reads a reply to a worker's question.

  Args:
    text: the reply.
    axes: that the worker may bind.
    standing: the standing recipe's overlay.
    space: what may be bound at all.
    defaults: what holds otherwise.
    parse: reads bindings that are written as gin text.

  Returns:
    The recipe.

  Raises:
    ReplyError: as in `read_policy`, and for parameters of other axes.
  """
  recipe = _recipe(_object(text), standing, space, defaults, parse)
  assigned: set[str] = set()
  for axis in axes:
    assigned.update(p.selector for p in axis.parameters)
  foreign = sorted(recipe.changes.keys() - assigned)
  if foreign:
    names = ', '.join(axis.name for axis in axes)
    raise ReplyError([f'{s} belongs to another axis than the assigned {names}' for s in foreign])
  return recipe


def sentence(value: Any) -> str:
  """Cleans a remark.

  Args:
    value: anything that JSON holds.

  Returns:
    One printable line of bounded length, '' of what is no text.
  """
  if not isinstance(value, str):
    return ''
  line = ' '.join(value.split())
  return ''.join(c for c in line if c.isprintable())[:SENTENCE]


def _object(text: str) -> dict[str, Any]:
  """The JSON object in a reply: all of it, in a fence, or from its first brace on."""
  candidates = [text.strip(), *_FENCE.findall(text), text[max(text.find('{'), 0) :]]
  for candidate in candidates:
    try:
      value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(candidate.strip())
    except (ValueError, RecursionError):
      continue
    if isinstance(value, dict):
      return value
  raise ReplyError(['the reply holds no JSON object'])


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is no JSON')


def _list(reply: Mapping[str, Any], key: str, problems: list[str]) -> list[Any]:
  """The list under a key, empty without one; adds to the problems if it is something else."""
  value = reply.get(key, [])
  if isinstance(value, list):
    return value
  problems.append(f'{key} must be a list')
  return []


def _recipe(
  entry: Any,
  standing: Mapping[str, Any],
  space: SearchSpace,
  defaults: Mapping[str, Any],
  parse: Parser,
) -> Recipe:
  """A checked recipe; raises ReplyError."""
  if not isinstance(entry, dict) or not isinstance(entry.get('bindings'), (str, dict)):
    raise ReplyError(["expected an object with 'bindings' (gin text) and 'reason'"])
  base = prune(dict(standing), space, dict(defaults))
  values = {**defaults, **base}
  try:
    bindings = _bindings(entry['bindings'], parse)
    space.check(bindings, values)
    bound = {b.selector: b.value for b in space.normalise(bindings)}
  except StatementError as error:
    raise ReplyError([str(error)]) from None
  except SearchSpaceError as error:
    raise ReplyError(error.problems) from None
  overlay = prune(base | bound, space, dict(defaults))
  changes = {k: v for k, v in bound.items() if v != values.get(k)}
  if not changes:
    raise ReplyError(['it changes nothing of the standing recipe'])
  return Recipe(changes, overlay, sentence(entry.get('reason')) or 'no reason given')


def _bindings(written: str | dict[str, Any], parse: Parser) -> tuple[Binding, ...]:
  """Bindings from gin text, or from an object of selector: value."""
  if isinstance(written, str):
    return parse(written)
  return tuple(Binding(selector, value) for selector, value in written.items())


def _label(changes: Mapping[str, Any], space: SearchSpace) -> str:
  """Names of the axes that are changed, or how many."""
  names = list(by_axis(changes, space))
  return ' + '.join(names) if len(names) <= 2 else f'{len(names)} axes'
