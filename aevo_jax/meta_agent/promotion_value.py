"""What trials are worth: the gain that the best of them is expected to bring through the promotion
rule, with the rounds that are left.

A change that gains g is promoted if its mean gain over all looks reaches what the rule asks of so
many looks, anchors and degrees of freedom. In the last round a change has one more look, before
that LOOKS of them, for a change that does well is looked at again. So what stands close to the
threshold is repeated where that is worth more than something new. Trials are chosen together, each
for what it adds to the expected best of those before it under the same draws of the gains (a greedy
batch, as in knowledge gradient and batch expected improvement): of two changes whose gains hang
together, one is enough.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import special

from aevo_jax.meta_agent.promotion_rule import threshold

LOOKS = 2  # that a change is reckoned with while more than one round is left
TIE = 1e-6  # weight of the gain itself, where no change can be promoted any more


@dataclasses.dataclass(frozen=True)
class Outlook:
  """rounds: left, the next one included. seed_sd, freedom: the noise and its degrees of freedom.
  anchors: released ones of the standing recipe. level: of all looks at a change. min_gain: the
  least gain that counts."""

  rounds: int
  seed_sd: float
  freedom: int
  anchors: int
  level: float
  min_gain: float


def values(gains: np.ndarray, looks: np.ndarray, total: np.ndarray, outlook: Outlook) -> np.ndarray:
  """[D, N]: each true gain times the probability that it is promoted.

  Args:
    gains: [D, N] draws of the true gains of N changes. looks, total: [N] external gains that were
      seen of each, and their sum.
  """
  more = max(1, min(outlook.rounds, LOOKS))
  after, anchors = looks + more, outlook.anchors + more
  needed = (
    special.stdtrit(max(outlook.freedom + more, 1), 1 - threshold(outlook.level, after))
    * outlook.seed_sd
    * np.sqrt(1 / after + 1 / anchors)
  )
  expected, spread = (total + more * gains) / after, outlook.seed_sd * np.sqrt(more) / after
  return gains * special.ndtr((expected - np.maximum(needed, outlook.min_gain)) / spread)


def choose(
  gains: np.ndarray, looks: np.ndarray, total: np.ndarray, outlook: Outlook
) -> Iterator[int]:
  """All changes, the most valuable first, then what adds most to it, and so on. Arguments as in
  `values`.
  """
  worth, best, left = (
    values(gains, looks, total, outlook),
    np.zeros(len(gains)),
    list(range(gains.shape[1])),
  )
  while left:
    added = np.maximum(worth[:, left], best[:, None]).mean(axis=0) + TIE * np.maximum(
      gains[:, left], 0
    ).mean(axis=0)
    at = left.pop(int(np.argmax(added)))
    best = np.maximum(best, worth[:, at])
    yield at
