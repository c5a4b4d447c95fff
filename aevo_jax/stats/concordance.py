"""How far external scores follow dev within a round, in numbers that tell no external score: pairs
ranked differently, and centred sums.

This runs where the external scores are, in the arbiter. Only its rows leave that place;
`meta_agent.drift.reversal` judges them. The sums are told with `DIGITS` significant digits: scores are
whole numbers of items, and exact sums over a few trials would give them away. Where all but one or
two of a round's scores are released anyway, the rounded sums still narrow the others down to a few
items.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

DIGITS = 4  # fewer would blur the residuals of a family that follows closely
Scores = Mapping[
  str, Mapping[str, float | None]
]  # stream -> trial -> score; None, or no entry, is missing


def reduce_round(
  dev: Scores, external: Scores, item_variance: Mapping[str, float | None], seed: int
) -> dict[str, dict[str, float | None]]:
  """One round's statistics, JSON-able.

  Args:
    dev, external: scores of the round's trials, unrounded. item_variance: stream -> variance of a
      trial's dev score by the choice of items (mean over trials); None or left out where it is not
      known. seed: of the coin that breaks ties, one for each round.

  Returns:
    stream -> {'n': trials with both scores, 'discordant': pairs ranked differently, 'sxx', 'sxy',
    'syy': centred sums, rounded, 'item_variance'}. A stream with fewer than two trials is left out.
  """
  rows = {}
  for stream in dev:
    both = [
      (x, y)
      for trial, x in dev[stream].items()
      if x is not None and (y := external[stream].get(trial)) is not None
    ]
    if len(both) < 2:
      continue
    x, y = zip(
      *sorted(both), strict=True
    )  # sorted: sums must not depend on the order of the trials by a last bit
    rows[stream] = (
      {'n': len(both), 'discordant': discordant_pairs(x, y, seed)}
      | {name: float(f'{value:.{DIGITS}g}') for name, value in centred_sums(x, y).items()}
      | {'item_variance': item_variance.get(stream)}
    )
  return rows


def centred_sums(dev: Sequence[float], external: Sequence[float]) -> dict[str, float]:
  """'sxx', 'sxy', 'syy' of dev (x) and external (y). Shifted by the first trial before centring, so
  that constant scores have a spread of exactly 0.
  """
  x, y = (np.asarray(v, np.float64) - v[0] for v in (dev, external))
  x, y = x - x.mean(), y - y.mean()
  return {'sxx': float(x @ x), 'sxy': float(x @ y), 'syy': float(y @ y)}


def discordant_pairs(dev: Sequence[float], external: Sequence[float], seed: int) -> int:
  """Pairs that dev and external rank differently.

  A tie in either is broken by a coin made of the seed and the tied trials' own values, so that
  neither their order nor their names matter.
  """
  dev_place, external_place = (
    _places(dev, external, seed, 'dev'),
    _places(external, dev, seed, 'external'),
  )
  return sum(
    (dev_place[i] < dev_place[j]) != (external_place[i] < external_place[j])
    for i in range(len(dev))
    for j in range(i)
  )


def _places(values: Sequence[float], others: Sequence[float], seed: int, side: str) -> list[tuple]:
  """Sort keys without ties."""
  if len(set(values)) == len(values):
    return [(value,) for value in values]
  copies: dict[tuple, int] = {}
  keys = []
  for value, other in zip(values, others, strict=True):
    copy = copies[value, other] = (
      copies.get((value, other), -1) + 1
    )  # trials that are alike in both are interchangeable
    keys.append(
      (
        value,
        hashlib.sha256(f'{seed}|{side}|{float(value)!r}|{float(other)!r}|{copy}'.encode()).digest(),
      )
    )
  return keys
