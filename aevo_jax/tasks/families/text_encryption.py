"""Phrases under one monoalphabetic substitution; the query is to be decrypted.

Kinds: `involution` (letters swapped in pairs, some fixed) and `permutation` (any other). `standard`
uses 26 letters and English words, `micro` the letters a-h, examples of one letter each and queries
of two or three letters. Published rule class: all substitutions of the alphabet, so an answer is
unique exactly if every letter of the query occurs in an example, or all letters but one do. Split
key: the whole substitution.
"""

import random

from aevo_jax.tasks.item import Difficulty, Puzzle, shown_lines

ALPHABET = {'standard': 'abcdefghijklmnopqrstuvwxyz', 'micro': 'abcdefgh'}
WORDS = [
  'amber',
  'anchor',
  'apple',
  'arrow',
  'autumn',
  'basket',
  'beacon',
  'bird',
  'bridge',
  'bright',
  'candle',
  'castle',
  'cloud',
  'copper',
  'crown',
  'dance',
  'dawn',
  'desert',
  'dragon',
  'dream',
  'eagle',
  'early',
  'echo',
  'ember',
  'empty',
  'engine',
  'fabric',
  'falcon',
  'field',
  'flame',
  'forest',
  'fox',
  'frozen',
  'garden',
  'gentle',
  'ghost',
  'glass',
  'golden',
  'grape',
  'green',
  'harbor',
  'hidden',
  'hollow',
  'honey',
  'hunter',
  'island',
  'ivory',
  'jacket',
  'jewel',
  'jungle',
  'kettle',
  'kind',
  'king',
  'kite',
  'ladder',
  'lantern',
  'lemon',
  'light',
  'linen',
  'maple',
  'marble',
  'meadow',
  'midnight',
  'mirror',
  'moon',
  'mountain',
  'narrow',
  'noble',
  'north',
  'ocean',
  'olive',
  'orbit',
  'orchard',
  'paper',
  'pearl',
  'piano',
  'pilot',
  'planet',
  'quartz',
  'queen',
  'quick',
  'quiet',
  'rabbit',
  'rapid',
  'raven',
  'river',
  'rocket',
  'rough',
  'royal',
  'sailor',
  'salmon',
  'shadow',
  'silver',
  'simple',
  'snow',
  'spider',
  'spring',
  'stone',
  'storm',
  'summer',
  'swift',
  'table',
  'temple',
  'thunder',
  'tiger',
  'tower',
  'travel',
  'turtle',
  'umbra',
  'under',
  'valley',
  'velvet',
  'violet',
  'voyage',
  'wander',
  'water',
  'whale',
  'wheel',
  'white',
  'window',
  'winter',
  'wizard',
  'wolf',
  'yellow',
  'young',
  'zebra',
  'zephyr',
]


def draw_substitution(rng: random.Random, kind: str, letters: str) -> dict[str, str]:
  """A substitution {plain: cipher} of `kind` that is not the identity."""
  while True:
    order = rng.sample(letters, len(letters))
    if kind == 'involution':
      swaps = rng.randint(len(letters) // 4, len(letters) // 2)
      table = {c: c for c in letters}
      for a, b in zip(order[0 : 2 * swaps : 2], order[1 : 2 * swaps : 2]):
        table[a], table[b] = b, a
      return table
    table = dict(zip(letters, order))
    if any(table[table[c]] != c for c in letters):
      return table


class TextEncryption:
  name = 'text_encryption'
  tag = 'code'
  kinds = ('involution', 'permutation')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    letters = ALPHABET[size]
    encrypt = draw_substitution(rng, kind, letters)
    if size == 'micro':
      # Examples of one letter each, all but one of the alphabet unless more are asked for: longer
      # words kept a small model at chance.
      words = rng.sample(letters, min(len(letters), len(letters) - 1 + difficulty.extra_examples))
      length = 2 + round(difficulty.magnitude)
      plain = ''.join(rng.choice(words) for _ in range(length))
    else:
      words = [
        ' '.join(rng.sample(WORDS, rng.randint(2, 4)))
        for _ in range(rng.randint(3, 5) + difficulty.extra_examples)
      ]
      plain = ' '.join(rng.sample(WORDS, rng.randint(2, difficulty.upto(2, 4))))
    known = set(''.join(words)) - {' '}
    if not set(plain) - {' '} <= known and len(known) < len(letters) - 1:
      return None
    if plain in words:
      return None
    cipher = lambda text: ''.join(encrypt.get(c, c) for c in text)
    distinct = dict.fromkeys(c for c in plain if c != ' ')
    steps = plain.replace(' ', '') if size == 'micro' else distinct
    return Puzzle(
      rule=''.join(encrypt[c] for c in letters),
      examples=tuple((cipher(w), w) for w in words),
      query=cipher(plain),
      answer=plain,
      reasoning=''.join(f'{encrypt[c]}>{c} ' for c in steps),
      key=f'{len(letters)}|' + ''.join(encrypt[c] for c in letters),
    )

  def describe(self, puzzle: Puzzle) -> str:
    return (
      'Each phrase was encrypted with the same letter substitution.\n'
      + shown_lines(puzzle, '->')
      + f'\nDecrypt: {puzzle.query}\nPut the plain text in \\boxed{{}}.'
    )
