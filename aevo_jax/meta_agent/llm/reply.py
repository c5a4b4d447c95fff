"""From a language model's words to checked recipes. The words are untrusted: JSON is decoded, gin
is parsed as data, and every value is held against the space.

What is harmless is repaired: prose or a fence around the JSON, bindings as an object where gin text
was asked for, more recipes than were asked for, one recipe twice among them. Everything else is a
`ReplyError` that says what is wrong, so that the model may mend it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax.config.search_space import Axis, SearchSpace, SearchSpaceError
from aevo_jax.config.statements import Binding, StatementError, parse_untrusted
from aevo_jax.meta_agent.agents.statistical import prune
from aevo_jax.meta_agent.llm.dialogue import ReplyError
from aevo_jax.meta_agent.policy import Assignment, render_overlay

SENTENCE, SENTENCES = 300, 8  # characters of a sentence; sentences and proposals that are kept
LISTED = 64  # recipes that are looked at, whatever the length of the list

_FENCE = re.compile(r'```[A-Za-z]*\n(.*?)```', re.DOTALL)


class Recipe(NamedTuple):
  """changes: over the standing recipe. overlay: that with them on top. reason: a sentence."""

  changes: dict[str, Any]
  overlay: dict[str, Any]
  reason: str


class Choice(NamedTuple):
  """assignments: of the explorers. proposals: changes that should be promoted, which the rule
  decides. sentences: remarks.
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
) -> Choice:
  """A reply to the policy question.

  Args:
    text: the reply. count: of explorers. standing: the standing recipe's overlay. space, defaults:
      what may be bound, and what holds otherwise.

  Raises:
    ReplyError: fewer than `count` different recipes in it are usable, or anything else in it is of
      the wrong form.
  """
  reply, problems = _object(text), []
  found: dict[str, Recipe] = {}
  for i, given in enumerate(_list(reply, 'assignments', problems)[:LISTED]):
    if len(found) == count:
      break
    try:
      recipe = _recipe(given, standing, space, defaults)
    except ReplyError as error:
      problems += [f'assignments[{i}]: {p}' for p in error.problems]
      continue
    if found.setdefault(render_overlay(recipe.overlay), recipe) is not recipe:
      problems.append(f'assignments[{i}] is the same recipe as an earlier one')
  if len(found) < count:
    raise ReplyError(
      [f'{count} different usable assignments are needed, {len(found)} came', *problems]
    )
  proposals = []
  for given in _list(reply, 'promote', [])[:SENTENCES]:
    try:
      proposals.append(_recipe(given, standing, space, defaults))
    except ReplyError:
      continue  # a proposal decides nothing, so that a broken one is worth no further request
  sentences = [s for s in map(sentence, _list(reply, 'sentences', [])) if s][:SENTENCES]
  assignments = tuple(
    Assignment(_label(r.changes, space), r.changes, r.overlay, r.reason) for r in found.values()
  )
  return Choice(assignments, tuple(proposals), tuple(sentences))


def read_worker(
  text: str,
  axes: Sequence[Axis],
  standing: Mapping[str, Any],
  space: SearchSpace,
  defaults: Mapping[str, Any],
) -> Recipe:
  """A reply to a worker's question; raises ReplyError as `read_policy`, also for parameters of
  other axes.
  """
  recipe = _recipe(_object(text), standing, space, defaults)
  own = {p.selector for axis in axes for p in axis.parameters}
  foreign = sorted(recipe.changes.keys() - own)
  if foreign:
    raise ReplyError(
      [
        f'{s} belongs to another axis than the assigned {", ".join(axis.name for axis in axes)}'
        for s in foreign
      ]
    )
  return recipe


def sentence(value: Any) -> str:
  """One printable line of bounded length, '' of what is no text."""
  return (
    ''.join(c for c in ' '.join(value.split()) if c.isprintable())[:SENTENCE]
    if isinstance(value, str)
    else ''
  )


def _object(text: str) -> dict[str, Any]:
  """The JSON object in a reply: all of it, what stands in a fence, or what begins at its first
  brace.
  """
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
  value = reply.get(key, [])
  if isinstance(value, list):
    return value
  problems.append(f'{key} must be a list')
  return []


def _recipe(
  given: Any, standing: Mapping[str, Any], space: SearchSpace, defaults: Mapping[str, Any]
) -> Recipe:
  if not isinstance(given, dict) or not isinstance(given.get('bindings'), (str, dict)):
    raise ReplyError(["expected an object with 'bindings' (gin text) and 'reason'"])
  here = prune(dict(standing), space, dict(defaults))
  try:
    bindings = _bindings(given['bindings'])
    space.check(bindings, {**defaults, **here})
    bound = {b.selector: b.value for b in space.normalise(bindings)}
  except StatementError as error:
    raise ReplyError([str(error)]) from None
  except SearchSpaceError as error:
    raise ReplyError(error.problems) from None
  overlay = prune(here | bound, space, dict(defaults))
  changes = {k: v for k, v in bound.items() if v != {**defaults, **here}.get(k)}
  if not changes:
    raise ReplyError(['it changes nothing of the standing recipe'])
  return Recipe(changes, overlay, sentence(given.get('reason')) or 'no reason given')


def _bindings(given: str | dict[str, Any]) -> tuple[Binding, ...]:
  """From gin text, or from an object of selector: value."""
  if isinstance(given, str):
    return parse_untrusted(given)
  return tuple(Binding(selector, value) for selector, value in given.items())


def _label(changes: Mapping[str, Any], space: SearchSpace) -> str:
  """Names of the axes that are changed, or how many."""
  names = [axis.name for axis in space.axes if any(p.selector in changes for p in axis.parameters)]
  return ' + '.join(names) if len(names) <= 2 else f'{len(names)} axes'
