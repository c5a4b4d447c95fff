"""Rank tests of dev against external: the Mahonian null, the exact test, e-values, e-BH and Holm.

Two rankings of n trials disagree on some of the n (n - 1) / 2 pairs. If the rankings are unrelated,
the number of such discordant pairs has the Mahonian distribution of n (the inversions of a random
permutation), and over independent rounds the convolution of those. Many discordant pairs: dev is
reversed. Few: dev and external rank alike.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from aevo_jax.stats.prefixes import Prefixes

# Alternatives that a round's e-value bets on in equal parts: Mallows models that favour reversed
# rankings.
PHIS = (0.3, 0.5, 0.7, 0.85)
# The largest bet that is paid: products of bets must not overflow.
LARGEST = math.exp(300.0)
# Samples of the power behind a detectable correlation.
_SAMPLES = 1000


@functools.cache
def mahonian(n: int) -> tuple[int, ...]:
  """Counts the permutations of n by their number of inversions 0 ... n (n - 1) / 2.

      >>> mahonian(3)
      (1, 2, 2, 1)

  Args:
    n: items that are ranked, 1 or more.

  Returns:
    The counts, which add up to n!.
  """
  counts = [1]
  for i in range(2, n + 1):
    sums = [0, *itertools.accumulate(counts)]
    following = []
    for k in range(len(counts) + i - 1):
      following.append(sums[min(k + 1, len(counts))] - sums[max(0, k - i + 1)])
    counts = following
  return tuple(counts)


def null(sizes: tuple[int, ...]) -> np.ndarray:
  """Computes the probabilities of 0, 1, ... discordant pairs in all, over independent rounds.

      >>> null((2, 2)).tolist()
      [0.25, 0.5, 0.25]

  Args:
    sizes: trials of each round.

  Returns:
    [pairs + 1] probabilities.
  """
  return _nulls(sizes)


@functools.cache
def _one_round(n: int) -> np.ndarray:
  return np.array([count / math.factorial(n) for count in mahonian(n)])


_nulls = Prefixes(np.ones(1), lambda total, n, _: np.convolve(total, _one_round(n)))


def reversal_p(discordant: int, sizes: Sequence[int]) -> float:
  """Computes P(as many discordant pairs or more) if dev and external are unrelated.

      >>> reversal_p(3, [3])
      0.16666666666666666

  Args:
    discordant: pairs over all rounds.
    sizes: trials of each round.

  Returns:
    An exact one-sided p value.
  """
  return min(float(null(tuple(sizes))[discordant:].sum()), 1.0)


def concordance_p(discordant: int, sizes: Sequence[int]) -> float:
  """Computes P(as few discordant pairs or fewer): the mirrored test.

      >>> concordance_p(0, [3])
      0.16666666666666666

  Args:
    discordant: pairs over all rounds.
    sizes: trials of each round.

  Returns:
    An exact one-sided p value.
  """
  return reversal_p(sum(n * (n - 1) // 2 for n in sizes) - discordant, sizes)


def critical(sizes: Sequence[int], alpha: float) -> int | None:
  """Finds the least number of discordant pairs with a `reversal_p` of at most alpha.

      >>> critical([4], 0.05), critical([2], 0.05)
      (6, None)

  Args:
    sizes: trials of each round.
    alpha: level.

  Returns:
    The number; None if not even all pairs are enough.
  """
  pairs = sum(n * (n - 1) // 2 for n in sizes)
  for discordant in range(pairs + 1):
    if reversal_p(discordant, sizes) <= alpha:
      return discordant
  return None


def mallows(n: int, phi: float) -> np.ndarray:
  """Computes the probabilities of 0, 1, ... discordant pairs under a Mallows model (1957).

  A ranking has probability phi^concordant / Z(phi): phi = 1 is chance, phi -> 0 a full reversal.

      >>> mallows(2, 0.5).round(3).tolist()
      [0.333, 0.667]

  Args:
    n: trials.
    phi: in (0, 1].

  Returns:
    [pairs + 1] probabilities.
  """
  concordant = np.ones(1)
  for i in range(2, n + 1):
    # The i-th trial agrees with 0 ... i - 1 of those before it.
    agrees = phi ** np.arange(i)
    concordant = np.convolve(concordant, agrees / agrees.sum())
  return concordant[::-1]


@functools.cache
def _e_values(n: int) -> np.ndarray:
  """[pairs + 1]: the e-value of each number of discordant pairs."""
  concordant = np.arange(n * (n - 1) // 2, -1, -1)
  bets = []
  for phi in PHIS:
    log_z = sum(math.log((1 - phi**i) / (1 - phi)) for i in range(1, n + 1))
    bets.append(math.lgamma(n + 1) + concordant * math.log(phi) - log_z)
  return np.exp(np.minimum(bets, math.log(LARGEST))).mean(0)


def e_value(discordant: int | np.ndarray, n: int) -> np.ndarray:
  """Computes the mean over `PHIS` of n! phi^concordant / Z(phi) (Vovk and Wang, 1912.06116).

  Z = prod_{i <= n} (1 - phi^i) / (1 - phi). The expectation is 1 if dev and external are unrelated,
  and at most 1 if they agree more than by chance. For n = 8 the value is at most 1,100, and 20 from
  24 of 28 discordant pairs on.

      >>> float(e_value(28, 8)) > 1000
      True

  Args:
    discordant: pairs of one round, of any shape.
    n: trials of the round.

  Returns:
    E-values of the shape of `discordant`.
  """
  return _e_values(n)[discordant]


def e_process(e_values: np.ndarray, planned_rounds: int) -> np.ndarray:
  """Computes the running bet that a reversal began in some round, all with the same stake.

      E_t = (sum_{s <= t} prod_{s <= i <= t} e_i + planned_rounds - t) / planned_rounds

  This is a mixture of the products that start at round s and stand at 1 before. A single product
  from round 1 on is ruined by the rounds before a reversal: three in good agreement leave it at
  about 1e-5. P(E_t >= 1 / alpha for any t) <= alpha if dev and external are unrelated (Ville 1939).

      >>> e_process(np.array([1.0, 4.0]), 2).tolist()
      [1.0, 4.0]

  Args:
    e_values: [..., rounds] of each round, 1 where nothing was seen.
    planned_rounds: rounds with a stake. Rounds beyond them place no stake.

  Returns:
    [..., rounds], after each round.
  """
  betting = np.zeros(e_values.shape[:-1])
  after = []
  for t in range(e_values.shape[-1]):
    starts = t < planned_rounds
    stakes = (betting + starts / planned_rounds) * e_values[..., t]
    betting = np.minimum(stakes, LARGEST)
    after.append(betting + max(planned_rounds - t - 1, 0) / planned_rounds)
  return np.stack(after, -1)


def e_bh(e_values: np.ndarray, alpha: float, hypotheses: int | None = None) -> np.ndarray:
  """Applies e-BH (Wang and Ramdas, 2009.02824).

  It rejects the k largest, for the largest k with a k-th e-value of hypotheses / (k alpha) or more.
  The false discovery rate is at most alpha under any dependence. If every null is true, so is the
  probability of any rejection.

      >>> e_bh(np.array([50.0, 1.0]), 0.05).tolist()
      [True, False]

  Args:
    e_values: [..., streams].
    alpha: level.
    hypotheses: how many of the streams differ; all, if None.

  Returns:
    Booleans [..., streams].
  """
  order = -np.sort(-e_values, axis=-1)
  needed = (hypotheses or e_values.shape[-1]) / (alpha * np.arange(1, e_values.shape[-1] + 1))
  enough = np.where(order >= needed, order, np.inf).min(axis=-1, keepdims=True)
  return e_values >= enough


def holm(p_values: np.ndarray, alpha: float) -> np.ndarray:
  """Applies the step-down test of Holm (1979).

  The probability of any false rejection is at most alpha under any dependence.

      >>> holm(np.array([0.01, 0.04, 0.2]), 0.05).tolist()
      [True, False, False]

  Args:
    p_values: [streams].
    alpha: level.

  Returns:
    Booleans [streams].
  """
  order = np.argsort(p_values, kind='stable')
  rejected = np.zeros(len(p_values), bool)
  for step, index in enumerate(order):
    if p_values[index] > alpha / (len(p_values) - step):
      break
    rejected[index] = True
  return rejected


def detectable_correlation(
  sizes: Sequence[int], alarm: Callable[[np.ndarray], np.ndarray], power: float
) -> float | None:
  """Finds the weakest negative correlation, the same in all rounds, that an alarm detects.

  Rankings follow a Mallows model. The correlation follows from its expected share of discordant
  pairs as for normal scores: rho = sin(pi tau / 2).

      >>> detectable_correlation([8], lambda pairs: pairs.sum(-1) >= 29, 0.8) is None
      True

  Args:
    sizes: trials of each round.
    alarm: discordant pairs [samples, rounds] -> booleans [samples].
    power: probability with which the alarm is raised.

  Returns:
    A correlation in [-1, 0]; None if the alarm does not even detect -1.
  """
  uniform = np.random.default_rng(0).random((_SAMPLES, len(sizes)))

  def sample(phi: float) -> np.ndarray:
    """[samples, rounds] discordant pairs."""
    rounds = []
    for i, n in enumerate(sizes):
      cumulative = np.cumsum(mallows(n, phi))[:-1]
      rounds.append(np.searchsorted(cumulative, uniform[:, i], side='right'))
    return np.stack(rounds, -1)

  if not sizes or alarm(sample(1e-9)).mean() < power:
    return None
  low = 1e-9
  high = 1.0
  for _ in range(12):
    middle = (low + high) / 2
    if alarm(sample(middle)).mean() >= power:
      low = middle
    else:
      high = middle
  n = max(sizes)
  share = float(mallows(n, low) @ np.arange(n * (n - 1) // 2 + 1)) / (n * (n - 1) / 2)
  return math.sin(math.pi / 2 * (1 - 2 * share))


# Mallows models among which the weakest that an e-process detects is looked for, from phi = 1 down.
_MODELS = 1 - np.linspace(0, 1, 65) ** 2 * (1 - 1e-9)


def detectable_by_e_process(
  sizes: tuple[int, ...], planned_rounds: int, threshold: float, power: float
) -> float | None:
  """Finds the weakest negative correlation, the same in all rounds, that the e-process detects.

  As `detectable_correlation`, but by simulations that go on where those of one round fewer ended.

      >>> detectable_by_e_process((8,), 1, 1e9, 0.8) is None
      True

  Args:
    sizes: trials of each round.
    planned_rounds: as in `e_process`.
    threshold: of the e-process after the last of these rounds.
    power: probability with which it is reached.

  Returns:
    A correlation in [-1, 0]; None if not even -1 is detected.
  """
  if not sizes:
    return None
  unspent = max(planned_rounds - len(sizes), 0) / planned_rounds
  found = (_bets(planned_rounds)(sizes) + unspent >= threshold).mean(-1)
  if found[-1] < power:
    return None
  place = int(np.argmax(found >= power))
  phi = _MODELS[place]
  if place:
    between = (power - found[place - 1]) / (found[place] - found[place - 1])
    phi = _MODELS[place - 1] + between * (_MODELS[place] - _MODELS[place - 1])
  n = max(sizes)
  share = float(mallows(n, float(phi)) @ np.arange(n * (n - 1) // 2 + 1)) / (n * (n - 1) / 2)
  return math.sin(math.pi / 2 * (1 - 2 * share))


@functools.lru_cache(maxsize=4)
def _bets(planned_rounds: int) -> Prefixes[np.ndarray]:
  """Simulated e-processes, [models, samples], without the stakes of rounds to come."""

  def step(betting: np.ndarray, n: int, place: int) -> np.ndarray:
    uniform = np.random.default_rng(place).random(_SAMPLES)
    discordant = np.stack([np.searchsorted(row, uniform, side='right') for row in _cumulative(n)])
    stakes = betting + (place < planned_rounds) / planned_rounds
    return np.minimum(stakes * e_value(discordant, n), LARGEST)

  return Prefixes(np.zeros((len(_MODELS), _SAMPLES)), step)


@functools.lru_cache(maxsize=256)
def _cumulative(n: int) -> np.ndarray:
  """[models, pairs] probabilities of at most so many discordant pairs."""
  return np.stack([np.cumsum(mallows(n, float(phi)))[:-1] for phi in _MODELS])
