"""Arabic to roman numerals, in one of two published notations.

Kinds: `subtractive` (4 = IV) and `additive` (4 = IIII). Numbers reach 3999 in `standard` and 399 in
`micro`. There are only two rules, so items are split by (rule, query): a number asked in one split
is never asked in another, under the same notation. An item is kept only if both notations that fit
the examples agree on the answer.
"""

import random
from typing import NamedTuple

from aevo_jax.tasks.item import Difficulty, Family, Puzzle, written_examples

KINDS = ('subtractive', 'additive')
LARGEST = {'standard': 3999, 'micro': 399}
EXAMPLES = {'standard': (3, 5), 'micro': (2, 3)}

# The numerals of 0 to 9, with a, b and c for the letters of one, five and ten.
_DIGITS = {
  'subtractive': ('', 'a', 'aa', 'aaa', 'ab', 'b', 'ba', 'baa', 'baaa', 'ac'),
  'additive': ('', 'a', 'aa', 'aaa', 'aaaa', 'b', 'ba', 'baa', 'baaa', 'baaaa'),
}


class _Letters(NamedTuple):
  """The letters of one decimal place."""

  one: str
  five: str
  ten: str


_DECIMAL_PLACES = (
  _Letters('I', 'V', 'X'),
  _Letters('X', 'L', 'C'),
  _Letters('C', 'D', 'M'),
  _Letters('M', '', ''),
)


def roman_parts(number: int, notation: str) -> list[str]:
  """Writes each non-zero decimal digit as a numeral.

  Args:
    number: from 1 to 3999.
    notation: 'subtractive' or 'additive'.

  Returns:
    The numerals, largest decimal place first; joined, they are the number's numeral.
  """
  parts = []
  for place, digit in enumerate(reversed(str(number))):
    letters = _DECIMAL_PLACES[place]
    images = str.maketrans({'a': letters.one, 'b': letters.five, 'c': letters.ten})
    parts.append(_DIGITS[notation][int(digit)].translate(images))
  return [part for part in reversed(parts) if part]


def to_roman(number: int, notation: str) -> str:
  """Writes a number of 1 to 3999 in a notation."""
  return ''.join(roman_parts(number, notation))


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples numbers; see `Family.sample`."""
  count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
  population = range(1, difficulty.upto(1, LARGEST[size]) + 1)
  *shown, query = rng.sample(population, min(count, len(population) - 1) + 1)
  answers = set()
  for notation in KINDS:
    if all(to_roman(x, notation) == to_roman(x, kind) for x in shown):
      answers.add(to_roman(query, notation))
  if len(answers) != 1:
    return None
  return Puzzle(
    rule=kind,
    examples=tuple([(str(x), to_roman(x, kind)) for x in shown]),
    query=str(query),
    answer=to_roman(query, kind),
    reasoning=' '.join(roman_parts(query, kind)) + ' ',
    key=f'{kind}|{query}',
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  return (
    'Numbers are rewritten in another numeral system.\n'
    + written_examples(puzzle, '{} -> {}')
    + f'\nRewrite {puzzle.query} the same way. Put the numeral in \\boxed{{}}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  return (
    'Someone writes numbers in a notation of their own: '
    f'{written_examples(puzzle, "{} is written {}", "; ")}. '
    f'How do they write {puzzle.query}? Answer with the numeral in \\boxed{{}}.'
  )


FAMILY = Family(
  name='numeral_conversion',
  tag='roman',
  kinds=KINDS,
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.5,
)
