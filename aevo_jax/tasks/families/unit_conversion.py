"""A hidden conversion factor: y = factor * x, shown at two decimals.

Kinds: `tenths` (the factor has one decimal) and `hundredths` (two). Published rule class: every
factor k/100 within the size's range. An item is kept only if every such factor that reproduces the
shown roundings gives the same rounded answer. Split key: the factor. All arithmetic is on integers.
"""

import random

from aevo_jax.tasks import answers
from aevo_jax.tasks.families.hundredths import (
  Observation,
  consistent_factors,
  hundredths_text,
  long_product,
  round_div,
  sample_hundredths,
)
from aevo_jax.tasks.item import Difficulty, Family, Puzzle, written_examples

FACTOR = {'standard': (20, 999), 'micro': (20, 999)}  # hundredths
EXAMPLES = {'standard': (3, 5), 'micro': (3, 3)}


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples lengths and a factor; see `Family.sample`."""
  low, high = FACTOR[size]
  factor = sample_hundredths(rng, kind, low, difficulty.upto(low, high))
  count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
  # Micro lengths are single digits; standard ones are counts of hundredths.
  if size == 'micro':
    x_scale = 1
    population = range(1, 10)
    x_text = str
  else:
    x_scale = 100
    population = range(100, 5000)
    x_text = hundredths_text
  *xs, query = rng.sample(population, min(count, len(population) - 1) + 1)
  examples = []
  observations = []
  for x in xs:
    y = round_div(factor * x, x_scale)
    examples.append((x_text(x), hundredths_text(y)))
    observations.append(Observation(y, x, x_scale))
  factors = consistent_factors(FACTOR[size], observations)
  first = round_div(factors[0] * query, x_scale)
  last = round_div(factors[-1] * query, x_scale)
  if first != last:
    return None
  reasoning = f'{x_text(query)}*{hundredths_text(factor)} '
  # A standard product is rounded, so it has no exact steps.
  steps = f'{reasoning}{long_product(factor, query)} ' if size == 'micro' else ''
  return Puzzle(
    rule=hundredths_text(factor),
    examples=tuple(examples),
    query=x_text(query),
    answer=hundredths_text(round_div(factor * query, x_scale)),
    reasoning=reasoning,
    key=f'{factor}',
    steps=steps,
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  lines = written_examples(puzzle, '{} m becomes {}')
  return (
    f'A length is converted to an unknown unit.\n{lines}\nConvert {puzzle.query} m. Put '
    f'the number, at two decimals, in \\boxed{{}}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  shown = written_examples(puzzle, '{} m are {}', '; ')
  return (
    f'Lengths in metres and in another unit: {shown}. How much are '
    f'{puzzle.query} m? Answer with the number, at two decimals, in \\boxed{{}}.'
  )


FAMILY = Family(
  name='unit_conversion',
  tag='unit',
  kinds=('tenths', 'hundredths'),
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.5,
  same_answer=answers.close_decimals,
)
