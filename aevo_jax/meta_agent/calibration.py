"""The critical p of the slope test, fixed before the round it judges, by replaying campaigns in which nothing goes wrong.

A campaign looks at every stream (family or overall) after every round in two windows, so a test at .05 each would raise an alarm in nearly every campaign. `thresholds`
simulates coupled campaigns with what was measured so far and takes the critical p that alarms in at most alpha of them, over all streams, looks and windows.

Assumed: scores of one round are jointly normal; the residual spread of external does not change; item noise of dev is what `item_variance` says, and where that is unknown
there is none; dev's spread follows the measured one, in all streams by the same factor, and stays as last measured in rounds to come; streams are independent. Families that move
together, and overall with them, share alarms, so that their campaign has fewer. The demand for a significant reference, which can only prevent alarms, is not
replayed. tests/meta_agent/test_calibration.py and benchmarks/reversal_power.py measure what is left when these fail.

The error of the whole: in a coupled campaign `decoupled` at most alpha by this calibration, and `reversed` hardly ever, since its null includes every positive association. If dev and
external are unrelated throughout, `reversed` at most alpha by e-BH (by Holm, if the exact test is chosen), and `decoupled` needs a reference that is significant at alpha / streams
by chance and a fall below it that is beyond the critical p; the benchmark gives the sum.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent import slope_test
from aevo_jax.meta_agent.slope_test import Moments

Row = Mapping[str, float | None]  # one stream in one round, as reversal.reduce_round makes it


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """What is fixed before a round.

  Attributes:
    round: the round it is for, counted from 1. planned_rounds: of the campaign.
    slope_p: the slope test alarms at a p of at most this; None where nothing has been measured or the calibration rounds are not over.
    replays: simulated campaigns behind it, 0 if none.
  """

  round: int
  planned_rounds: int
  slope_p: float | None
  replays: int


def thresholds(rounds_so_far: Sequence[Mapping[str, Row]], rules: Reversal, planned_rounds: int, workers: int, seed: int) -> Thresholds:
  """Thresholds for the round after `rounds_so_far`, a function of nothing but its arguments; streams' names and order do not matter.

  Args:
    rounds_so_far: stream -> row, of each round in order. planned_rounds: of the whole campaign.
    workers: trials a round, of rounds to come. seed: of the replay; take the same one in every round, so that thresholds move only with what was measured.
  """
  judged, histories = len(rounds_so_far) + 1, distinct(rounds_so_far)
  if judged <= rules.calibration_rounds or not histories:
    return Thresholds(judged, planned_rounds, None, 0)
  to_come = max(planned_rounds - judged + 1, 1)
  calibration = rules.calibration_rounds
  references = {h: slope_test.pool([moments(row) for row in h[:calibration] if row]) for h in histories}
  growth = tuple(_growth([row for row in rows if row], [references[h] for h, row in zip(references, rows) if row])
                 for rows in zip(*(h[calibration:] for h in references)))
  sizes = lambda h: tuple(row[0] if row else 0 for row in h) + (workers,) * to_come
  streams = tuple(sorted((sizes(h), *_relation(reference)) for h, reference in references.items()))
  growth += (growth[-1] if growth else 1.0,) * to_come
  # With item noise and without, and the stricter of the two: a reliability estimated from few trials may be far too low, and then the replay has no alarms.
  relations = {streams, tuple(sorted((s, 0.0, 0.0) for s, *_ in streams))}
  return Thresholds(judged, planned_rounds, min(_critical_p(r, growth, calibration, rules.alpha, rules.replays, seed) for r in relations), rules.replays)


def distinct(rounds: Sequence[Mapping[str, Row]]) -> set[tuple]:
  """Histories of the streams that differ: one with the same rows as another (overall, where there is one family) is the same hypothesis."""
  return {history(rounds, stream) for stream in {name for rows in rounds for name in rows}}


def history(rounds: Sequence[Mapping[str, Row]], stream: str) -> tuple:
  """A stream's rows as a hashable value, empty tuples where it is missing."""
  fields = ('n', 'discordant', 'sxx', 'sxy', 'syy', 'item_variance')
  return tuple(tuple(rows[stream][f] for f in fields) if stream in rows else () for rows in rounds)


def moments(row: tuple) -> Moments:
  """Of one row of a `history`."""
  n, _, sxx, sxy, syy, item_variance = row
  return Moments(n, 1, sxx, sxy, syy, np.nan if item_variance is None else (n - 1) * item_variance)


def _growth(rows: Sequence[tuple], references: Sequence[Moments]) -> float:
  """Variance of dev in a round by that of the calibration rounds, over all streams together; to a quarter of an octave, since the rest is noise."""
  parts = [(row[2] / float(r.spread), row[0] - 1) for row, r in zip(rows, references) if r.comparable]
  measured = math.fsum(p for p, _ in parts) / sum(f for _, f in parts) if parts else 1.0
  return 2 ** (round(4 * math.log2(measured)) / 4) if measured > 0 else 1.0


def _relation(reference: Moments) -> tuple[float, float]:
  """(item noise, latent slope) of a stream, in units in which external's residual variance and dev's true spread in the calibration rounds are 1.

  Item noise is its variance by that of the true spread. Without it the distribution of p does not depend on the slope.
  """
  reliability = float(reference.reliability)
  if not reference.comparable or math.isnan(reliability) or reliability == 0:
    return 0.0, 0.0
  residual = float(reference.variance * reference.sxx)
  true_spread = reliability * float(reference.spread)
  latent = max(float(reference.slope), 0.0) / reliability
  # Item noise in dev adds latent^2 x true spread x (1 - reliability) to the residuals; what is left of them is external's own.
  own = max(residual - latent**2 * true_spread * (1 - reliability), 0.05 * residual)
  return 1 / reliability - 1, latent * math.sqrt(true_spread / own) if own > 0 else 0.0


@functools.lru_cache(maxsize=4096)
def _critical_p(streams: tuple, growth: tuple[float, ...], calibration: int, alpha: float, replays: int, seed: int) -> float:
  """The k-th least of the replays' smallest p, k = alpha (replays + 1): a further campaign of their kind falls below it with probability at most alpha."""
  rng = np.random.default_rng(seed)
  n = np.array([sizes for sizes, *_ in streams], np.float64)  # [K, R]
  item, latent = (np.array([s[i] for s in streams])[:, None] for i in (1, 2))
  true_spread = np.maximum(np.array([1.0] * calibration + list(growth)) * (1 + item) - item, 0.0)  # observed growth less the item noise, which stays
  reliability = true_spread / (true_spread + item + 1e-300)
  residual = 1 + latent**2 * true_spread * (1 - reliability)
  # Of normal scores the moments themselves are drawn: sums of squares are chi-squared, the slope given them is normal.
  draw = lambda freedom: 2 * rng.standard_gamma(np.broadcast_to(np.maximum(freedom, 0) / 2, (replays, *n.shape)))
  sxx = (true_spread + item) * draw(n - 1)
  sxy = latent * reliability * sxx + np.sqrt(residual * sxx) * rng.standard_normal(sxx.shape)
  explained = np.divide(sxy**2, sxx, out=np.zeros_like(sxx), where=sxx > 0)
  syy = explained + residual * draw(n - 2)
  every = Moments(n, (n > 0).astype(float), sxx, sxy, syy, item * np.maximum(n - 1, 0) if item.any() else np.full(n.shape, np.nan))
  part = lambda start, stop: Moments(*(getattr(every, f.name)[..., start:stop].sum(-1) for f in dataclasses.fields(Moments)))
  reference, least = part(0, calibration), np.ones(replays)
  for look in range(calibration, n.shape[1]):
    for start in {calibration, look}:
      least = np.minimum(least, slope_test.fell(reference, part(start, look + 1), alpha).p.min(-1))
  return float(np.partition(least, kept := max(int(alpha * (replays + 1)) - 1, 0))[kept])
