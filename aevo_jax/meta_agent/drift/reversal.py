"""Verdicts: does dev still track the external score? One on every stream after every round.

A stream is a family, or overall. The statistics tell no external score:
`stats.concordance.reduce_round` runs where the external scores are, and only its rows leave that
place. `verdicts` judges rows, in this order:

1. reversed: the e-process of the ranks, with e-BH over streams (or the exact test, once, after
   `reversal.exact_rounds` rounds, with Holm over streams).
2. decoupled: the slope of external on dev fell below that of the calibration rounds, in all rounds
   since together or in the latest alone.
3. coupled: the mirrored exact test, over all rounds since calibration: dev and external rank alike.
4. undetermined, and why.

The rates of error are in calibration.py; `coupled` has alpha over all streams and looks, too, if
they are unrelated. Names of streams carry no meaning.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift.calibration import (
  History,
  Row,
  Thresholds,
  distinct,
  history,
  window,
)
from aevo_jax.stats import rank_tests, slope_test
from aevo_jax.stats.slope_test import Fall, Moments


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is found of one stream after one round; `dataclasses.asdict` of it is JSON-able.

  Attributes:
    stream: its name.
    verdict: 'reversed', 'decoupled', 'coupled' or 'undetermined'.
    test: the one that spoke, or came nearest: 'e_process', 'exact', 'slope' (all rounds since
      calibration), 'latest_slope' (the latest alone) or 'concordance'.
    statistic: discordant pairs of the rank tests, Welch's t of the slope tests.
    p_value: of the test, None if it has an e value.
    e_value: of the test, None if it has a p value.
    threshold: what the p value may be at most, or the e value must be at least.
    n: trials that the test looked at.
    slope: external per dev in its window; None where the slopes cannot be compared, like the next
      two.
    reference_slope: of the calibration rounds, scaled by lambda_ratio.
    slope_error: standard error of `slope`.
    lambda_ratio: least reliability of dev now by that in the calibration rounds; None where item
      noise is not known and the reference is not scaled.
    minimum_detectable_effect: detected with the constitution's power by this test at its threshold.
      None if no effect can be detected yet.
    effect: its unit: 'slope_drop', external per dev, of the slope tests; 'correlation' of dev and
      external, the same in all rounds so far, of the rank tests against reversal.
    why: one sentence.
  """

  stream: str
  verdict: str
  test: str
  statistic: float
  p_value: float | None
  e_value: float | None
  threshold: float
  n: int
  slope: float | None
  reference_slope: float | None
  slope_error: float | None
  lambda_ratio: float | None
  minimum_detectable_effect: float | None
  effect: str
  why: str


class _Test(NamedTuple):
  """A test's fields of a verdict."""

  test: str
  statistic: float
  p_value: float | None
  e_value: float | None
  threshold: float
  n: int
  minimum_detectable_effect: float | None
  effect: str


class _RankTest(NamedTuple):
  """A rank test against reversal, and whether it rejects over all streams."""

  rejects: bool
  test: _Test


class _SlopeTest(NamedTuple):
  """The slope's fields of a verdict, the test with the smaller p or None, and why there is none."""

  fields: Mapping[str, float | None]
  test: _Test | None
  why: str


_UNKNOWN = dict.fromkeys(('slope', 'reference_slope', 'slope_error', 'lambda_ratio'))


def verdicts(
  rounds: Sequence[Mapping[str, Row]], rules: Reversal, thresholds: Thresholds
) -> dict[str, Verdict]:
  """Judges the latest of some rounds.

  Args:
    rounds: stream -> row of `reduce_round`, of every round so far.
    rules: of the verdicts.
    thresholds: as `calibration.thresholds` fixed them before the latest.

  Returns:
    stream -> verdict, of every stream that was in any round.

  Raises:
    ValueError: the thresholds are those of another round.
  """
  if thresholds.round != len(rounds):
    raise ValueError(
      f'thresholds of round {thresholds.round} cannot judge round {len(rounds)}; take '
      'calibration.thresholds(rounds[:-1], ...)'
    )
  histories: dict[str, History] = {}
  for rows in rounds:
    for stream in rows:
      if stream not in histories:
        histories[stream] = history(rounds, stream)
  if not histories:
    return {}
  hypotheses = len(distinct(rounds))
  if rules.test == 'exact':
    ranks = _exact(histories, hypotheses, rules)
  else:
    ranks = _e_process(histories, hypotheses, rules, thresholds.planned_rounds)
  slopes = _slopes(histories, rules, thresholds)
  looks = max(thresholds.planned_rounds, len(rounds))
  level = rules.alpha / (hypotheses * looks)
  judged = {}
  for stream, rows in histories.items():
    since = rows[rules.calibration_rounds :]
    agreement = _concordance(_present(since) or _present(rows), level)
    judged[stream] = _judge(stream, ranks[stream], slopes[stream], agreement)
  return judged


class _Pairs(NamedTuple):
  """Trials of each round, and discordant pairs of all."""

  sizes: tuple[int, ...]
  discordant: int


def _together(rows: Sequence) -> _Pairs:
  """The pairs of some rounds that have the stream."""
  sizes = []
  discordant = 0
  for row in rows:
    sizes.append(row.n)
    discordant += row.discordant
  return _Pairs(tuple(sizes), discordant)


def _rounds(histories: Mapping[str, History]) -> int:
  """Rounds so far, which all histories have."""
  return len(next(iter(histories.values())))


def _present(rows: History) -> list:
  """The rounds that have the stream."""
  return [row for row in rows if row]


def _judge(stream: str, ranks: _RankTest, slopes: _SlopeTest, agreement: _Test) -> Verdict:
  """Gives the first verdict, in the order of the module's docstring, that a test supports."""

  def spoken(verdict: str, test: _Test, why: str) -> Verdict:
    return Verdict(stream=stream, verdict=verdict, why=why, **slopes.fields, **test._asdict())

  if ranks.rejects:
    why = 'dev and external rank the trials against each other'
    return spoken('reversed', ranks.test, why)
  fall = slopes.test
  if fall is not None and fall.p_value <= fall.threshold:
    why = 'external rises less with dev than it did in the calibration rounds'
    return spoken('decoupled', fall, why)
  nearest = fall or ranks.test
  if agreement.p_value <= agreement.threshold:
    # What could have been detected is that of the nearest test against a change.
    agreement = agreement._replace(
      minimum_detectable_effect=nearest.minimum_detectable_effect, effect=nearest.effect
    )
    return spoken('coupled', agreement, 'dev and external rank the trials alike')
  why = slopes.why or 'neither a change nor agreement is beyond chance'
  return spoken('undetermined', nearest, why)


def _concordance(rows: Sequence, level: float) -> _Test:
  """The mirrored exact test over some rounds."""
  pairs = _together(rows)
  return _Test(
    test='concordance',
    statistic=pairs.discordant,
    p_value=rank_tests.concordance_p(pairs.discordant, pairs.sizes),
    e_value=None,
    threshold=level,
    n=sum(pairs.sizes),
    minimum_detectable_effect=None,
    effect='',
  )


def _slopes(
  histories: Mapping[str, History], rules: Reversal, thresholds: Thresholds
) -> dict[str, _SlopeTest]:
  """Tests each stream's slope, where there is a reference."""
  done = _rounds(histories)
  calibration = rules.calibration_rounds
  if done <= calibration:
    why = (
      f'round {done} of {calibration} calibration rounds: there is no reference for the slope '
      'before they are over'
    )
    return dict.fromkeys(histories, _SlopeTest(_UNKNOWN, None, why))
  reference = window(histories.values(), 0, calibration)
  significance = slope_test.positive_p(reference)
  windows = {
    'slope': window(histories.values(), calibration, done),
    'latest_slope': window(histories.values(), done - 1, done),
  }
  falls = {test: slope_test.fell(reference, now) for test, now in windows.items()}
  tests = {}
  for i, stream in enumerate(histories):
    possible = [test for test, now in windows.items() if now.comparable[i]]
    why = _no_reference(reference, i, significance[i], rules.alpha)
    if not why and (not possible or thresholds.slope_p is None):
      why = 'too few trials since the calibration rounds, or dev does not differ between them'
    if why:
      tests[stream] = _SlopeTest(_UNKNOWN, None, why)
      continue
    test = min(possible, key=lambda name, i=i: falls[name].p[i])
    fall = Fall(*(field[i] for field in falls[test]))
    tests[stream] = _slope(test, fall, reference, windows[test], i, rules, thresholds.slope_p)
  return tests


def _no_reference(reference: Moments, i: int, significance: float, alpha: float) -> str:
  """Why stream i has no reference; '' if it has one."""
  if not reference.comparable[i]:
    return (
      'no reference: too few trials in the calibration rounds, or dev does not differ between them'
    )
  if reference.reliability[i] == 0:
    return (
      'no reference: in the calibration rounds dev differs between trials no more than its items '
      'explain'
    )
  if significance > alpha:
    return (
      'no reference: the slope of the calibration rounds is not significantly above 0 (p = '
      f'{significance:.2g}, needed {alpha:g})'
    )
  return ''


def _slope(
  test: str,
  fall: Fall,
  reference: Moments,
  now: Moments,
  i: int,
  rules: Reversal,
  critical_p: float,
) -> _SlopeTest:
  """The slope test of stream i, in one window."""
  scaled = not np.isnan(now.reliability[i]) and not np.isnan(reference.reliability[i])
  fields = {
    'slope': float(now.slope[i]),
    'reference_slope': float(fall.ratio * reference.slope[i]),
    'slope_error': float(np.sqrt(now.variance[i])),
    'lambda_ratio': float(fall.ratio) if scaled else None,
  }
  result = _Test(
    test=test,
    statistic=float(fall.statistic),
    p_value=float(fall.p),
    e_value=None,
    threshold=critical_p,
    n=int(now.n[i]),
    minimum_detectable_effect=slope_test.minimum_detectable_drop(fall, critical_p, rules.power),
    effect='slope_drop',
  )
  return _SlopeTest(fields, result, '')


def _e_process(
  histories: Mapping[str, History], hypotheses: int, rules: Reversal, planned_rounds: int
) -> dict[str, _RankTest]:
  """The e-process of every stream, with e-BH over streams."""
  table = np.ones((len(histories), _rounds(histories)))
  for i, rows in enumerate(histories.values()):
    for k, row in enumerate(rows):
      if row:
        table[i, k] = rank_tests.e_value(row.discordant, row.n)
  current = rank_tests.e_process(table, planned_rounds)[:, -1]
  # Streams with the same rows are one hypothesis and enter once.
  once = dict(zip(histories.values(), current, strict=True))
  decisions = rank_tests.e_bh(np.array(list(once.values())), rules.alpha)
  rejected = dict(zip(once, decisions, strict=True))
  needed = hypotheses / (rules.alpha * max(sum(rejected.values()), 1))
  alarm = _Alarm('e_process', planned_rounds, hypotheses / rules.alpha)
  tests = {}
  for (stream, rows), value in zip(histories.items(), current, strict=True):
    test = _pairs(rows, rules.power, alarm)
    test = test._replace(e_value=float(value), threshold=needed)
    tests[stream] = _RankTest(bool(rejected[rows]), test)
  return tests


def _exact(
  histories: Mapping[str, History], hypotheses: int, rules: Reversal
) -> dict[str, _RankTest]:
  """As `_e_process`, of the test that is run once.

  Before `exact_rounds` rounds nothing is rejected, and afterwards its result stands.
  """
  p_values = {}
  for stream, rows in histories.items():
    pairs = _together(_present(rows[: rules.exact_rounds]))
    p_values[stream] = rank_tests.reversal_p(pairs.discordant, pairs.sizes)
  once = dict(zip(histories.values(), p_values.values(), strict=True))
  decisions = rank_tests.holm(np.array(list(once.values())), rules.alpha)
  rejected = dict(zip(once, decisions, strict=True))
  level = rules.alpha / hypotheses
  due = _rounds(histories) >= rules.exact_rounds
  tests = {}
  for stream, rows in histories.items():
    test = _pairs(rows[: rules.exact_rounds], rules.power, _Alarm('exact', 0, level))
    test = test._replace(p_value=p_values[stream], threshold=level)
    tests[stream] = _RankTest(due and bool(rejected[rows]), test)
  return tests


class _Alarm(NamedTuple):
  """When a rank test alarms on one stream: 'e_process' or 'exact', with its threshold."""

  test: str
  planned_rounds: int
  threshold: float


def _pairs(rows: History, power: float, alarm: _Alarm) -> _Test:
  """A rank test's fields, without its p or e value."""
  pairs = _together(_present(rows))
  return _Test(
    test=alarm.test,
    statistic=pairs.discordant,
    p_value=None,
    e_value=None,
    threshold=alarm.threshold,
    n=sum(pairs.sizes),
    minimum_detectable_effect=_detectable(pairs.sizes, power, alarm),
    effect='correlation',
  )


@functools.lru_cache(maxsize=4096)
def _detectable(sizes: tuple[int, ...], power: float, alarm: _Alarm) -> float | None:
  """The weakest reversal that a rank test detects over rounds of these sizes."""

  def e_process(discordant: np.ndarray) -> np.ndarray:
    values = []
    for i, n in enumerate(sizes):
      values.append(rank_tests.e_value(discordant[:, i], n))
    running = rank_tests.e_process(np.stack(values, -1), alarm.planned_rounds)
    return running[:, -1] >= alarm.threshold

  def exact(discordant: np.ndarray) -> np.ndarray:
    critical = rank_tests.critical(sizes, alarm.threshold)
    return discordant.sum(-1) >= (np.inf if critical is None else critical)

  test = e_process if alarm.test == 'e_process' else exact
  return rank_tests.detectable_correlation(sizes, test, power)
