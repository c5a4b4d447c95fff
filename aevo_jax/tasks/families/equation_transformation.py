"""Equations in which each operator symbol hides a rule.

Kinds: `arithmetic` (add, sub, abs, mul and their +-1 variants) and `string` (concatenations, add on
reversed digits; in `standard` also symbol strings under a substitution with deletions). An item is
kept only if every rule of the class that fits the examples of the queried operator gives the same
answer. Rules of operators are few, so the split key is (rule, query operands); for symbol strings
it is the substitution.
"""

import itertools
import random

from aevo_jax.tasks.item import Difficulty, Puzzle, shown_lines

SYMBOLS = '@#%&'
OPERANDS = {'standard': (10, 99), 'micro': (1, 19)}
EXAMPLES = {'standard': (3, 5), 'micro': (3, 4)}
_GLYPHS = '!?*~='


def _reverse(x: int | str) -> str:
  return str(x)[::-1]


RULES = {
  'arithmetic': {
    'add': lambda a, b: str(a + b),
    'add+1': lambda a, b: str(a + b + 1),
    'add-1': lambda a, b: str(a + b - 1),
    'mul': lambda a, b: str(a * b),
    'mul+1': lambda a, b: str(a * b + 1),
    'mul-1': lambda a, b: str(a * b - 1),
    'sub': lambda a, b: str(a - b),
    'abs': lambda a, b: str(abs(a - b)),
  },
  'string': {
    'cat': lambda a, b: f'{a}{b}',
    'swap cat': lambda a, b: f'{b}{a}',
    'rev cat': lambda a, b: _reverse(a) + _reverse(b),
    'rev add rev': lambda a, b: _reverse(int(_reverse(a)) + int(_reverse(b))),
  },
}
ALL_RULES = {name: rule for rules in RULES.values() for name, rule in rules.items()}


def _steps(name: str, a: int, b: int) -> str:
  """A rule's intermediate results, in the notation of tasks.skills."""
  if name in ('sub', 'abs'):
    return f'{a}-{b}={a - b}'
  if name.startswith(('add', 'mul')):
    return f'{a}+{b}={a + b}' if name.startswith('add') else f'{a}*{b}={a * b}'
  if name == 'cat':
    return f'cat {a} {b}={a}{b}'
  if name == 'swap cat':
    return f'cat {b} {a}={b}{a}'
  p, q = _reverse(a), _reverse(b)
  last = f'cat {p} {q}={p}{q}' if name == 'rev cat' else f'{int(p)}+{int(q)}={int(p) + int(q)}'
  return f'rev {a}={p} rev {b}={q} {last}'


def consistent_answers(pairs: list[tuple[int, int, str]], a: int, b: int) -> set[str]:
  """Every answer to (a, b) that some rule gives which fits all (a, b, result) in pairs."""
  return {rule(a, b) for rule in ALL_RULES.values() if all(rule(x, y) == r for x, y, r in pairs)}


def _substituted(text: str, table: dict[str, str]) -> str:
  return ''.join(table[c] for c in text)


class EquationTransformation:
  name = 'equation_transformation'
  tag = 'calc'
  kinds = ('arithmetic', 'string')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    if kind == 'string' and size == 'standard' and rng.random() < 0.5:
      return self._draw_glyphs(rng, difficulty)
    low, high = OPERANDS[size]
    high = difficulty.upto(low, high)
    count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
    asked, other = rng.sample(SYMBOLS, 2)
    asked_name = rng.choice(list(RULES[kind]))
    table = {asked: asked_name, other: rng.choice(list(ALL_RULES))}
    symbols = [asked, asked] + [rng.choice((asked, other)) for _ in range(count - 2)]
    rng.shuffle(symbols)
    operands = [(rng.randint(low, high), rng.randint(low, high)) for _ in range(count + 1)]
    query = operands.pop()
    if len({(s, o) for s, o in zip(symbols, operands)} | {(asked, query)}) != count + 1:
      return None
    examples = [(a, b, s, ALL_RULES[table[s]](a, b)) for (a, b), s in zip(operands, symbols)]
    if len(consistent_answers([(a, b, r) for a, b, s, r in examples if s == asked], *query)) != 1:
      return None
    answer = ALL_RULES[asked_name](*query)
    return Puzzle(
      rule=asked_name,
      examples=tuple((f'{a}{s}{b}', r) for a, b, s, r in examples),
      query=f'{query[0]}{asked}{query[1]}',
      answer=answer,
      reasoning=f'{asked_name} {query[0]} {query[1]} ',
      key=f'{asked_name}|{query[0]}|{query[1]}',
      steps=f'{asked_name} {_steps(asked_name, *query)} ',
    )

  def _draw_glyphs(self, rng: random.Random, difficulty: Difficulty) -> Puzzle | None:
    """Symbol strings: each glyph becomes a glyph or vanishes. All 6^5 tables are tried for
    uniqueness.
    """
    table = {c: rng.choice([*_GLYPHS, '']) for c in _GLYPHS}
    count = rng.randint(*EXAMPLES['standard']) + difficulty.extra_examples
    texts = [
      ''.join(rng.choice(_GLYPHS) for _ in range(rng.randint(3, 4))) for _ in range(count + 1)
    ]
    if len(set(texts)) != count + 1 or not 1 <= len(_substituted(texts[-1], table)) <= 4:
      return None
    shown = [(t, _substituted(t, table)) for t in texts[:-1]]
    answers = set()
    for images in itertools.product([*_GLYPHS, ''], repeat=len(_GLYPHS)):
      candidate = dict(zip(_GLYPHS, images))
      if all(_substituted(t, candidate) == r for t, r in shown):
        answers.add(_substituted(texts[-1], candidate))
        if len(answers) > 1:
          return None
    rule = ' '.join(f'{c}>{table[c]}' for c in _GLYPHS)
    return Puzzle(
      rule=rule,
      examples=tuple(shown),
      query=texts[-1],
      answer=_substituted(texts[-1], table),
      reasoning=''.join(f'{c}>{table[c]} ' for c in dict.fromkeys(texts[-1])),
      key='glyphs|' + rule,
    )

  def describe(self, puzzle: Puzzle) -> str:
    return (
      'Each operator or symbol hides a rule of its own.\n'
      + shown_lines(puzzle, '=')
      + f'\nWhat is {puzzle.query} ? Put the result in \\boxed{{}}.'
    )
