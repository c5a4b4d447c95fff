"""Phrases under one monoalphabetic substitution; the query is to be decrypted.

Kinds: `involution` (letters swapped in pairs, some fixed) and `permutation` (any other). `standard`
uses 26 letters and English words, `micro` the letters a-h, examples of one letter each and queries
of two or three letters. Published rule class: all substitutions of the alphabet, so an answer is
unique exactly if every letter of the query occurs in an example, or all letters but one do. Split
key: the whole substitution.
"""

import random
from typing import NamedTuple

from aevo_jax.tasks.item import Difficulty, Family, Puzzle, written_examples

ALPHABET = {'standard': 'abcdefghijklmnopqrstuvwxyz', 'micro': 'abcdefgh'}
_WORD_LINES = """
  amber anchor apple arrow autumn basket beacon bird bridge bright candle castle cloud copper
  crown dance dawn desert dragon dream eagle early echo ember empty engine fabric falcon field
  flame forest fox frozen garden gentle ghost glass golden grape green harbor hidden hollow
  honey hunter island ivory jacket jewel jungle kettle kind king kite ladder lantern lemon light
  linen maple marble meadow midnight mirror moon mountain narrow noble north ocean olive orbit
  orchard paper pearl piano pilot planet quartz queen quick quiet rabbit rapid raven river
  rocket rough royal sailor salmon shadow silver simple snow spider spring stone storm summer
  swift table temple thunder tiger tower travel turtle umbra under valley velvet violet voyage
  wander water whale wheel white window winter wizard wolf yellow young zebra zephyr
"""
WORDS = _WORD_LINES.split()


class _Texts(NamedTuple):
  """What a puzzle shows in clear text."""

  examples: list[str]
  query: str


def sample_substitution(rng: random.Random, kind: str, letters: str) -> dict[str, str]:
  """Samples a substitution.

  Args:
    rng: the puzzle's generator.
    kind: 'involution' or 'permutation'; the second is never its own inverse.
    letters: the alphabet.

  Returns:
    Clear letter -> cipher letter, not the identity.
  """
  while True:
    order = rng.sample(letters, len(letters))
    if kind == 'involution':
      swaps = rng.randint(len(letters) // 4, len(letters) // 2)
      table = dict(zip(letters, letters, strict=True))
      for i in range(0, 2 * swaps, 2):
        table[order[i]] = order[i + 1]
        table[order[i + 1]] = order[i]
      return table
    table = dict(zip(letters, order, strict=True))
    if any(table[table[letter]] != letter for letter in letters):
      return table


def _sample_texts(rng: random.Random, size: str, difficulty: Difficulty) -> _Texts:
  letters = ALPHABET[size]
  if size == 'micro':
    # Examples of one letter each, all but one of the alphabet unless `extra_examples` adds it:
    # longer words kept a small model at chance.
    count = min(len(letters), len(letters) - 1 + difficulty.extra_examples)
    examples = rng.sample(letters, count)
    length = 2 + round(difficulty.magnitude)
    return _Texts(examples, ''.join([rng.choice(examples) for _ in range(length)]))
  count = rng.randint(3, 5) + difficulty.extra_examples
  examples = [' '.join(rng.sample(WORDS, rng.randint(2, 4))) for _ in range(count)]
  query = ' '.join(rng.sample(WORDS, rng.randint(2, difficulty.upto(2, 4))))
  return _Texts(examples, query)


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples a substitution and phrases; see `Family.sample`."""
  letters = ALPHABET[size]
  encrypt = sample_substitution(rng, kind, letters)
  texts = _sample_texts(rng, size, difficulty)
  known = set(''.join(texts.examples)) - {' '}
  needed = set(texts.query) - {' '}
  if not needed <= known and len(known) < len(letters) - 1:
    return None
  if texts.query in texts.examples:
    return None
  cipher = str.maketrans(encrypt)
  # A micro solution looks up every letter of the query, a standard one each letter once.
  steps = texts.query.replace(' ', '')
  if size == 'standard':
    steps = dict.fromkeys(steps)
  substitution = ''.join([encrypt[letter] for letter in letters])
  return Puzzle(
    rule=substitution,
    examples=tuple([(text.translate(cipher), text) for text in texts.examples]),
    query=texts.query.translate(cipher),
    answer=texts.query,
    reasoning=''.join([f'{encrypt[letter]}>{letter} ' for letter in steps]),
    key=f'{len(letters)}|{substitution}',
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  return (
    'Each phrase was encrypted with the same letter substitution.\n'
    + written_examples(puzzle, '{} -> {}')
    + f'\nDecrypt: {puzzle.query}\nPut the plain text in \\boxed{{}}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  return (
    'A cipher replaces every letter by a fixed other one. Known pairs of cipher text and '
    f'plain text: {written_examples(puzzle, "{} means {}", "; ")}. '
    f'What does {puzzle.query} mean? Answer with the plain text in \\boxed{{}}.'
  )


FAMILY = Family(
  name='text_encryption',
  tag='code',
  kinds=('involution', 'permutation'),
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.5,
)
