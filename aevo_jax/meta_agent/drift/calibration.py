"""The critical p of the slope test, fixed before the round it judges.

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
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.stats import slope_test
from aevo_jax.stats.slope_test import Moments

# One stream in one round, as stats.concordance.reduce_round makes it.
Row = Mapping[str, float | None]


class Statistics(NamedTuple):
  """The fields of a row, hashable; see stats.concordance.reduce_round."""

  n: int
  discordant: int
  sxx: float
  sxy: float
  syy: float
  item_variance: float | None


# A stream's rounds in order, None where it is missing.
History = tuple[Statistics | None, ...]


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """What is fixed before a round.

  Attributes:
    round: the round it is for, counted from 1.
    planned_rounds: of the campaign.
    slope_p: the slope test alarms at a p of at most this; None where nothing has been measured or
      the calibration rounds are not over.
    replays: simulated campaigns behind it, 0 if none.
  """

  round: int
  planned_rounds: int
  slope_p: float | None
  replays: int


class _Stream(NamedTuple):
  """A stream as it is replayed.

  Attributes:
    sizes: trials of every round, those to come included.
    item: item noise of dev, in units of dev's true variance in the calibration rounds.
    latent: slope, in units in which external's residual variance is 1 as well.
  """

  sizes: tuple[int, ...]
  item: float
  latent: float


def thresholds(
  rounds_so_far: Sequence[Mapping[str, Row]],
  rules: Reversal,
  planned_rounds: int,
  workers: int,
  seed: int,
) -> Thresholds:
  """Fixes the thresholds for the round after `rounds_so_far`.

  Args:
    rounds_so_far: stream -> row, of each round in order. Streams' names and order do not matter.
    rules: of the verdicts.
    planned_rounds: of the whole campaign.
    workers: trials a round, of rounds to come.
    seed: of the replay; take the same one in every round, so that thresholds move only with what
      was measured.

  Returns:
    Thresholds, a function of nothing but the arguments.
  """
  judged = len(rounds_so_far) + 1
  histories = distinct(rounds_so_far)
  calibration = rules.calibration_rounds
  if judged <= calibration or not histories:
    return Thresholds(judged, planned_rounds, None, 0)
  to_come = max(planned_rounds - judged + 1, 1)
  reference = window(histories, 0, calibration)
  growth = []
  for i in range(calibration, judged - 1):
    growth.append(_growth(reference, window(histories, i, i + 1)))
  growth += [growth[-1] if growth else 1.0] * to_come
  items, latents = _relation(reference)
  noisy = []
  quiet = []
  for history_, item, latent in zip(histories, items, latents, strict=True):
    past = tuple(row.n if row else 0 for row in history_)
    sizes = past + (workers,) * to_come
    noisy.append(_Stream(sizes, float(item), float(latent)))
    quiet.append(_Stream(sizes, 0.0, 0.0))
  # With item noise and without, and the stricter of the two: a reliability estimated from few
  # trials may be far too low, and then the replay has no alarms.
  critical = []
  for streams in {tuple(sorted(noisy)), tuple(sorted(quiet))}:
    replay = _Replay(streams, tuple(growth), calibration, rules.alpha, rules.replays, seed)
    critical.append(_critical_p(replay))
  return Thresholds(judged, planned_rounds, min(critical), rules.replays)


def distinct(rounds: Sequence[Mapping[str, Row]]) -> set[History]:
  """Finds the histories of streams that differ.

  A stream with the same rows as another (overall, where there is one family) is the same
  hypothesis.

  Args:
    rounds: stream -> row, of each round in order.

  Returns:
    The histories, each once.
  """
  streams: set[str] = set()
  for rows in rounds:
    streams.update(rows)
  return {history(rounds, stream) for stream in streams}


def history(rounds: Sequence[Mapping[str, Row]], stream: str) -> History:
  """Collects a stream's rows.

  Args:
    rounds: stream -> row, of each round in order.
    stream: its name.

  Returns:
    A hashable value.
  """
  statistics = []
  for rows in rounds:
    if stream in rows:
      row = rows[stream]
      statistics.append(Statistics(*(row[field] for field in Statistics._fields)))
    else:
      statistics.append(None)
  return tuple(statistics)


def window(histories: Iterable[History], start: int, stop: int) -> Moments:
  """Adds up some rounds.

  Args:
    histories: of the streams.
    start: the first round, counted from 0.
    stop: the round after the last.

  Returns:
    Moments [streams].
  """
  missing = Statistics(0, 0, 0, 0, 0, 0)
  streams = []
  for rows in histories:
    streams.append([row or missing for row in rows[start:stop]])
  table = np.array(streams, np.float64).reshape(-1, stop - start, len(missing))
  # An item variance of None is nan.
  columns = Statistics(*np.moveaxis(table, -1, 0))
  return Moments(
    n=columns.n.sum(-1),
    groups=(columns.n > 0).sum(-1),
    sxx=columns.sxx.sum(-1),
    sxy=columns.sxy.sum(-1),
    syy=columns.syy.sum(-1),
    item=(np.maximum(columns.n - 1, 0) * columns.item_variance).sum(-1),
  )


def _growth(reference: Moments, now: Moments) -> float:
  """Variance of dev in a round by that of the calibration rounds, over all streams together.

  It is rounded to a quarter of an octave, since the rest is noise.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    parts = now.sxx / reference.spread
  freedom = now.n - now.groups
  use = reference.comparable & (freedom > 0)
  if not use.any():
    return 1.0
  measured = math.fsum(parts[use]) / freedom[use].sum()
  if not measured > 0:
    return 1.0
  return 2 ** (round(4 * math.log2(measured)) / 4)


def _relation(reference: Moments) -> tuple[np.ndarray, np.ndarray]:
  """(item noise, latent slope) [streams], in the units of `_Stream`.

  Both are 0 where item noise is not known: without it the distribution of p does not depend on the
  slope.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    reliability = reference.reliability
    true_spread = reliability * reference.spread
    residual = reference.variance * reference.sxx
    latent = np.maximum(reference.slope, 0.0) / reliability
    # Item noise in dev adds latent^2 x true spread x (1 - reliability) to the residuals; what is
    # left of them is external's.
    external = np.maximum(residual - latent**2 * true_spread * (1 - reliability), 0.05 * residual)
    known = reference.comparable & (reliability > 0) & (external > 0)
    item = np.where(known, 1 / reliability - 1, 0.0)
    return item, np.where(known, latent * np.sqrt(true_spread / external), 0.0)


class _Replay(NamedTuple):
  """Coupled campaigns to simulate.

  Attributes:
    streams: K of them.
    growth: of dev's variance in every round after the calibration rounds.
    calibration: rounds.
    alpha: of the campaign.
    replays: how many campaigns.
    seed: of the samples.
  """

  streams: tuple[_Stream, ...]
  growth: tuple[float, ...]
  calibration: int
  alpha: float
  replays: int
  seed: int


@functools.lru_cache(maxsize=4096)
def _critical_p(replay: _Replay) -> float:
  """The k-th least of the replays' smallest p.

  k is so far below alpha x replays that the rate at this p is at most alpha with 95% confidence.
  """
  moments = _moments(replay)
  cumulated = {}
  for field in dataclasses.fields(Moments):
    cumulated[field.name] = np.cumsum(getattr(moments, field.name), -1)

  def between(start: int, stop: int) -> Moments:
    """Moments of the rounds start <= round < stop."""
    sums = {}
    for name, field in cumulated.items():
      before = field[..., start - 1] if start else 0
      sums[name] = field[..., stop - 1] - before
    return Moments(**sums)

  from scipy import stats  # noqa: PLC0415  a second of start-up, for those who calibrate

  reference = between(0, replay.calibration)
  least = np.ones(replay.replays)
  for look in range(replay.calibration, moments.n.shape[1]):
    for start in {replay.calibration, look}:
      fall = slope_test.fell(reference, between(start, look + 1), up_to=replay.alpha)
      least = np.minimum(least, fall.p.min(-1))
  k = max(int(stats.binom.ppf(0.05, replay.replays, replay.alpha)), 1)
  # Where no replay has enough trials for a slope, all are 1.
  return min(float(np.partition(least, k - 1)[k - 1]), replay.alpha)


def _moments(replay: _Replay) -> Moments:
  """[replays, streams, rounds] moments of each round; n and groups [streams, rounds]."""
  sizes = tuple(stream.sizes for stream in replay.streams)
  n = np.array(sizes, np.float64)  # [K, R]
  samples = _draws(sizes, replay.replays, replay.seed)
  item = np.array([stream.item for stream in replay.streams])[:, None]
  latent = np.array([stream.latent for stream in replay.streams])[:, None]
  # Observed growth less the item noise, which stays.
  observed = np.array([1.0] * replay.calibration + list(replay.growth)) * (1 + item)
  true_spread = np.maximum(observed - item, 0.0)
  reliability = true_spread / (true_spread + item + 1e-300)
  residual = 1 + latent**2 * true_spread * (1 - reliability)
  sxx = (true_spread + item) * samples.dev_squares
  sxy = latent * reliability * sxx + np.sqrt(residual * sxx) * samples.normal
  explained = np.divide(sxy**2, sxx, out=np.zeros_like(sxx), where=sxx > 0)
  syy = explained + residual * samples.residual_squares
  item_squares = np.full(n.shape, np.nan)
  if item.any():
    item_squares = item * np.maximum(n - 1, 0)
  return Moments(n, (n > 0).astype(float), sxx, sxy, syy, item_squares)


class _Samples(NamedTuple):
  """Standard samples, [replays, streams, rounds] each."""

  dev_squares: np.ndarray
  normal: np.ndarray
  residual_squares: np.ndarray


@functools.lru_cache(maxsize=2)
def _draws(sizes: tuple[tuple[int, ...], ...], replays: int, seed: int) -> _Samples:
  """Samples the moments of normal scores: sums of squares are chi-squared, a slope is normal."""
  rng = np.random.default_rng(seed)
  n = np.array(sizes)
  shape = (replays, *n.shape)

  def squares(freedom: np.ndarray) -> np.ndarray:
    return 2 * rng.standard_gamma(np.broadcast_to(np.maximum(freedom, 0) / 2, shape))

  dev_squares = squares(n - 1)
  normal = rng.standard_normal(shape)
  return _Samples(dev_squares, normal, squares(n - 2))
