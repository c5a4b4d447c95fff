"""Arabic to roman numerals, in one of two published notations.

Kinds: `subtractive` (4 = IV) and `additive` (4 = IIII). Numbers reach 3999 in `standard` and 399 in
`micro`. There are only two rules, so items are split by (rule, query): a number asked in one split
is never asked in another, under the same notation. An item is kept only if both notations that fit
the examples agree on the answer.
"""

import random

from aevo_jax.tasks.item import Difficulty, Puzzle, shown_lines

LARGEST = {'standard': 3999, 'micro': 399}
EXAMPLES = {'standard': (3, 5), 'micro': (2, 3)}
_DIGITS = {
  'subtractive': ('', 'a', 'aa', 'aaa', 'ab', 'b', 'ba', 'baa', 'baaa', 'ac'),
  'additive': ('', 'a', 'aa', 'aaa', 'aaaa', 'b', 'ba', 'baa', 'baaa', 'baaaa'),
}
_PLACES = (('I', 'V', 'X'), ('X', 'L', 'C'), ('C', 'D', 'M'), ('M', '', ''))


def roman_parts(number: int, notation: str) -> list[str]:
  """The numeral of each non-zero decimal digit, largest place first."""
  parts = []
  for place, digit in enumerate(reversed(str(number))):
    one, five, ten = _PLACES[place]
    parts.append(
      _DIGITS[notation][int(digit)].translate(str.maketrans({'a': one, 'b': five, 'c': ten}))
    )
  return [p for p in reversed(parts) if p]


def to_roman(number: int, notation: str) -> str:
  return ''.join(roman_parts(number, notation))


class NumeralConversion:
  name = 'numeral_conversion'
  tag = 'roman'
  kinds = ('subtractive', 'additive')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
    population = range(1, difficulty.upto(1, LARGEST[size]) + 1)
    numbers = rng.sample(population, min(count, len(population) - 1) + 1)
    shown, query = numbers[:-1], numbers[-1]
    fitting = [n for n in self.kinds if all(to_roman(x, n) == to_roman(x, kind) for x in shown)]
    if len({to_roman(query, n) for n in fitting}) != 1:
      return None
    return Puzzle(
      rule=kind,
      examples=tuple((str(x), to_roman(x, kind)) for x in shown),
      query=str(query),
      answer=to_roman(query, kind),
      reasoning=' '.join(roman_parts(query, kind)) + ' ',
      key=f'{kind}|{query}',
    )

  def describe(self, puzzle: Puzzle) -> str:
    return (
      'Numbers are rewritten in another numeral system.\n'
      + shown_lines(puzzle, '->')
      + f'\nRewrite {puzzle.query} the same way. Put the numeral in \\boxed{{}}.'
    )
