"""Falling bodies under a hidden gravity: distance = g t^2 / 2, shown at two decimals.

Kinds: `tenths` (g / 2 has one decimal) and `hundredths` (two). Published rule class: every g / 2 =
k/100 within the size's range. An item is kept only if every such g that reproduces the shown
roundings gives the same rounded answer. Split key: g.
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

HALF_G = {'standard': (100, 1200), 'micro': (50, 999)}  # hundredths
EXAMPLES = {'standard': (3, 5), 'micro': (3, 3)}


def fallen(half_g: int, t: int, t_scale: int) -> int:
  """Returns the distance in hundredths after t / t_scale, for half of g in hundredths."""
  return round_div(half_g * t * t, t_scale * t_scale)


def sample(rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
  """Samples times and a gravity; see `Family.sample`."""
  low, high = HALF_G[size]
  half_g = sample_hundredths(rng, kind, low, difficulty.upto(low, high))
  count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
  # Micro times are single digits; standard ones are counts of hundredths.
  if size == 'micro':
    t_scale = 1
    population = range(1, 7)
    t_text = str
  else:
    t_scale = 100
    population = range(50, 1000)
    t_text = hundredths_text
  *ts, query = rng.sample(population, min(count, len(population) - 1) + 1)
  examples = []
  observations = []
  for t in ts:
    distance = fallen(half_g, t, t_scale)
    examples.append((t_text(t), hundredths_text(distance)))
    observations.append(Observation(distance, t * t, t_scale**2))
  halves = consistent_factors(HALF_G[size], observations)
  if fallen(halves[0], query, t_scale) != fallen(halves[-1], query, t_scale):
    return None
  # A standard product is rounded, so it has no exact steps.
  if size == 'micro':
    reasoning = f'{query**2}*{hundredths_text(half_g)} '
    steps = f'{reasoning}{long_product(half_g, query**2)} '
  else:
    reasoning = f'{t_text(query)}^2*{hundredths_text(half_g)} '
    steps = ''
  return Puzzle(
    rule=hundredths_text(2 * half_g),
    examples=tuple(examples),
    query=t_text(query),
    answer=hundredths_text(fallen(half_g, query, t_scale)),
    reasoning=reasoning,
    key=f'{2 * half_g}',
    steps=steps,
  )


def describe(puzzle: Puzzle) -> str:
  """Words a standard puzzle."""
  lines = written_examples(puzzle, 't = {} s, distance = {} m')
  return (
    'On some planet a body falls from rest, d = 0.5 g t^2 with an unknown '
    f'g.\n{lines}\nHow far has it fallen at t = {puzzle.query} s? '
    'Put the distance in m, at two decimals, in \\boxed{}.'
  )


def paraphrase(puzzle: Puzzle) -> str:
  """Words a standard puzzle in another way."""
  return (
    'Something is dropped where gravity is unknown (distance = 0.5 g time^2): '
    f'{written_examples(puzzle, "after {} s it has fallen {} m", "; ")}. '
    f'How many metres after {puzzle.query} s? Answer at two decimals in \\boxed{{}}.'
  )


FAMILY = Family(
  name='gravitational_constant',
  tag='fall',
  kinds=('tenths', 'hundredths'),
  sample=sample,
  describe=describe,
  paraphrase=paraphrase,
  weight=1.0,
  rare_share=0.5,
  same_answer=answers.close_decimals,
)
