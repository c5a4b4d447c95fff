"""Equations in which each operator symbol hides a rule.

Kinds: `arithmetic` (add, sub, abs, mul and their +-1 variants) and `string` (concatenations, add on
reversed digits; in `standard` also symbol strings under a substitution with deletions). An item is
kept only if every rule of the class that fits the examples of the queried operator gives the same
answer. Rules of operators are few, so the split key is (rule, query operands); for symbol strings
it is the substitution.
"""

import functools
import itertools
import operator
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aevo_jax.tasks.item import Difficulty, Family, Puzzle, written_examples

SYMBOLS = '@#%&'
OPERANDS = {'standard': (10, 99), 'micro': (1, 19)}
EXAMPLES = {'standard': (3, 5), 'micro': (3, 4)}
_GLYPHS = '!?*~='


class Equation(NamedTuple):
  """One shown equation, `a symbol b = result`."""

  a: int
  b: int
  symbol: str
  result: str


def _reversed(x: int | str) -> str:
  return str(x)[::-1]


def _offset(operation: Callable[[int, int], int], offset: int, a: int, b: int) -> str:
  return str(operation(a, b) + offset)


def _distance(a: int, b: int) -> str:
  return str(abs(a - b))


def _concatenation(a: int, b: int) -> str:
  return f'{a}{b}'


def _swapped_concatenation(a: int, b: int) -> str:
  return f'{b}{a}'


def _reversed_concatenation(a: int, b: int) -> str:
  return _reversed(a) + _reversed(b)


def _reversed_sum(a: int, b: int) -> str:
  return _reversed(int(_reversed(a)) + int(_reversed(b)))


Rule = Callable[[int, int], str]
RULES: dict[str, dict[str, Rule]] = {
  'arithmetic': {
    'add': functools.partial(_offset, operator.add, 0),
    'add+1': functools.partial(_offset, operator.add, 1),
    'add-1': functools.partial(_offset, operator.add, -1),
    'mul': functools.partial(_offset, operator.mul, 0),
    'mul+1': functools.partial(_offset, operator.mul, 1),
    'mul-1': functools.partial(_offset, operator.mul, -1),
    'sub': functools.partial(_offset, operator.sub, 0),
    'abs': _distance,
  },
  'string': {
    'cat': _concatenation,
    'swap cat': _swapped_concatenation,
    'rev cat': _reversed_concatenation,
    'rev add rev': _reversed_sum,
  },
}
ALL_RULES = RULES['arithmetic'] | RULES['string']


def _steps(name: str, a: int, b: int) -> str:
  """Writes a rule's intermediate results, in the notation of tasks.skills."""
  if name in ('sub', 'abs'):
    return f'{a}-{b}={a - b}'
  if name.startswith('add'):
    return f'{a}+{b}={a + b}'
  if name.startswith('mul'):
    return f'{a}*{b}={a * b}'
  if name == 'cat':
    return f'cat {a} {b}={a}{b}'
  if name == 'swap cat':
    return f'cat {b} {a}={b}{a}'
  p = _reversed(a)
  q = _reversed(b)
  if name == 'rev cat':
    last = f'cat {p} {q}={p}{q}'
  else:
    last = f'{int(p)}+{int(q)}={int(p) + int(q)}'
  return f'rev {a}={p} rev {b}={q} {last}'


def consistent_answers(equations: Sequence[Equation], a: int, b: int) -> set[str]:
  """Applies every rule that fits the examples.

  Args:
    equations: the examples of the queried symbol.
    a: first operand of the query.
    b: second operand.

  Returns:
    The answers that these rules give to (a, b).
  """
  answers = set()
  for rule in ALL_RULES.values():
    if all(rule(shown.a, shown.b) == shown.result for shown in equations):
      answers.add(rule(a, b))
  return answers


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples operators, or a substitution of glyphs; see `Family.sample`."""
  if kind == 'string' and size == 'standard' and rng.random() < 0.5:
    return _sample_glyphs(rng, difficulty)
  low, high = OPERANDS[size]
  high = difficulty.upto(low, high)
  count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
  queried, other = rng.sample(SYMBOLS, 2)
  name = rng.choice(list(RULES[kind]))
  rules = {queried: ALL_RULES[name], other: ALL_RULES[rng.choice(list(ALL_RULES))]}
  symbols = [queried, queried] + [rng.choice((queried, other)) for _ in range(count - 2)]
  rng.shuffle(symbols)
  operands = [(rng.randint(low, high), rng.randint(low, high)) for _ in range(count + 1)]
  a, b = operands.pop()
  if len({*zip(symbols, operands, strict=True), (queried, (a, b))}) != count + 1:
    return None
  equations = []
  examples = []
  for symbol, (x, y) in zip(symbols, operands, strict=True):
    result = rules[symbol](x, y)
    equations.append(Equation(x, y, symbol, result))
    examples.append((f'{x}{symbol}{y}', result))
  of_query = [equation for equation in equations if equation.symbol == queried]
  if len(consistent_answers(of_query, a, b)) != 1:
    return None
  return Puzzle(
    rule=name,
    examples=tuple(examples),
    query=f'{a}{queried}{b}',
    answer=rules[queried](a, b),
    reasoning=f'{name} {a} {b} ',
    key=f'{name}|{a}|{b}',
    steps=f'{name} {_steps(name, a, b)} ',
  )


@functools.cache
def _substitutions() -> tuple[dict[int, str], ...]:
  """Returns all 6^5 tables glyph -> glyph or nothing, as `str.translate` takes them."""
  tables = []
  for images in itertools.product([*_GLYPHS, ''], repeat=len(_GLYPHS)):
    tables.append(str.maketrans(dict(zip(_GLYPHS, images, strict=True))))
  return tuple(tables)


def _sample_glyphs(rng: random.Random, difficulty: Difficulty) -> Puzzle | None:
  """Samples symbol strings, in which each glyph becomes a glyph or vanishes."""
  images = {glyph: rng.choice([*_GLYPHS, '']) for glyph in _GLYPHS}
  table = str.maketrans(images)
  count = rng.randint(*EXAMPLES['standard']) + difficulty.extra_examples
  texts = []
  for _ in range(count + 1):
    texts.append(''.join([rng.choice(_GLYPHS) for _ in range(rng.randint(3, 4))]))
  *shown, query = texts
  answer = query.translate(table)
  if len(set(texts)) != count + 1 or not 1 <= len(answer) <= 4:
    return None
  examples = [(text, text.translate(table)) for text in shown]
  # Each example leaves fewer tables over; the answer is unique if they agree on the query.
  fitting = _substitutions()
  for text, result in examples:
    fitting = [candidate for candidate in fitting if text.translate(candidate) == result]
  if len({query.translate(candidate) for candidate in fitting}) > 1:
    return None
  rule = ' '.join([f'{glyph}>{images[glyph]}' for glyph in _GLYPHS])
  return Puzzle(
    rule=rule,
    examples=tuple(examples),
    query=query,
    answer=answer,
    reasoning=''.join([f'{glyph}>{images[glyph]} ' for glyph in dict.fromkeys(query)]),
    key=f'glyphs|{rule}',
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  return (
    'Each operator or symbol hides a rule of its own.\n'
    + written_examples(puzzle, '{} = {}')
    + f'\nWhat is {puzzle.query} ? Put the result in \\boxed{{}}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  return (
    'In these equations every symbol stands for a rule that you have to find: '
    f'{written_examples(puzzle, "{} = {}", "; ")}. Then {puzzle.query} = ? '
    'Answer with the result in \\boxed{}.'
  )


FAMILY = Family(
  name='equation_transformation',
  tag='calc',
  kinds=('arithmetic', 'string'),
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.5,
)
