"""The same question shown in another way: examples in another order, other words, options under
other letters. The answer stays, or moves with its option.

What has no such form is refused by name, so that a probe never asks something else than it says.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping

from aevo_jax.tasks.item import Item, Puzzle

_OPTION = re.compile(r'^(\s*\(?)([A-Z])([).:]\s*)(.*\S)\s*$')


class NoPresentationError(ValueError):
  """The question has no such form; the message says why."""


def reordered(puzzle: Puzzle, rng: random.Random) -> Puzzle:
  """The puzzle with its examples in another order than before, drawn by `rng`. The rule class is
  asked which rules fit all examples, so the answer stays.
  """
  if len(set(puzzle.examples)) < 2:
    raise NoPresentationError('a puzzle of one example has one order')
  while True:
    examples = tuple(rng.sample(puzzle.examples, len(puzzle.examples)))
    if examples != puzzle.examples:
      return dataclasses.replace(puzzle, examples=examples)


def _shown(puzzle: Puzzle, form: str) -> str:
  return '; '.join(form.format(x, y) for x, y in puzzle.examples)


# Family -> its puzzle in other words than `Family.describe` has.
_WORDINGS: Mapping[str, Callable[[Puzzle], str]] = {
  'bit_manipulation': lambda p: (
    f'Find the function behind these pairs of bit strings: {_shown(p, "{} gives {}")}. '
    f'What does it give for {p.query}? '
    'Answer with the bits in \\boxed{}.'
  ),
  'text_encryption': lambda p: (
    'A cipher replaces every letter by a fixed other one. Known pairs of cipher text and '
    f'plain text: {_shown(p, "{} means {}")}. '
    f'What does {p.query} mean? Answer with the plain text in \\boxed{{}}.'
  ),
  'numeral_conversion': lambda p: (
    f'Someone writes numbers in a notation of their own: {_shown(p, "{} is written {}")}. '
    f'How do they write {p.query}? '
    'Answer with the numeral in \\boxed{}.'
  ),
  'unit_conversion': lambda p: (
    f'Lengths in metres and in another unit: {_shown(p, "{} m are {}")}. How much are {p.query} m? '
    'Answer with the number, at two decimals, in \\boxed{}.'
  ),
  'gravitational_constant': lambda p: (
    'Something is dropped where gravity is unknown (distance = 0.5 g time^2): '
    f'{_shown(p, "after {} s it has fallen {} m")}. '
    f'How many metres after {p.query} s? Answer at two decimals in \\boxed{{}}.'
  ),
  'equation_transformation': lambda p: (
    'In these equations every symbol stands for a rule that you have to find: '
    f'{_shown(p, "{} = {}")}. Then {p.query} = ? '
    'Answer with the result in \\boxed{}.'
  ),
}


def paraphrased(family: str, puzzle: Puzzle) -> str:
  """A `standard` puzzle in other words."""
  return _WORDINGS[family](puzzle)


def relettered(item: Item, rng: random.Random) -> tuple[Item, dict[str, str]]:
  """A multiple-choice item with its options in another order, and letter shown -> letter before.

  Options are lines such as `A) text`, `(B) text` or `C. text`, lettered from A on; the answer is a
  letter.

  Raises:
    NoPresentationError: the question has no such lines, or none with the answer's letter.
  """
  lines = item.question.split('\n')
  found = [(i, match) for i, line in enumerate(lines) if (match := _OPTION.match(line))]
  letters = [match[2] for _, match in found]
  answer = re.sub(r'[^A-Za-z]', '', item.answer).upper()
  if (
    len(found) < 2
    or letters != [chr(ord('A') + i) for i in range(len(found))]
    or answer not in letters
  ):
    raise NoPresentationError(
      f'the question {item.question[:60]!r} has no lines `A) ...`, `B) ...` among which '
      f'its answer {item.answer!r} is'
    )
  order = list(range(len(found)))
  while order == sorted(order):
    rng.shuffle(order)
  for (i, match), source in zip(found, order):
    lines[i] = f'{match[1]}{match[2]}{match[3]}{found[source][1][4]}'
  before = {letters[place]: letters[source] for place, source in enumerate(order)}
  moved = next(letter for letter, old in before.items() if old == answer)
  return dataclasses.replace(
    item, question='\n'.join(lines), answer=moved, reasoning='', steps='', plain=''
  ), before
