"""The value of trials: the gain that the best of them is expected to bring.

It counts a gain that passes the promotion rule in the rounds that are left. A change that gains g
is promoted if the mean of the looks that test it reaches what the rule asks of so many looks and
anchors. Looks that test are repeats. So a round's explorers are assigned in blocks: one trial of
something new, which can be tested later, or as many looks at one change as are released. A block is
worth what it adds to the expected best of all blocks before it, under the same samples of the gains
(a greedy batch, as in knowledge gradient and batch expected improvement), and the block that adds
most for each of its trials goes first. What is promoted in a later round is worth less: nothing can
build on it.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from aevo_jax.meta_agent.promotion_rule import needed_gain, spending
from aevo_jax.stats.comparisons.mean_gain import Sample

# What a promotion is worth if it comes a round later.
DELAY = 0.75
# Weight of the gain itself, where no change can be promoted any more.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What the promotion rule will ask for.

  Attributes:
    rounds: that are left, the next one included.
    releases: scores of explorers that a round releases.
    change: sd and degrees of freedom of a change's score, with count 1.
    anchor: those of the anchors, with their number.
    looks: that a change needs before it is tested.
    level: of all tests of one change.
    candidates: changes that may still become candidates.
    min_gain: the least gain that counts.
  """

  rounds: int
  releases: int
  change: Sample
  anchor: Sample
  looks: int
  level: float
  candidates: int
  min_gain: float


class Tried(NamedTuple):
  """What is known of N changes.

  Attributes:
    known: [N] bool, whether an earlier round ran it, so that one look tests it.
    looks: [N] that test it.
    total: [N], sum of their gains over the anchors.
    tests: [N] that it had.
    barred: [N] bool, whether it can be tested no more.
  """

  known: np.ndarray
  looks: np.ndarray
  total: np.ndarray
  tests: np.ndarray
  barred: np.ndarray

  @classmethod
  def none(cls, count: int) -> 'Tried':
    """Makes that of changes which nobody tried.

    Args:
      count: of the changes.

    Returns:
      Zeros.
    """
    zeros = np.zeros(count)
    return cls(zeros > 0, zeros, zeros.copy(), zeros.copy(), zeros > 0)


class Block(NamedTuple):
  """Trials of one change in a round, by the change's index."""

  change: int
  trials: int


def values(gains: np.ndarray, tried: Tried, more: np.ndarray, outlook: Outlook) -> np.ndarray:
  """Computes each true gain times the probability that the next test passes it.

  Args:
    gains: [D, N] samples of the true gains.
    tried: what is known of the N changes.
    more: [N] further looks, after which it is tested.
    outlook: what the rule will ask for.

  Returns:
    [D, N] values.
  """
  needed = np.full(gains.shape[1], np.inf)
  for i, (looks, further) in enumerate(zip(tried.looks, more, strict=True)):
    after = looks + further
    if tried.barred[i] or after < outlook.looks:
      continue
    own = max(after - 1, 1)
    change = outlook.change._replace(freedom=max(outlook.change.freedom, own), count=after)
    later = math.ceil(further / max(outlook.releases, 1))
    anchor = outlook.anchor._replace(
      freedom=outlook.anchor.freedom + later, count=outlook.anchor.count + later
    )
    needed[i] = needed_gain(change, anchor, outlook.level * spending(tried.tests[i] + 1))
  after = tried.looks + more
  expected = (tried.total + more * gains) / np.maximum(after, 1)
  spread = outlook.change.sd * np.sqrt(np.maximum(more, 1)) / np.maximum(after, 1)
  return gains * special.ndtr((expected - np.maximum(needed, outlook.min_gain)) / spread)


def choose(gains: np.ndarray, tried: Tried, outlook: Outlook, count: int) -> Iterator[Block]:
  """Chooses the blocks of a round, the most valuable first.

  Args:
    gains: [D, N] samples of the true gains of N changes.
    tried: what is known of them.
    outlook: what the rule will ask for.
    count: explorers.

  Yields:
    Blocks of different changes, `count` trials in all or fewer where there are too few changes.
  """
  options = _options(gains, tried, outlook, count)
  best = _later(gains, tried, outlook).max(axis=1, initial=0.0)
  taken: set[int] = set()
  releases = outlook.releases
  starts = outlook.candidates
  while count:
    chosen = None
    most = -np.inf
    for block, worth in options:
      tests = block.trials > 1 or tried.known[block.change]
      begins = tests and not tried.looks[block.change]
      if block.change in taken or block.trials > count:
        continue
      if tests and (block.trials > releases or (begins and not starts)):
        # A trial alone may run all the same, for what dev says of it.
        if block.trials > 1:
          continue
        worth = np.zeros_like(worth)
      added = np.maximum(worth, best).mean() - best.mean()
      added = added / block.trials
      if block.trials == 1:
        added += TIE * np.maximum(gains[:, block.change], 0).mean()
      if added > most:
        most = added
        chosen = (block, worth, tests, begins)
    if chosen is None:
      return
    block, worth, tests, begins = chosen
    taken.add(block.change)
    best = np.maximum(best, worth)
    count -= block.trials
    releases -= block.trials if tests else 0
    starts -= begins
    yield block


def _later(gains: np.ndarray, tried: Tried, outlook: Outlook) -> np.ndarray:
  """[D, N]: what changes are worth that are tested in later rounds, if not in the next one."""
  missing = np.maximum(outlook.looks - tried.looks, 1)
  rounds = np.ceil(missing / max(outlook.releases, 1))
  possible = tried.known & (rounds <= outlook.rounds - 1)
  worth = DELAY**rounds * values(gains, tried, missing, outlook)
  return np.where(possible, np.maximum(worth, 0.0), 0.0)


def _options(
  gains: np.ndarray, tried: Tried, outlook: Outlook, count: int
) -> list[tuple[Block, np.ndarray]]:
  """All blocks, each with what it is worth under every sample, [D]."""
  found = []
  for trials in range(1, max(1, min(outlook.releases, count)) + 1):
    tests = tried.known if trials == 1 else np.ones(len(tried.known), bool)
    looks = np.where(tests, tried.looks + trials, 0)
    now = values(gains, tried, np.full(len(looks), float(trials)), outlook)
    missing = np.maximum(outlook.looks - looks, 0)
    rounds = np.ceil(missing / max(outlook.releases, 1))
    later = DELAY**rounds * values(
      gains, tried, np.maximum(outlook.looks - tried.looks, 1.0), outlook
    )
    worth = np.where(missing > 0, np.where(rounds <= outlook.rounds - 1, later, 0.0), now)
    for i in range(gains.shape[1]):
      found.append((Block(i, trials), worth[:, i]))
  return found
