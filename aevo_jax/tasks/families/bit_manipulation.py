"""Bit strings under one hidden function: out = f(in) xor mask.

Published rule class, for n bits (8 in `standard`, 4 in `micro`), each with every mask:
  affine:    rot k, shl k, shr k, x xor rot k;   nonlinear: x and rot k, x or rot k, maj(x, rot a,
  rot b), ch(x, rot a, rot b).
An item is kept only if every (f, mask) of the class that fits the examples gives the same answer.
Split key: the function itself (its truth table), so two spellings of one function can never sit on
two sides of a split.
"""

import functools
import random

from aevo_jax.tasks.item import Difficulty, Puzzle, shown_lines

BITS = {'standard': 8, 'micro': 4}
EXAMPLES = {'standard': (7, 10), 'micro': (4, 4)}


def rot(x: int, k: int, n: int) -> int:
  k %= n
  return ((x << k) | (x >> (n - k))) & ((1 << n) - 1)


@functools.cache
def _functions(n: int) -> dict[str, dict[str, tuple[int, ...]]]:
  """{kind: {name: truth table}} of the functions without masks; a table already present under
  another name is left out.

  Tables are compared up to a mask (xor with table[0]), the mask being part of every rule.
  """
  full = (1 << n) - 1
  named = {'affine': {}, 'nonlinear': {}}
  for k in range(n):
    named['affine'][f'rot{k}'] = lambda x, k=k: rot(x, k, n)
  for k in range(1, n):
    named['affine'][f'shl{k}'] = lambda x, k=k: (x << k) & full
    named['affine'][f'shr{k}'] = lambda x, k=k: x >> k
    named['affine'][f'xor rot{k}'] = lambda x, k=k: x ^ rot(x, k, n)
    named['nonlinear'][f'and rot{k}'] = lambda x, k=k: x & rot(x, k, n)
    named['nonlinear'][f'or rot{k}'] = lambda x, k=k: x | rot(x, k, n)
  for a in range(1, n):
    for b in range(1, n):
      if a < b:
        named['nonlinear'][f'maj{a}{b}'] = lambda x, a=a, b=b: (
          (x & rot(x, a, n)) | (x & rot(x, b, n)) | (rot(x, a, n) & rot(x, b, n))
        )
      if a != b:
        named['nonlinear'][f'ch{a}{b}'] = lambda x, a=a, b=b: (
          (x & rot(x, a, n)) | (~x & full & rot(x, b, n))
        )
  seen, tables = set(), {'affine': {}, 'nonlinear': {}}
  for kind in tables:
    for name, f in named[kind].items():
      table = tuple(f(x) for x in range(1 << n))
      normal = tuple(y ^ table[0] for y in table)
      if normal not in seen:
        seen.add(normal)
        tables[kind][name] = table
  return tables


def consistent_answers(pairs: list[tuple[int, int]], query: int, n: int) -> set[int]:
  """Every answer to `query` that some rule of the class gives which maps each pair's first to its
  second.
  """
  answers = set()
  for tables in _functions(n).values():
    for table in tables.values():
      masks = {table[x] ^ y for x, y in pairs}
      if len(masks) == 1:
        answers.add(table[query] ^ masks.pop())
  return answers


class BitManipulation:
  name = 'bit_manipulation'
  tag = 'bits'
  kinds = ('affine', 'nonlinear')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    n = BITS[size]
    names = list(_functions(n)[kind])
    name = names[rng.randrange(difficulty.upto(0, len(names)))]
    table = _functions(n)[kind][name]
    mask = rng.randrange(1 << n)
    count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
    inputs = rng.sample(range(1 << n), min(count, (1 << n) - 1) + 1)
    pairs = [(x, table[x] ^ mask) for x in inputs[:-1]]
    query = inputs[-1]
    if len(consistent_answers(pairs, query, n)) != 1:
      return None
    text = lambda x: format(x, f'0{n}b')
    rule = f'{name} xor {text(mask)}'
    shown, answer = text(table[query]), text(table[query] ^ mask)
    return Puzzle(
      rule=rule,
      examples=tuple((text(x), text(y)) for x, y in pairs),
      query=text(query),
      answer=answer,
      reasoning=f'{name} {shown} xor {text(mask)} ',
      key=f'{n}|{name}|{table[0] ^ mask}',
      steps=f'{name} {text(query)}={shown} {shown} xor {text(mask)}={answer} ',
    )

  def describe(self, puzzle: Puzzle) -> str:
    return (
      'A hidden rule turns each bit string into another.\n'
      + shown_lines(puzzle, '->')
      + f'\nApply the same rule to {puzzle.query}. Put the resulting bits in \\boxed{{}}.'
    )
