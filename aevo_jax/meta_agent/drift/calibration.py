"""The critical p of the slope test, fixed before the round it judges, by replaying campaigns in
which nothing goes wrong.

A campaign looks at every stream (family or overall) after every round in two windows, so a test at
.05 each would raise an alarm in nearly every campaign. `thresholds` simulates coupled campaigns
with what was measured so far and takes the critical p that alarms in at most alpha of them, over
all streams, looks and windows.

Assumed: scores of one round are jointly normal; the residual spread of external does not change;
item noise of dev is what `item_variance` says, and where that is unknown there is none; dev's
spread follows the measured one, in all streams by the same factor, and stays as last measured in
rounds to come; streams are independent. Families that move together, and overall with them, share
alarms, so that their campaign has fewer. The demand for a significant reference, which can only
prevent alarms, is not replayed. tests/meta_agent/test_calibration.py and
benchmarks/reversal_power.py measure what is left when these fail.

The error of the whole: in a coupled campaign `decoupled` at most alpha by this calibration, and
`reversed` hardly ever, since its null includes every positive association. If dev and external are
unrelated throughout, `reversed` at most alpha by e-BH (by Holm, if the exact test is chosen), and
`decoupled` at most alpha too, since no slope falls: less, because it needs a reference that is
significant by chance. Both bounds are loose there; the benchmark measures the sum.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from aevo_jax.config.constitution import Reversal
from aevo_jax.stats import slope_test
from aevo_jax.stats.slope_test import Moments

_FIELDS = operator.itemgetter('n', 'discordant', 'sxx', 'sxy', 'syy', 'item_variance')
Row = Mapping[
  str, float | None
]  # one stream in one round, as stats.concordance.reduce_round makes it


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """What is fixed before a round.

  Attributes:
    round: the round it is for, counted from 1. planned_rounds: of the campaign.
    slope_p: the slope test alarms at a p of at most this; None where nothing has been measured or
      the calibration rounds are not over.
    replays: simulated campaigns behind it, 0 if none.
  """

  round: int
  planned_rounds: int
  slope_p: float | None
  replays: int


def thresholds(
  rounds_so_far: Sequence[Mapping[str, Row]],
  rules: Reversal,
  planned_rounds: int,
  workers: int,
  seed: int,
) -> Thresholds:
  """Thresholds for the round after `rounds_so_far`, a function of nothing but its arguments;
  streams' names and order do not matter.

  Args:
    rounds_so_far: stream -> row, of each round in order. planned_rounds: of the whole campaign.
    workers: trials a round, of rounds to come. seed: of the replay; take the same one in every
      round, so that thresholds move only with what was measured.
  """
  judged, histories = len(rounds_so_far) + 1, distinct(rounds_so_far)
  if judged <= rules.calibration_rounds or not histories:
    return Thresholds(judged, planned_rounds, None, 0)
  to_come = max(planned_rounds - judged + 1, 1)
  calibration = rules.calibration_rounds
  reference = window(histories, 0, calibration)
  growth = tuple(
    _growth(reference, window(histories, i, i + 1)) for i in range(calibration, judged - 1)
  )
  sizes = [tuple(row[0] if row else 0 for row in h) + (workers,) * to_come for h in histories]
  streams = tuple(sorted(zip(sizes, *(map(float, v) for v in _relation(reference)))))
  growth += (growth[-1] if growth else 1.0,) * to_come
  # With item noise and without, and the stricter of the two: a reliability estimated from few
  # trials may be far too low, and then the replay has no alarms.
  relations = {streams, tuple(sorted((s, 0.0, 0.0) for s, *_ in streams))}
  return Thresholds(
    judged,
    planned_rounds,
    min(_critical_p(r, growth, calibration, rules.alpha, rules.replays, seed) for r in relations),
    rules.replays,
  )


def distinct(rounds: Sequence[Mapping[str, Row]]) -> set[tuple]:
  """Histories of the streams that differ: one with the same rows as another (overall, where there
  is one family) is the same hypothesis.
  """
  return {history(rounds, stream) for stream in {name for rows in rounds for name in rows}}


def history(rounds: Sequence[Mapping[str, Row]], stream: str) -> tuple:
  """A stream's rows as a hashable value, empty tuples where it is missing."""
  return tuple(_FIELDS(rows[stream]) if stream in rows else () for rows in rounds)


def window(histories: Iterable[tuple], start: int, stop: int) -> Moments:
  """[streams] of the rounds start <= round < stop together, counted from 0."""
  rows = np.array(
    [[row or (0,) * 6 for row in h[start:stop]] for h in histories], np.float64
  ).reshape(-1, stop - start, 6)
  n, _, sxx, sxy, syy, item = np.moveaxis(rows, -1, 0)  # an item variance of None is nan
  return Moments(
    n.sum(-1),
    (n > 0).sum(-1),
    sxx.sum(-1),
    sxy.sum(-1),
    syy.sum(-1),
    (np.maximum(n - 1, 0) * item).sum(-1),
  )


def _growth(reference: Moments, now: Moments) -> float:
  """Variance of dev in a round by that of the calibration rounds, over all streams together; to a
  quarter of an octave, since the rest is noise.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    parts, freedom = now.sxx / reference.spread, now.n - now.groups
  use = reference.comparable & (freedom > 0)
  measured = math.fsum(parts[use]) / freedom[use].sum() if use.any() else 1.0
  return 2 ** (round(4 * math.log2(measured)) / 4) if measured > 0 else 1.0


def _relation(reference: Moments) -> tuple[np.ndarray, np.ndarray]:
  """(item noise, latent slope) [streams], in units in which external's own residual variance and
  dev's true variance in the calibration rounds are 1.

  Both 0 where item noise is not known: without it the distribution of p does not depend on the
  slope.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    reliability = reference.reliability
    true_spread = reliability * reference.spread
    residual = reference.variance * reference.sxx
    latent = np.maximum(reference.slope, 0.0) / reliability
    # Item noise in dev adds latent^2 x true spread x (1 - reliability) to the residuals; what is
    # left of them is external's own.
    own = np.maximum(residual - latent**2 * true_spread * (1 - reliability), 0.05 * residual)
    known = reference.comparable & (reliability > 0) & (own > 0)
    return np.where(known, 1 / reliability - 1, 0.0), np.where(
      known, latent * np.sqrt(true_spread / own), 0.0
    )


@functools.lru_cache(maxsize=4096)
def _critical_p(
  streams: tuple, growth: tuple[float, ...], calibration: int, alpha: float, replays: int, seed: int
) -> float:
  """The k-th least of the replays' smallest p, with k so far below alpha x replays that the rate at
  this p is at most alpha with 95% confidence.
  """
  sizes = tuple(s for s, *_ in streams)
  n = np.array(sizes, np.float64)  # [K, R]
  dev_squares, normal, residual_squares = _draws(sizes, replays, seed)
  item, latent = (np.array([s[i] for s in streams])[:, None] for i in (1, 2))
  true_spread = np.maximum(
    np.array([1.0] * calibration + list(growth)) * (1 + item) - item, 0.0
  )  # observed growth less the item noise, which stays
  reliability = true_spread / (true_spread + item + 1e-300)
  residual = 1 + latent**2 * true_spread * (1 - reliability)
  sxx = (true_spread + item) * dev_squares
  sxy = latent * reliability * sxx + np.sqrt(residual * sxx) * normal
  explained = np.divide(sxy**2, sxx, out=np.zeros_like(sxx), where=sxx > 0)
  syy = explained + residual * residual_squares
  every = Moments(
    n,
    (n > 0).astype(float),
    sxx,
    sxy,
    syy,
    item * np.maximum(n - 1, 0) if item.any() else np.full(n.shape, np.nan),
  )
  fields = [np.cumsum(getattr(every, f.name), -1) for f in dataclasses.fields(Moments)]
  between = lambda start, stop: Moments(
    *(f[..., stop - 1] - (f[..., start - 1] if start else 0) for f in fields)
  )
  reference, least = between(0, calibration), np.ones(replays)
  for look in range(calibration, n.shape[1]):
    for start in {calibration, look}:
      least = np.minimum(
        least, slope_test.fell(reference, between(start, look + 1), up_to=alpha).p.min(-1)
      )
  k = max(int(stats.binom.ppf(0.05, replays, alpha)), 1)
  return min(
    float(np.partition(least, k - 1)[k - 1]), alpha
  )  # where no replay has enough trials for a slope, all are 1


@functools.lru_cache(maxsize=2)
def _draws(
  sizes: tuple[tuple[int, ...], ...], replays: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Standard draws [replays, streams, rounds]. Of normal scores the moments themselves are drawn:
  sums of squares are chi-squared, a slope given them normal.
  """
  rng, n = np.random.default_rng(seed), np.array(sizes)
  squares = lambda freedom: (
    2 * rng.standard_gamma(np.broadcast_to(np.maximum(freedom, 0) / 2, (replays, *n.shape)))
  )
  return squares(n - 1), rng.standard_normal((replays, *n.shape)), squares(n - 2)
