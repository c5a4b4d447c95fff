"""Bit strings under one hidden function: out = f(in) xor mask.

Published rule class, for n bits (8 in `standard`, 4 in `micro`), each with every mask:

  affine:    rot k, shl k, shr k, x xor rot k
  nonlinear: x and rot k, x or rot k, maj(x, rot a, rot b), ch(x, rot a, rot b)

An item is kept only if every (f, mask) of the class that fits the examples gives the same answer.
Split key: the function itself (its truth table), so two spellings of one function can never sit on
two sides of a split.
"""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aevo_jax.tasks.item import Difficulty, Family, Puzzle, written_examples

KINDS = ('affine', 'nonlinear')
BITS = {'standard': 8, 'micro': 4}
EXAMPLES = {'standard': (7, 10), 'micro': (4, 4)}


class _Function(NamedTuple):
  """A function of the rule class without mask; `table[x]` is its value of x."""

  kind: str
  name: str
  table: tuple[int, ...]


def rot(x: int, k: int, n: int) -> int:
  """Rotates the n bits of x to the left.

  Args:
    x: the bits, 0 <= x < 2^n.
    k: places to rotate by, of any sign.
    n: how many bits x has.

  Returns:
    The rotated bits.
  """
  k %= n
  return ((x << k) | (x >> (n - k))) & ((1 << n) - 1)


def _spelt(n: int) -> Iterator[_Function]:
  """Yields every spelling of the class, affine ones before those of the same k."""
  words = range(1 << n)
  full = (1 << n) - 1

  def function(kind: str, name: str, value: Callable[[int], int]) -> _Function:
    return _Function(kind, name, tuple([value(x) for x in words]))

  for k in range(n):
    yield function('affine', f'rot{k}', lambda x, k=k: rot(x, k, n))
  for k in range(1, n):
    yield function('affine', f'shl{k}', lambda x, k=k: (x << k) & full)
    yield function('affine', f'shr{k}', lambda x, k=k: x >> k)
    yield function('affine', f'xor rot{k}', lambda x, k=k: x ^ rot(x, k, n))
    yield function('nonlinear', f'and rot{k}', lambda x, k=k: x & rot(x, k, n))
    yield function('nonlinear', f'or rot{k}', lambda x, k=k: x | rot(x, k, n))
  for a in range(1, n):
    for b in range(1, n):
      if a < b:
        majority = functools.partial(_majority, a=a, b=b, n=n)
        yield function('nonlinear', f'maj{a}{b}', majority)
      if a != b:
        choice = functools.partial(_choice, a=a, b=b, n=n)
        yield function('nonlinear', f'ch{a}{b}', choice)


def _majority(x: int, *, a: int, b: int, n: int) -> int:
  p = rot(x, a, n)
  q = rot(x, b, n)
  return (x & p) | (x & q) | (p & q)


def _choice(x: int, *, a: int, b: int, n: int) -> int:
  full = (1 << n) - 1
  return (x & rot(x, a, n)) | (~x & full & rot(x, b, n))


@functools.cache
def _functions(n: int) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns kind -> name -> truth table of the functions without masks, each table once.

  Tables are compared up to a mask (xor with table[0]), the mask being part of every rule.
  """
  tables = {'affine': {}, 'nonlinear': {}}
  seen = set()
  for kind in KINDS:
    for function in _spelt(n):
      normal = tuple([value ^ function.table[0] for value in function.table])
      if function.kind == kind and normal not in seen:
        seen.add(normal)
        tables[kind][function.name] = function.table
  return tables


def consistent_answers(pairs: Sequence[tuple[int, int]], query: int, n: int) -> set[int]:
  """Applies every rule of the class that fits the examples.

  Args:
    pairs: (input, output) of the examples.
    query: the input to answer for.
    n: bits of each.

  Returns:
    The answers that these rules give to `query`.
  """
  answers = set()
  for tables in _functions(n).values():
    for table in tables.values():
      masks = {table[x] ^ y for x, y in pairs}
      if len(masks) == 1:
        answers.add(table[query] ^ masks.pop())
  return answers


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples a function, a mask and inputs; see `Family.sample`."""
  n = BITS[size]
  tables = _functions(n)[kind]
  name = list(tables)[rng.randrange(difficulty.upto(0, len(tables)))]
  table = tables[name]
  mask = rng.randrange(1 << n)
  count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
  *inputs, query = rng.sample(range(1 << n), min(count, (1 << n) - 1) + 1)
  form = f'0{n}b'
  pairs = []
  examples = []
  for x in inputs:
    y = table[x] ^ mask
    pairs.append((x, y))
    examples.append((format(x, form), format(y, form)))
  if len(consistent_answers(pairs, query, n)) != 1:
    return None
  shown = format(table[query], form)
  mask_text = format(mask, form)
  answer = format(table[query] ^ mask, form)
  return Puzzle(
    rule=f'{name} xor {mask_text}',
    examples=tuple(examples),
    query=format(query, form),
    answer=answer,
    reasoning=f'{name} {shown} xor {mask_text} ',
    key=f'{n}|{name}|{table[0] ^ mask}',
    steps=f'{name} {format(query, form)}={shown} {shown} xor {mask_text}={answer} ',
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  return (
    'A hidden rule turns each bit string into another.\n'
    + written_examples(puzzle, '{} -> {}')
    + f'\nApply the same rule to {puzzle.query}. Put the resulting bits in \\boxed{{}}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  shown = written_examples(puzzle, '{} gives {}', '; ')
  return (
    f'Find the function behind these pairs of bit strings: {shown}. '
    f'What does it give for {puzzle.query}? Answer with the bits in \\boxed{{}}.'
  )


FAMILY = Family(
  name='bit_manipulation',
  tag='bits',
  kinds=KINDS,
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.3,
)
