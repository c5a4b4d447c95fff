"""How differently two scores rank the trials of a round: discordant pairs."""

import hashlib
from collections.abc import Sequence


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
