"""The contract of every puzzle family: a second solver, written from the family's documentation.

A solver is given the prompt text alone: it parses the prompt, enumerates the published rule class
and returns every answer some consistent rule gives. `CONTRACTS` has a row for each family.
"""

import decimal
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aevo_jax.tasks.families.registry import FAMILIES
from aevo_jax.tasks.item import Item

Pairs = list[tuple[str, str]]
Rule = Callable[[str], str]
ALPHABET = 'abcdefghijklmnopqrstuvwxyz'
# Families that a stream holds unless its mixture says otherwise; a new one has weight 0.
DEFAULT_FAMILIES = {name for name, family in FAMILIES.items() if family.weight}


class Contract(NamedTuple):
  """What a family must keep.

  Attributes:
    solve: (examples, query, size) -> every answer that a rule of the class gives.
    rule: item -> the hidden rule kept with it, as a function of a query.
    kind: (item, rule) -> the rule kind, decided from the rule alone by its definition.
    check_reasoning: (item, query, size) -> None; asserts that the worked solution leads to the
      answer.
    reach: (items, size) -> what a smaller `difficulty.magnitude` makes smaller.
    example: of a standard prompt, a line of it as a regular expression.
    query: likewise, what is asked.
    micro, standard: (least, most) examples.
    answer: the form of an answer, of either size.
    check_steps: (item, query, size, equalities) -> None; None where `steps` equals `reasoning`.
    of_rule: (examples, query) -> those that the queried rule made.
  """

  solve: Callable[[Pairs, str, str], set[str]]
  rule: Callable[[Item], Rule]
  kind: Callable[[Item, Rule], str]
  check_reasoning: Callable[[Item, str, str], None]
  reach: Callable[[Sequence[Item], str], float]
  example: str
  query: str
  micro: tuple[int, int]
  standard: tuple[int, int]
  answer: str
  check_steps: Callable[[Item, str, str, list[dict[str, str]]], None] | None = None
  of_rule: Callable[[Pairs, str], Pairs] | None = None


def parse(item: Item, size: str) -> tuple[Pairs, str]:
  """Reads examples and query back from a prompt."""
  if size == 'micro':
    _, *shown, query = item.question.removesuffix('=?').split(' ')
    return [tuple(s.split('>')) for s in shown], query
  contract = CONTRACTS[item.family]
  pairs = []
  for line in item.question.split('\n'):
    match = re.fullmatch(contract.example, line)
    if match:
      pairs.append(match.groups())
  return pairs, re.search(contract.query, item.question).group(1)


# The rule classes, afresh.


def bitwise(f: Callable[..., int], *strings: str) -> str:
  return ''.join(str(f(*map(int, column))) for column in zip(*strings, strict=False))


def xor(a: str, b: str) -> str:
  return bitwise(operator.xor, a, b)


def rotated(k: int, s: str) -> str:
  return s[k:] + s[:k]


def shifted_left(k: int, s: str) -> str:
  return s[k:] + '0' * k


def shifted_right(k: int, s: str) -> str:
  return '0' * k + s[:-k]


def with_rotated(f: Callable[[int, int], int], k: int, s: str) -> str:
  return bitwise(f, s, rotated(k, s))


def with_two_rotated(f: Callable[[int, int, int], int], a: int, b: int, s: str) -> str:
  return bitwise(f, s, rotated(a, s), rotated(b, s))


def choice(x: int, p: int, q: int) -> int:
  return p if x else q


def majority(x: int, p: int, q: int) -> int:
  return int(x + p + q >= 2)


@functools.cache
def bit_functions(n: int) -> dict[str, Callable[[str], str]]:
  """Bit strings to bit strings, under the names of the hidden rules; several names may spell one
  function.
  """
  bind = functools.partial
  table = {f'rot{k}': bind(rotated, k) for k in range(n)}
  for k in range(1, n):
    table[f'shl{k}'] = bind(shifted_left, k)
    table[f'shr{k}'] = bind(shifted_right, k)
    table[f'xor rot{k}'] = bind(with_rotated, operator.xor, k)
    table[f'and rot{k}'] = bind(with_rotated, min, k)
    table[f'or rot{k}'] = bind(with_rotated, max, k)
  for a, b in itertools.permutations(range(1, n), 2):
    table[f'ch{a}{b}'] = bind(with_two_rotated, choice, a, b)
    table[f'maj{a}{b}'] = bind(with_two_rotated, majority, a, b)
  return table


def solve_bits(pairs: Pairs, query: str, size: str) -> set[str]:
  answers = set()
  for f in bit_functions(len(query)).values():
    mask = xor(f(pairs[0][0]), pairs[0][1])
    if all(xor(f(x), mask) == y for x, y in pairs):
      answers.add(xor(f(query), mask))
  return answers


def solve_cipher(pairs: Pairs, query: str, size: str) -> set[str]:
  decrypt = {' ': ' '}
  for cipher, plain in pairs:
    assert len(cipher) == len(plain)
    for c, p in zip(cipher, plain, strict=True):
      assert decrypt.setdefault(c, p) == p
  assert len(set(decrypt.values())) == len(decrypt)
  letters = 'abcdefgh' if size == 'micro' else 'abcdefghijklmnopqrstuvwxyz'
  free = [c for c in letters if c not in decrypt.values()]
  unknown = [c for c in dict.fromkeys(query) if c not in decrypt]
  # Any injective choice extends to a whole substitution; two different ones would already show that
  # the answer is open.
  choices = itertools.islice(itertools.permutations(free, len(unknown)), 2)
  return {
    ''.join((decrypt | dict(zip(unknown, choice, strict=False)))[c] for c in query)
    for choice in choices
  }


def roman(number: int, notation: str) -> str:
  values = [(1000, 'M'), (500, 'D'), (100, 'C'), (50, 'L'), (10, 'X'), (5, 'V'), (1, 'I')]
  if notation == 'subtractive':
    values = sorted(
      [*values, (900, 'CM'), (400, 'CD'), (90, 'XC'), (40, 'XL'), (9, 'IX'), (4, 'IV')],
      reverse=True,
    )
  text = ''
  for value, letters in values:
    text, number = text + letters * (number // value), number % value
  return text


def solve_numeral(pairs: Pairs, query: str, size: str) -> set[str]:
  fitting = [n for n in ('subtractive', 'additive') if all(roman(int(x), n) == y for x, y in pairs)]
  return {roman(int(query), n) for n in fitting}


def two_decimals(value: decimal.Decimal) -> str:
  return str(value.quantize(decimal.Decimal('0.01'), decimal.ROUND_HALF_UP))


def solve_scaled(pairs: Pairs, query: str, low: int, high: int, power: int) -> set[str]:
  """All y = k/100 * x^power, low <= k <= high, rounded to two decimals."""
  factors = [decimal.Decimal(k) / 100 for k in range(low, high + 1)]
  for x, y in pairs:
    factors = [f for f in factors if two_decimals(f * decimal.Decimal(x) ** power) == y]
  return {two_decimals(f * decimal.Decimal(query) ** power) for f in factors}


def solve_unit(pairs: Pairs, query: str, size: str) -> set[str]:
  return solve_scaled(pairs, query, 20, 999, 1)


def solve_fall(pairs: Pairs, query: str, size: str) -> set[str]:
  return solve_scaled(pairs, query, *{'micro': (50, 999), 'standard': (100, 1200)}[size], 2)


def operator_results(a: str, b: str) -> dict[str, str]:
  x, y = int(a), int(b)
  results = {
    'add': x + y,
    'add+1': x + y + 1,
    'add-1': x + y - 1,
    'mul': x * y,
    'mul+1': x * y + 1,
    'mul-1': x * y - 1,
    'sub': x - y,
    'abs': max(x, y) - min(x, y),
    'cat': a + b,
    'swap cat': b + a,
    'rev cat': a[::-1] + b[::-1],
    'rev add rev': str(int(a[::-1]) + int(b[::-1]))[::-1],
  }
  return {name: str(result) for name, result in results.items()}


def split_equation(text: str) -> tuple[str, str, str]:
  return re.fullmatch(r'(\d+)([@#%&])(\d+)', text).groups()


def glyph_tables(pairs: Pairs, table: dict[str, str]) -> Iterator[dict[str, str]]:
  """Every glyph -> glyph or '' that maps each first to its second, by consuming one glyph at a
  time.
  """
  if not pairs:
    yield table
    return
  (text, result), rest = pairs[0], pairs[1:]
  if not text:
    if not result:
      yield from glyph_tables(rest, table)
    return
  for image in [table[text[0]]] if text[0] in table else sorted({'', result[:1]}):
    if result.startswith(image):
      yield from glyph_tables([(text[1:], result[len(image) :]), *rest], table | {text[0]: image})


def solve_equation(pairs: Pairs, query: str, size: str) -> set[str]:
  if not re.search(r'\d', query):
    answers = set()
    for table in glyph_tables(pairs, {}):
      images = [[table[c]] if c in table else [*'!?*~=', ''] for c in dict.fromkeys(query)]
      for choice in itertools.product(*images):
        answers.add(''.join(dict(zip(dict.fromkeys(query), choice, strict=True))[c] for c in query))
    return answers
  a, asked, b = split_equation(query)
  shown = [(split_equation(x), y) for x, y in pairs]
  fitting = set(operator_results('1', '1'))
  for (x, symbol, y), result in shown:
    if symbol == asked:
      fitting &= {name for name, value in operator_results(x, y).items() if value == result}
  return {operator_results(a, b)[name] for name in fitting}


# What is kept with an item, read back.


def rule_of_bits(item: Item) -> Rule:
  name, mask = item.rule.rsplit(' xor ', 1)
  return lambda x: xor(bit_functions(len(mask))[name](x), mask)


def kind_of_bits(item: Item, rule: Rule) -> str:
  n = len(item.answer)
  words = [''.join(w) for w in itertools.product('01', repeat=n)]
  basis = ['0' * i + '1' + '0' * (n - i - 1) for i in range(n)]
  table = {w: rule(w) for w in words}
  shift = table['0' * n]
  affine = all(
    xor(xor(table[w], table[b]), shift) == table[xor(w, b)] for w in words for b in basis
  )
  return 'affine' if affine else 'nonlinear'


def check_bits(item: Item, query: str, size: str) -> None:
  steps = item.reasoning.removesuffix(' ')
  name, value, mask = re.fullmatch(r'(.+) ([01]+) xor ([01]+)', steps).groups()
  assert bit_functions(len(query))[name](query) == value and xor(value, mask) == item.answer


def reach_of_bits(items: Sequence[Item], size: str) -> float:
  return len({i.rule.rsplit(' xor ', 1)[0] for i in items})


def check_steps_of_bits(item: Item, query: str, size: str, found: list[dict[str, str]]) -> None:
  assert (
    len(found) == 2
    and found[0]['x'] == query
    and found[0]['image'] == found[1]['a']
    and found[1]['c'] == item.answer
  )


def rule_of_cipher(item: Item) -> Rule:
  return lambda x: x.translate(str.maketrans(item.rule, ALPHABET[: len(item.rule)]))


def kind_of_cipher(item: Item, rule: Rule) -> str:
  letters = ALPHABET[: len(item.rule)]
  assert sorted(item.rule) == list(letters) and item.rule != letters
  return 'involution' if rule(rule(letters)) == letters else 'permutation'


def check_cipher(item: Item, query: str, size: str) -> None:
  steps = item.reasoning.removesuffix(' ')
  table = dict(step.split('>') for step in steps.split(' ')) | {' ': ' '}
  assert ''.join(table[c] for c in query) == item.answer


def reach_of_cipher(items: Sequence[Item], size: str) -> float:
  if size == 'micro':
    return max(len(i.answer.replace(' ', '')) for i in items)
  return max(i.answer.count(' ') for i in items)


def rule_of_numeral(item: Item) -> Rule:
  return lambda x: roman(int(x), item.rule)


def kind_of_numeral(item: Item, rule: Rule) -> str:
  return item.rule


def check_numeral(item: Item, query: str, size: str) -> None:
  steps = item.reasoning.removesuffix(' ')
  assert steps.replace(' ', '') == item.answer
  assert len(steps.split(' ')) == len(query.replace('0', ''))


def reach_of_last_part(items: Sequence[Item], size: str) -> float:
  return max(int(i.key.rsplit('|', 1)[1]) for i in items)


def rule_of_unit(item: Item) -> Rule:
  return lambda x: two_decimals(decimal.Decimal(item.rule) * decimal.Decimal(x))


def rule_of_fall(item: Item) -> Rule:
  half_g = decimal.Decimal('0.5') * decimal.Decimal(item.rule)
  return lambda x: two_decimals(half_g * decimal.Decimal(x) ** 2)


def kind_of_number(factor: decimal.Decimal) -> str:
  return 'tenths' if (factor * 10) % 1 == 0 else 'hundredths'


def kind_of_unit(item: Item, rule: Rule) -> str:
  return kind_of_number(decimal.Decimal(item.rule))


def kind_of_fall(item: Item, rule: Rule) -> str:
  return kind_of_number(decimal.Decimal(item.rule) / 2)


def check_number(item: Item, query: str, size: str) -> None:
  x, factor = item.reasoning.removesuffix(' ').split('*')
  base, _, power = x.partition('^')
  product = decimal.Decimal(base) ** int(power or 1) * decimal.Decimal(factor)
  assert two_decimals(product) == item.answer


def reach_of_number(items: Sequence[Item], size: str) -> float:
  return max(float(i.rule) for i in items)


def check_steps_of_number(item: Item, query: str, size: str, found: list[dict[str, str]]) -> None:
  if size == 'standard':
    check_no_steps(item, query, size, found)
    return
  x, factor = item.steps.split(' ')[0].split('*')
  digits = str(int(factor.replace('.', '')))[::-1]
  assert [(e['p'], e['q']) for e in found] == [(digit, x) for digit in digits]
  carries = [int(e['carry'] or 0) for e in found]
  assert carries == [0] + [int(e['value']) // 10 for e in found[:-1]]
  product = found[-1]['value'] + ''.join(e['value'][-1] for e in reversed(found[:-1]))
  assert int(product) == int(item.answer.replace('.', ''))


def rule_of_equation(item: Item) -> Rule:
  if '>' in item.rule:
    table = dict(step.split('>') for step in item.rule.split(' '))
    return lambda x: ''.join(table[c] for c in x)
  return lambda x: operator_results(*split_equation(x)[::2])[item.rule]


def kind_of_equation(item: Item, rule: Rule) -> str:
  arithmetic = ('add', 'add+1', 'add-1', 'mul', 'mul+1', 'mul-1', 'sub', 'abs')
  return 'arithmetic' if item.rule in arithmetic else 'string'


def check_equation(item: Item, query: str, size: str) -> None:
  steps = item.reasoning.removesuffix(' ')
  if '>' in steps:
    table = dict(step.split('>') for step in steps.split(' '))
    assert ''.join(table[c] for c in query) == item.answer and set(table) == set(query)
    return
  name, a, b = steps.rsplit(' ', 2)
  assert operator_results(a, b)[name] == item.answer and split_equation(query)[::2] == (a, b)


def check_steps_of_equation(item: Item, query: str, size: str, found: list[dict[str, str]]) -> None:
  if not found:
    check_no_steps(item, query, size, found)
    return
  result = found[-1]['joined'] or found[-1]['value']
  if item.rule == 'rev add rev':
    result = result[::-1]
  elif item.rule == 'abs':
    result = str(abs(int(result)))
  off = {'+1': 1, '-1': -1}.get(item.rule[3:5], 0)
  assert (str(int(result) + off) if off else result) == item.answer, item


def of_equation(pairs: Pairs, query: str) -> Pairs:
  """The examples of the queried symbol, at least two; all of a substitution's."""
  if not re.search(r'\d', query):
    return pairs
  symbol = split_equation(query)[1]
  of_symbol = [(x, y) for x, y in pairs if split_equation(x)[1] == symbol]
  assert len(of_symbol) >= 2
  return of_symbol


def check_no_steps(item: Item, query: str, size: str, found: list[dict[str, str]]) -> None:
  """For a family whose short solution leaves nothing out."""
  assert item.steps == item.reasoning and not found


CONTRACTS = {
  'bit_manipulation': Contract(
    solve_bits, rule_of_bits, kind_of_bits, check_bits, reach_of_bits,
    example=r'([01]{8}) -> ([01]{8})', query=r'Apply the same rule to ([01]{8})\.',
    micro=(4, 4), standard=(7, 10), answer=r'[01]{4}|[01]{8}', check_steps=check_steps_of_bits,
  ),
  'text_encryption': Contract(
    solve_cipher, rule_of_cipher, kind_of_cipher, check_cipher, reach_of_cipher,
    example=r'([a-z ]+) -> ([a-z ]+)', query=r'Decrypt: ([a-z ]+)',
    micro=(7, 7), standard=(3, 5), answer=r'[a-z]+( [a-z]+)*',
  ),
  'numeral_conversion': Contract(
    solve_numeral, rule_of_numeral, kind_of_numeral, check_numeral, reach_of_last_part,
    example=r'(\d+) -> ([IVXLCDM]+)', query=r'Rewrite (\d+) the same way\.',
    micro=(2, 3), standard=(3, 5), answer=r'[IVXLCDM]+',
  ),
  'unit_conversion': Contract(
    solve_unit, rule_of_unit, kind_of_unit, check_number, reach_of_number,
    example=r'(\d+\.\d\d) m becomes (\d+\.\d\d)', query=r'Convert (\d+\.\d\d) m\.',
    micro=(3, 3), standard=(3, 5), answer=r'\d+\.\d\d', check_steps=check_steps_of_number,
  ),
  'gravitational_constant': Contract(
    solve_fall, rule_of_fall, kind_of_fall, check_number, reach_of_number,
    example=r't = (\d+\.\d\d) s, distance = (\d+\.\d\d) m',
    query=r'How far has it fallen at t = (\d+\.\d\d) s\?',
    micro=(3, 3), standard=(3, 5), answer=r'\d+\.\d\d', check_steps=check_steps_of_number,
  ),
  'equation_transformation': Contract(
    solve_equation, rule_of_equation, kind_of_equation, check_equation, reach_of_last_part,
    example=r'(\S+) = (\S*)', query=r'What is (\S+) \?',
    micro=(3, 4), standard=(3, 5), answer=r'-?\d+|[!?*~=]{1,4}',
    check_steps=check_steps_of_equation, of_rule=of_equation,
  ),
}  # fmt: skip
