"""The value of trials: the gain that the best of them is expected to bring.

It counts a gain that passes the promotion rule in the rounds that are left.
A change that gains g is promoted if its mean gain over all looks reaches what the rule asks of so
many looks, anchors and degrees of freedom. In the last round a change has one more look, before
that LOOKS of them, for a change that does well is looked at again. So what stands close to the
threshold is repeated where that is worth more than something new. Trials are chosen together, each
for what it adds to the expected best of those before it under the same samples of the gains (a
greedy batch, as in knowledge gradient and batch expected improvement): of two changes with gains
that hang together, one is enough.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import special

from aevo_jax.meta_agent.promotion_rule import threshold

# That a change is reckoned with while more than one round is left.
LOOKS = 2
# Weight of the gain itself, where no change can be promoted any more.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What the promotion rule will ask for.

  Attributes:
    rounds: that are left, the next one included.
    seed_sd: the noise.
    freedom: its degrees of freedom.
    anchors: released ones of the standing recipe.
    level: of all looks at a change.
    min_gain: the least gain that counts.
  """

  rounds: int
  seed_sd: float
  freedom: int
  anchors: int
  level: float
  min_gain: float


def values(gains: np.ndarray, looks: np.ndarray, total: np.ndarray, outlook: Outlook) -> np.ndarray:
  """Computes each true gain times the probability that it is promoted.

  Args:
    gains: [D, N] samples of the true gains of N changes.
    looks: [N] external gains that were seen of each.
    total: [N], their sum.
    outlook: what the rule will ask for.

  Returns:
    [D, N] values.
  """
  more = max(1, min(outlook.rounds, LOOKS))
  after = looks + more
  anchors = outlook.anchors + more
  quantile = special.stdtrit(max(outlook.freedom + more, 1), 1 - threshold(outlook.level, after))
  needed = quantile * outlook.seed_sd * np.sqrt(1 / after + 1 / anchors)
  expected = (total + more * gains) / after
  spread = outlook.seed_sd * np.sqrt(more) / after
  return gains * special.ndtr((expected - np.maximum(needed, outlook.min_gain)) / spread)


def choose(
  gains: np.ndarray, looks: np.ndarray, total: np.ndarray, outlook: Outlook
) -> Iterator[int]:
  """Orders all changes: the most valuable first, then what adds most to it, and so on.

  Args:
    gains: [D, N] samples of the true gains of N changes.
    looks: [N] external gains that were seen of each.
    total: [N], their sum.
    outlook: what the rule will ask for.

  Yields:
    Indices of changes, each once.
  """
  worth = values(gains, looks, total, outlook)
  best = np.zeros(len(gains))
  left = list(range(gains.shape[1]))
  while left:
    added = np.maximum(worth[:, left], best[:, None]).mean(axis=0)
    added = added + TIE * np.maximum(gains[:, left], 0).mean(axis=0)
    at = left.pop(int(np.argmax(added)))
    best = np.maximum(best, worth[:, at])
    yield at
