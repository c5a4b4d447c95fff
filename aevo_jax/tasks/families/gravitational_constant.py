"""Falling bodies under a hidden gravity: distance = g t^2 / 2, shown at two decimals.

Kinds: `tenths` (g / 2 has one decimal) and `hundredths` (two). Published rule class: every g / 2 =
k/100 within the size's range. An item is kept only if every such g that reproduces the shown
roundings gives the same rounded answer. Split key: g.
"""

import random

from aevo_jax.tasks.families.unit_conversion import (
  draw_hundredths,
  hundredths_text,
  long_product,
  multipliers,
  round_div,
)
from aevo_jax.tasks.item import Difficulty, Puzzle

HALF_G = {'standard': (100, 1200), 'micro': (50, 999)}  # hundredths
EXAMPLES = {'standard': (3, 5), 'micro': (3, 3)}


def fallen(half_g: int, t: int, t_scale: int) -> int:
  """Distance in hundredths after t / t_scale, for half of g in hundredths."""
  return round_div(half_g * t * t, t_scale * t_scale)


class GravitationalConstant:
  name = 'gravitational_constant'
  tag = 'fall'
  kinds = ('tenths', 'hundredths')

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    low, high = HALF_G[size]
    half_g = draw_hundredths(rng, kind, low, difficulty.upto(low, high))
    count = rng.randint(*EXAMPLES[size]) + difficulty.extra_examples
    t_scale, population = (1, range(1, 7)) if size == 'micro' else (100, range(50, 1000))
    ts = rng.sample(population, min(count, len(population) - 1) + 1)
    ds = [fallen(half_g, t, t_scale) for t in ts]
    spans = [range(HALF_G[size][0], HALF_G[size][1] + 1)] + [
      multipliers(d, t * t, t_scale**2) for t, d in zip(ts[:-1], ds)
    ]
    first, last = max(s.start for s in spans), min(s.stop for s in spans) - 1
    if fallen(first, ts[-1], t_scale) != fallen(last, ts[-1], t_scale):
      return None
    t_text = str if size == 'micro' else hundredths_text
    squared = str(ts[-1] ** 2) if size == 'micro' else f'{t_text(ts[-1])}^2'
    reasoning = f'{squared}*{hundredths_text(half_g)} '
    steps = (
      reasoning + f'{long_product(half_g, ts[-1] ** 2)} ' if size == 'micro' else ''
    )  # standard rounds
    return Puzzle(
      rule=hundredths_text(2 * half_g),
      examples=tuple((t_text(t), hundredths_text(d)) for t, d in zip(ts[:-1], ds)),
      query=t_text(ts[-1]),
      answer=hundredths_text(ds[-1]),
      reasoning=reasoning,
      key=f'{2 * half_g}',
      steps=steps,
    )

  def describe(self, puzzle: Puzzle) -> str:
    lines = '\n'.join(f't = {t} s, distance = {d} m' for t, d in puzzle.examples)
    return (
      'On some planet a body falls from rest, d = 0.5 g t^2 with an unknown '
      f'g.\n{lines}\nHow far has it fallen at t = {puzzle.query} s? '
      'Put the distance in m, at two decimals, in \\boxed{}.'
    )
