"""A language model's reply, read into checked recipes.

The words are untrusted: JSON is decoded, gin is parsed as data, and every value is held against the
space. What is harmless is repaired: thinking, prose or a fence around the JSON, bindings as an
object where gin text is expected, more recipes than asked, one recipe twice among them. Everything
else is a `ReplyError` that says what is wrong, so that the model may mend it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax import strict_json
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
# Braces at which an object may begin; what is behind them is not read.
BRACES = 1000

_FENCE = re.compile(r'```[^\n`]*\n(.*?)```', re.DOTALL)


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
  """The JSON object that a reply ends with, raises ReplyError.

  What is thought is no reply: all up to the last `</think>` is skipped, whether the template or the
  model opened it. Of several fences the last counts, of several objects without a fence too, so
  that a draft is never taken for the answer.
  """
  reply = text.rpartition('</think>')[2]
  if '<think>' in reply:
    raise ReplyError(['the reply ends inside of <think>; think less, or allow more tokens'])
  fences = _FENCE.findall(reply)
  try:
    objects = _objects(fences[-1] if fences else reply)
    if not objects and fences:
      objects = _objects(reply)
  except strict_json.DuplicateKeyError as error:
    raise ReplyError([str(error)]) from None
  if not objects:
    raise ReplyError(['the reply holds no JSON object'])
  return objects[-1]


def _objects(text: str) -> list[dict[str, Any]]:
  """The JSON objects in a text that lie in no other object; braces of prose are passed over."""
  objects = []
  start = text.find('{')
  for _ in range(BRACES):
    if start == -1:
      break
    try:
      value, end = strict_json.first_value(text, start)
    except strict_json.DuplicateKeyError:
      raise
    except (ValueError, RecursionError):
      end = start + 1
    else:
      objects.append(value)
    start = text.find('{', end)
  return objects


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
