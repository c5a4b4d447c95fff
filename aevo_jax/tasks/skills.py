"""The skills under the puzzles, as plain text for pretraining: products, digits with carries, sums,
rotations, masks, numerals, reversals.

Nothing here is a puzzle, and no split applies: these are facts such as `7*2.40=16.80`, not hidden
rules.
"""

import random

from aevo_jax.tasks.families.bit_manipulation import BITS, rot
from aevo_jax.tasks.families.numeral_conversion import LARGEST, roman_parts, to_roman
from aevo_jax.tasks.families.unit_conversion import hundredths_text


def _product(rng: random.Random, size: str) -> str:
  factor, x = rng.randint(20, 999), rng.choice((*range(1, 10), 16, 25, 36))
  return f'{x}*{hundredths_text(factor)}={hundredths_text(x * factor)}'


def _quotient(rng: random.Random, size: str) -> str:
  factor, x = rng.randint(20, 999), rng.choice((*range(1, 10), 16, 25, 36))
  return f'{hundredths_text(x * factor)}/{x}={hundredths_text(factor)}'


def _carries(rng: random.Random, size: str) -> str:
  facts = []
  for _ in range(8):
    x = rng.choice((*range(1, 10), 16, 25, 36))
    digit, carry = rng.randrange(10), rng.randrange(x)
    facts.append(
      rng.choice((f'{digit}*{x}+{carry}={digit * x + carry}', f'{digit}*{x}={digit * x}'))
    )
  return ' '.join(facts)


def _sums(rng: random.Random, size: str) -> str:
  facts = []
  for sign in rng.choices('+-*', k=8):
    a, b = (rng.randint(1, 19 if sign == '*' else 99) for _ in 'ab')
    facts.append(f'{a}{sign}{b}={ {"+": a + b, "-": a - b, "*": a * b}[sign] }')
  return ' '.join(facts)


def _reverse(rng: random.Random, size: str) -> str:
  a, b = rng.randint(1, 99), rng.randint(1, 99)
  return rng.choice((f'rev {a}={str(a)[::-1]}', f'cat {a} {b}={a}{b}', f'abs {a}-{b}={abs(a - b)}'))


def _numeral(rng: random.Random, size: str) -> str:
  number, notation = rng.randint(1, LARGEST[size]), rng.choice(('subtractive', 'additive'))
  return f'{number} {" ".join(roman_parts(number, notation))}={to_roman(number, notation)}'


def _bits(rng: random.Random, size: str) -> str:
  n = BITS[size]
  x, y, k = rng.randrange(1 << n), rng.randrange(1 << n), rng.randrange(1, n)
  text = lambda v: format(v, f'0{n}b')
  full = (1 << n) - 1
  return rng.choice(
    (
      f'{text(x)} xor {text(y)}={text(x ^ y)}',
      f'{text(x)} and {text(y)}={text(x & y)}',
      f'{text(x)} or {text(y)}={text(x | y)}',
      f'rot{k} {text(x)}={text(rot(x, k, n))}',
      f'shl{k} {text(x)}={text((x << k) & full)}',
      f'shr{k} {text(x)}={text(x >> k)}',
    )
  )


def _letters(rng: random.Random, size: str) -> str:
  """One mapping of letters, looked up again and again: from the second time on each image can be
  read off the text before it.

  Two dozen look-ups a text teach reading a mapping in context within a few hundred steps; a
  puzzle's three hardly do.
  """
  letters = rng.sample('abcdefgh', rng.randint(3, 8))
  image = {letter: rng.choice('abcdefgh') for letter in letters}
  return ' '.join(f'{a}>{image[a]}' for a in rng.choices(letters, k=24))


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
  """One text of a random skill; mappings of letters come most often."""
  return rng.choices(list(_SKILLS), list(_SKILLS.values()))[0](rng, size)
