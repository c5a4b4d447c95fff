"""Rank tests of dev against external: the Mahonian null, the exact test, a round's e-value, the
e-process, e-BH.

Two rankings of n trials disagree on some of the n (n - 1) / 2 pairs. If they have nothing to do
with each other, the number of such discordant pairs has the Mahonian distribution of n (the
inversions of a random permutation), and over independent rounds the convolution of those. Many
discordant pairs: dev is reversed. Few: dev and external rank alike.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

PHIS = (
  0.3,
  0.5,
  0.7,
  0.85,
  # alternatives a round's e-value bets on in equal parts: Mallows models that favour reversed
  # rankings
)
_LARGEST = 300.0  # logarithm of the largest bet that is paid: products of them must not overflow
_DRAWS = 1000  # of the power behind a detectable correlation


@functools.cache
def mahonian(n: int) -> tuple[int, ...]:
  """Permutations of n by their number of inversions 0 ... n (n - 1) / 2; they add up to n!."""
  counts = [1]
  for i in range(2, n + 1):
    sums = [0, *itertools.accumulate(counts)]
    counts = [
      sums[min(k + 1, len(counts))] - sums[max(0, k - i + 1)] for k in range(len(counts) + i - 1)
    ]
  return tuple(counts)


@functools.cache
def null(sizes: tuple[int, ...]) -> np.ndarray:
  """Probabilities of 0, 1, ... discordant pairs in all, over independent rounds of these sizes."""
  total = np.ones(1)
  for n in sizes:
    total = np.convolve(total, [count / math.factorial(n) for count in mahonian(n)])
  return total


def reversal_p(discordant: int, sizes: Sequence[int]) -> float:
  """P(as many discordant pairs or more) over rounds of these sizes, if dev and external were
  unrelated.
  """
  return min(float(null(tuple(sorted(sizes)))[discordant:].sum()), 1.0)


def concordance_p(discordant: int, sizes: Sequence[int]) -> float:
  """P(as few discordant pairs or fewer): the mirrored test."""
  return reversal_p(sum(n * (n - 1) // 2 for n in sizes) - discordant, sizes)


def critical(sizes: Sequence[int], alpha: float) -> int | None:
  """The least number of discordant pairs whose `reversal_p` is at most alpha; None if not even all
  of them are enough.
  """
  pairs = sum(n * (n - 1) // 2 for n in sizes)
  return next((d for d in range(pairs + 1) if reversal_p(d, sizes) <= alpha), None)


def mallows(n: int, phi: float) -> np.ndarray:
  """Probabilities of 0, 1, ... discordant pairs if a ranking has probability phi^concordant /
  Z(phi): phi = 1 is chance, phi -> 0 a full reversal.
  """
  concordant = np.ones(1)
  for i in range(2, n + 1):  # the i-th trial agrees with 0 ... i - 1 of those before it
    agrees = phi ** np.arange(i)
    concordant = np.convolve(concordant, agrees / agrees.sum())
  return concordant[::-1]


@functools.cache
def _e_values(n: int) -> np.ndarray:
  """[pairs + 1]: the e-value of each number of discordant pairs."""
  concordant, bets = np.arange(n * (n - 1) // 2, -1, -1), []
  for phi in PHIS:
    log_z = sum(math.log((1 - phi**i) / (1 - phi)) for i in range(1, n + 1))
    bets.append(math.lgamma(n + 1) + concordant * math.log(phi) - log_z)
  return np.exp(np.minimum(bets, _LARGEST)).mean(0)


def e_value(discordant: int | np.ndarray, n: int) -> np.ndarray:
  """Mean over `PHIS` of n! phi^concordant / Z(phi), Z = prod_{i <= n} (1 - phi^i) / (1 - phi): its
  expectation is 1 if dev and external are unrelated.

  It is at most 1 in expectation, too, if they agree more than by chance. n of 8: at most 1,100, and
  20 from 24 of 28 on.
  """
  return _e_values(n)[discordant]


def e_process(e_values: np.ndarray, planned_rounds: int) -> np.ndarray:
  """The running bet that a reversal began in some round, each of the planned rounds with the same
  stake.

  E_t = (sum_{s <= t} prod_{s <= i <= t} e_i + planned_rounds - t) / planned_rounds: a mixture of
  the products that start at round s and stand at 1 before. A single product from round 1 on would
  be ruined by the rounds before a reversal: three in good agreement leave it at about 1e-5. P(E_t
  >= 1 / alpha for any t) <= alpha if dev and external are unrelated (Ville).

  Args:
    e_values: [..., rounds] of each round, 1 where nothing was seen.

  Returns:
    [..., rounds] after each round.
  """
  betting, after = np.zeros(e_values.shape[:-1]), []
  for t in range(e_values.shape[-1]):
    started = (
      t < planned_rounds
    )  # a campaign that goes on for longer than planned has placed all its stakes
    betting = np.minimum(
      (betting + started / planned_rounds) * e_values[..., t], math.exp(_LARGEST)
    )
    after.append(betting + max(planned_rounds - t - 1, 0) / planned_rounds)
  return np.stack(after, -1)


def e_bh(e_values: np.ndarray, alpha: float, hypotheses: int | None = None) -> np.ndarray:
  """e-BH (Wang and Ramdas, 2009.02824): rejects the k largest, for the largest k whose k-th e-value
  is at least hypotheses / (k alpha).

  The false discovery rate is at most alpha under any dependence; if every null is true, so is the
  probability of any rejection.

  Args:
    e_values: [..., streams]. hypotheses: how many of them differ; all, if not given.

  Returns:
    Booleans [..., streams].
  """
  order = -np.sort(-e_values, axis=-1)
  needed = (hypotheses or e_values.shape[-1]) / (alpha * np.arange(1, e_values.shape[-1] + 1))
  enough = np.where(order >= needed, order, np.inf).min(axis=-1, keepdims=True)
  return e_values >= enough


def holm(p_values: np.ndarray, alpha: float) -> np.ndarray:
  """Holm's step-down test of [streams] p-values: the probability of any false rejection is at most
  alpha under any dependence.
  """
  order, rejected = np.argsort(p_values, kind='stable'), np.zeros(len(p_values), bool)
  for step, index in enumerate(order):
    if p_values[index] > alpha / (len(p_values) - step):
      break
    rejected[index] = True
  return rejected


def detectable_correlation(
  sizes: Sequence[int], alarm: Callable[[np.ndarray], np.ndarray], power: float
) -> float | None:
  """The weakest negative correlation, the same in all these rounds, that an alarm finds with the
  given power; None if not even -1.

  Rankings follow a Mallows model, from whose expected share of discordant pairs the correlation
  follows as for normal scores: rho = sin(pi tau / 2).

  Args:
    alarm: [draws, rounds] discordant pairs -> booleans [draws].
  """
  uniform = np.random.default_rng(0).random((_DRAWS, len(sizes)))
  draw = lambda phi: np.stack(
    [
      np.searchsorted(np.cumsum(mallows(n, phi))[:-1], uniform[:, i], side='right')
      for i, n in enumerate(sizes)
    ],
    -1,
  )
  if not sizes or alarm(draw(1e-9)).mean() < power:
    return None
  low, high = 1e-9, 1.0
  for _ in range(12):
    middle = (low + high) / 2
    low, high = (middle, high) if alarm(draw(middle)).mean() >= power else (low, middle)
  n = max(sizes)
  share = float(mallows(n, low) @ np.arange(n * (n - 1) // 2 + 1)) / (n * (n - 1) / 2)
  return math.sin(math.pi / 2 * (1 - 2 * share))
