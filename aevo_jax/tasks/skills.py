"""Texts for pretraining, with the skills under the puzzles.

They are products, digits with carries, sums, rotations, masks, numerals and reversals. Nothing here
is a puzzle, and no split applies: these are facts such as `7*2.40=16.80`, not hidden rules.
"""

import random

from aevo_jax.tasks.families.bit_manipulation import BITS, rot
from aevo_jax.tasks.families.hundredths import hundredths_text
from aevo_jax.tasks.families.numeral_conversion import KINDS, LARGEST, roman_parts, to_roman

_FACTORS = (*range(1, 10), 16, 25, 36)


def _product(rng: random.Random, size: str) -> str:
  factor = rng.randint(20, 999)
  x = rng.choice(_FACTORS)
  return f'{x}*{hundredths_text(factor)}={hundredths_text(x * factor)}'


def _quotient(rng: random.Random, size: str) -> str:
  factor = rng.randint(20, 999)
  x = rng.choice(_FACTORS)
  return f'{hundredths_text(x * factor)}/{x}={hundredths_text(factor)}'


def _carries(rng: random.Random, size: str) -> str:
  facts = []
  for _ in range(8):
    x = rng.choice(_FACTORS)
    digit = rng.randrange(10)
    carry = rng.randrange(x)
    facts.append(
      rng.choice((f'{digit}*{x}+{carry}={digit * x + carry}', f'{digit}*{x}={digit * x}'))
    )
  return ' '.join(facts)


def _sums(rng: random.Random, size: str) -> str:
  facts = []
  for sign in rng.choices('+-*', k=8):
    largest = 19 if sign == '*' else 99
    a = rng.randint(1, largest)
    b = rng.randint(1, largest)
    results = {'+': a + b, '-': a - b, '*': a * b}
    facts.append(f'{a}{sign}{b}={results[sign]}')
  return ' '.join(facts)


def _reverse(rng: random.Random, size: str) -> str:
  a = rng.randint(1, 99)
  b = rng.randint(1, 99)
  return rng.choice((f'rev {a}={str(a)[::-1]}', f'cat {a} {b}={a}{b}', f'abs {a}-{b}={abs(a - b)}'))


def _numeral(rng: random.Random, size: str) -> str:
  number = rng.randint(1, LARGEST[size])
  notation = rng.choice(KINDS)
  return f'{number} {" ".join(roman_parts(number, notation))}={to_roman(number, notation)}'


def _bits(rng: random.Random, size: str) -> str:
  n = BITS[size]
  x = rng.randrange(1 << n)
  y = rng.randrange(1 << n)
  k = rng.randrange(1, n)
  full = (1 << n) - 1
  form = f'0{n}b'
  x_text = format(x, form)
  y_text = format(y, form)
  return rng.choice(
    (
      f'{x_text} xor {y_text}={format(x ^ y, form)}',
      f'{x_text} and {y_text}={format(x & y, form)}',
      f'{x_text} or {y_text}={format(x | y, form)}',
      f'rot{k} {x_text}={format(rot(x, k, n), form)}',
      f'shl{k} {x_text}={format((x << k) & full, form)}',
      f'shr{k} {x_text}={format(x >> k, form)}',
    )
  )


def _letters(rng: random.Random, size: str) -> str:
  """Looks up one mapping of letters again and again.

  From the second time on each image can be read off the text before it. Two dozen look-ups a text
  teach reading a mapping in context within a few hundred steps; a puzzle's three hardly do.
  """
  letters = rng.sample('abcdefgh', rng.randint(3, 8))
  image = {letter: rng.choice('abcdefgh') for letter in letters}
  return ' '.join([f'{letter}>{image[letter]}' for letter in rng.choices(letters, k=24)])


_SKILLS = {
  _product: 1,
  _quotient: 0.5,
  _carries: 2,
  _sums: 2,
  _reverse: 1,
  _numeral: 0.5,
  _bits: 1.5,
  _letters: 3,
}


def skill_text(rng: random.Random, size: str) -> str:
  """Samples one text of a random skill.

  Args:
    rng: decides the skill and its numbers; mappings of letters come most often.
    size: 'micro' or 'standard', which limits numerals and the length of bit strings.

  Returns:
    One or several true facts on one line.
  """
  skill = rng.choices(list(_SKILLS), list(_SKILLS.values()))[0]
  return skill(rng, size)
