"""A hidden conversion factor: y = factor * x, shown at two decimals.

Kinds: `tenths` (the factor has one decimal) and `hundredths` (two). Published rule class: every
factor k/100 within the size's range. An item is kept only if every such factor that reproduces the
shown roundings gives the same rounded answer. Split key: the factor. All arithmetic is on integers,
so that rounding is exact (halves away from zero).
"""

import random

from aevo_jax.tasks.item import Difficulty, Puzzle

FACTOR = {'standard': (20, 999), 'micro': (20, 999)}  # hundredths
EXAMPLES = {'standard': (3, 5), 'micro': (3, 3)}


def hundredths_text(value: int) -> str:
  """An integer count of hundredths as a decimal with two places."""
  return f'{value // 100}.{value % 100:02d}'


def round_div(numerator: int, denominator: int) -> int:
  """numerator / denominator for non-negative integers, halves rounded up."""
  return (2 * numerator + denominator) // (2 * denominator)


def long_product(number: int, x: int) -> str:
  """number * x digit by digit from the right, with carries: 444 * 8 is `4*8=32 4*8+3=35 4*8+3=35`,
  read 35 5 2.
  """
  lines, carry = [], 0
  for digit in map(int, reversed(str(number))):
    value = digit * x + carry
    lines.append(f'{digit}*{x}+{carry}={value}' if lines else f'{digit}*{x}={value}')
    carry = value // 10
  return ' '.join(lines)


def multipliers(value: int, multiplicand: int, denominator: int) -> range:
  """All integers f with round_div(f * multiplicand, denominator) == value: an interval, since
  rounding is monotone.
  """
  first = -(-(2 * value - 1) * denominator // (2 * multiplicand))
  end = -(-(2 * value + 1) * denominator // (2 * multiplicand))
  return range(first, end)


def converted(factor: int, x: int, x_scale: int) -> int:
  """factor (hundredths) times x / x_scale, in hundredths."""
  return round_div(factor * x, x_scale)


def draw_hundredths(rng: random.Random, kind: str, low: int, high: int) -> int:
  """A number of hundredths in [low, high] that has one decimal (`tenths`) or needs two
  (`hundredths`).
  """
  if kind == 'tenths':
    return 10 * rng.randint(-(-low // 10), high // 10)
  while True:
    value = rng.randint(low, high)
    if value % 10:
      return value


class UnitConversion:
  name = 'unit_conversion'
  tag = 'unit'
  kinds = ('tenths', 'hundredths')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    low, high = FACTOR[size]
    high = difficulty.upto(low, high)
    factor = draw_hundredths(rng, kind, low, high)
    count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
    x_scale, population = (1, range(1, 10)) if size == 'micro' else (100, range(100, 5000))
    xs = rng.sample(population, min(count, len(population) - 1) + 1)
    ys = [converted(factor, x, x_scale) for x in xs]
    spans = [range(FACTOR[size][0], FACTOR[size][1] + 1)] + [
      multipliers(y, x, x_scale) for x, y in zip(xs[:-1], ys)
    ]
    first, last = max(s.start for s in spans), min(s.stop for s in spans) - 1
    if converted(first, xs[-1], x_scale) != converted(last, xs[-1], x_scale):
      return None
    x_text = str if size == 'micro' else hundredths_text
    answer = hundredths_text(ys[-1])
    reasoning = f'{x_text(xs[-1])}*{hundredths_text(factor)} '
    steps = (
      reasoning + f'{long_product(factor, xs[-1])} ' if size == 'micro' else ''
    )  # standard rounds
    return Puzzle(
      rule=hundredths_text(factor),
      examples=tuple((x_text(x), hundredths_text(y)) for x, y in zip(xs[:-1], ys)),
      query=x_text(xs[-1]),
      answer=answer,
      reasoning=reasoning,
      key=f'{factor}',
      steps=steps,
    )

  def describe(self, puzzle: Puzzle) -> str:
    lines = '\n'.join(f'{x} m becomes {y}' for x, y in puzzle.examples)
    return (
      f'A length is converted to an unknown unit.\n{lines}\nConvert {puzzle.query} m. Put '
      f'the number, at two decimals, in \\boxed{{}}.'
    )
