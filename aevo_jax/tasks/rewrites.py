"""Rewrites of a question: other order of examples, other words, options under other letters.

The answer stays, or moves with its option. A question that cannot be rewritten is refused with an
error, so that a probe never poses another question than its name says.
"""

import dataclasses
import random
import re
import string
from typing import NamedTuple

from aevo_jax.tasks.families.registry import FAMILIES
from aevo_jax.tasks.item import Item, Puzzle

_OPTION = re.compile(r'^(\s*\(?)([A-Z])([).:]\s*)(.*\S)\s*$')


class NoRewriteError(ValueError):
  """The question cannot be rewritten so; the message says why."""


class Relettered(NamedTuple):
  """An item with moved options, and its letters before: letter shown -> letter of the original."""

  item: Item
  before: dict[str, str]


class _Option(NamedTuple):
  """A line of a multiple choice: `opening` letter `closing` text, such as `(`, `A`, `) `, `red`."""

  line: int
  opening: str
  letter: str
  closing: str
  text: str


def reordered(puzzle: Puzzle, rng: random.Random) -> Puzzle:
  """Puts the examples of a puzzle into another order.

  Args:
    puzzle: its answer follows from all examples together, so it stays.
    rng: samples the order, which is never the one before.

  Returns:
    The puzzle with reordered examples.

  Raises:
    NoRewriteError: all examples are the same.
  """
  if len(set(puzzle.examples)) < 2:
    raise NoRewriteError('a puzzle of one example has one order')
  while True:
    examples = tuple(rng.sample(puzzle.examples, len(puzzle.examples)))
    if examples != puzzle.examples:
      return dataclasses.replace(puzzle, examples=examples)


def paraphrased(family: str, puzzle: Puzzle) -> str:
  """Returns the `standard` prompt of a puzzle in other words than `Family.describe` has."""
  return FAMILIES[family].paraphrase(puzzle)


def _options(lines: list[str]) -> list[_Option]:
  options = []
  for number, line in enumerate(lines):
    match = _OPTION.match(line)
    if match is not None:
      options.append(_Option(number, *match.groups()))
  return options


def relettered(item: Item, rng: random.Random) -> Relettered:
  """Puts the options of a multiple-choice item into another order.

  Args:
    item: its options are lines such as `A) text`, `(B) text` or `C. text`, lettered from A on; its
      answer is a letter.
    rng: samples the order, which is never the one before.

  Returns:
    The item, with the answer's new letter and no worked solution, and where each option was.

  Raises:
    NoRewriteError: the question has no such lines, or none with the answer's letter.
  """
  lines = item.question.split('\n')
  options = _options(lines)
  letters = [option.letter for option in options]
  expected = list(string.ascii_uppercase[: len(options)])
  answer = re.sub(r'[^A-Za-z]', '', item.answer).upper()
  if len(options) < 2 or letters != expected or answer not in letters:
    raise NoRewriteError(
      f'the question {item.question[:60]!r} has no lines `A) ...`, `B) ...` among which '
      f'its answer {item.answer!r} is'
    )
  order = list(range(len(options)))
  while order == sorted(order):
    rng.shuffle(order)
  before = {}
  for option, source in zip(options, order, strict=True):
    text = options[source].text
    lines[option.line] = f'{option.opening}{option.letter}{option.closing}{text}'
    before[option.letter] = letters[source]
    if letters[source] == answer:
      moved = option.letter
  question = '\n'.join(lines)
  shown = dataclasses.replace(
    item, question=question, answer=moved, reasoning='', steps='', plain=''
  )
  return Relettered(shown, before)
