"""How far external scores follow dev within a round: discordant pairs and centred sums.

The numbers tell no external score. `reduce_round` runs where the external scores are, in the
arbiter, and only its rows leave that place; `meta_agent.drift.reversal` judges them. The sums have
`DIGITS` significant digits, because scores are whole numbers of items and exact sums over a few
trials give them away. Where all but one or two of a round's scores are released anyway, the rounded
sums still narrow the others down to a few items.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

# Fewer would blur the residuals of a family that follows closely.
DIGITS = 4
# stream -> trial -> score; None, or no entry, is missing
Scores = Mapping[str, Mapping[str, float | None]]


def reduce_round(
  dev: Scores, external: Scores, item_variance: Mapping[str, float | None], seed: int
) -> dict[str, dict[str, float | None]]:
  """Computes one round's statistics, as JSON.

      >>> rows = reduce_round({'a': {'t': 0.1, 'u': 0.3}}, {'a': {'t': 0.2, 'u': 0.5}}, {}, seed=0)
      >>> rows['a']['discordant'], rows['a']['sxy']
      (0, 0.03)

  Args:
    dev: dev scores of the round's trials, unrounded.
    external: external scores of the same trials, unrounded, for every stream of `dev`.
    item_variance: stream -> variance of a trial's dev score by the choice of items, mean over
      trials. None or no entry where it is not known.
    seed: of the coin that breaks ties, one for each round.

  Returns:
    stream -> {'n': trials with both scores, 'discordant': pairs ranked differently, 'sxx', 'sxy',
    'syy': rounded centred sums, 'item_variance'}. A stream with fewer than two trials is left out.
  """
  rows = {}
  for stream, scores in dev.items():
    both = []
    for trial, score in scores.items():
      other = external[stream].get(trial)
      if score is not None and other is not None:
        both.append((score, other))
    if len(both) < 2:
      continue
    # Sorted, so that sums do not depend on the order of the trials by a last bit.
    x, y = zip(*sorted(both), strict=True)
    row: dict[str, float | None] = {'n': len(both), 'discordant': discordant_pairs(x, y, seed)}
    for name, value in centred_sums(x, y).items():
      row[name] = float(f'{value:.{DIGITS}g}')
    rows[stream] = row | {'item_variance': item_variance.get(stream)}
  return rows


def centred_sums(dev: Sequence[float], external: Sequence[float]) -> dict[str, float]:
  """Computes sums of squares and products: sxx = sum (x - mean x)^2, and so on.

  Scores are shifted by the first trial before they are centred, so that constant scores have a
  spread of exactly 0.

      >>> centred_sums([1.0, 3.0], [2.0, 2.0])
      {'sxx': 2.0, 'sxy': 0.0, 'syy': 0.0}

  Args:
    dev: x, [trials].
    external: y, [trials].

  Returns:
    'sxx', 'sxy' and 'syy'.
  """
  x = np.asarray(dev, np.float64) - dev[0]
  y = np.asarray(external, np.float64) - external[0]
  x = x - x.mean()
  y = y - y.mean()
  return {'sxx': float(x @ x), 'sxy': float(x @ y), 'syy': float(y @ y)}


def discordant_pairs(dev: Sequence[float], external: Sequence[float], seed: int) -> int:
  """Counts the pairs that dev and external rank differently (Kendall 1938).

  A tie in either is broken by a coin made of the seed and the tied trials' values, so that neither
  their order nor their names matter.

      >>> discordant_pairs([0.1, 0.2, 0.3], [0.3, 0.1, 0.2], seed=0)
      2

  Args:
    dev: [trials].
    external: [trials].
    seed: of the coin.

  Returns:
    A number of pairs, 0 to trials (trials - 1) / 2.
  """
  dev_keys = _sort_keys(dev, external, seed, 'dev')
  external_keys = _sort_keys(external, dev, seed, 'external')
  discordant = 0
  for i in range(len(dev)):
    for j in range(i):
      discordant += (dev_keys[i] < dev_keys[j]) != (external_keys[i] < external_keys[j])
  return discordant


def _sort_keys(values: Sequence[float], others: Sequence[float], seed: int, side: str) -> list:
  """Makes sort keys without ties: tuples that begin with the value."""
  if len(set(values)) == len(values):
    return [(value,) for value in values]
  copies: dict[tuple, int] = {}
  keys = []
  for value, other in zip(values, others, strict=True):
    # Trials that are alike in both are interchangeable, and are told apart by their count.
    copy = copies.get((value, other), -1) + 1
    copies[value, other] = copy
    text = f'{seed}|{side}|{float(value)!r}|{float(other)!r}|{copy}'
    keys.append((value, hashlib.sha256(text.encode()).digest()))
  return keys
