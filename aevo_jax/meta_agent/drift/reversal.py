"""Verdicts: does dev still track the external score? One on every stream after every round.

A stream is a family, or overall. `stats.tracking.measure` runs where the external scores are, and
only its rows leave that place. `verdicts` judges rows, in this order:

1. reversed: the e-process of the ranks, with e-BH over streams (or the exact test, once, after
   `reversal.exact_rounds` rounds, with Holm over streams).
2. gaining_nothing: dev gained over the starting recipe, and external by less than
   `reversal.transfer` of it. This one sees a flaw that all trials of a round share.
3. decoupled: the slope of external on dev fell below that of the calibration rounds, in all rounds
   since together.
4. coupled: the mirrored exact test, over all rounds since calibration: dev and external rank alike.
5. undetermined, and why.

The levels are in levels.py; `coupled` is no alarm and has alpha over all streams and looks, if dev
and external are unrelated. Names of streams carry no meaning.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import ranks
from aevo_jax.meta_agent.drift.levels import OVERALL, Levels
from aevo_jax.meta_agent.drift.ranks import History, RankTest
from aevo_jax.stats import gain_test, slope_test

ALARMS = ('reversed', 'gaining_nothing', 'decoupled')

# One stream in one round, as `stats.tracking.measure` makes it.
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is found of one stream after one round; `dataclasses.asdict` of it is JSON-able.

  Attributes:
    stream: its name.
    verdict: 'reversed', 'gaining_nothing', 'decoupled', 'coupled' or 'undetermined'.
    test: the one that spoke, or came nearest: 'e_process', 'exact', 'gain', 'slope' or
      'concordance'; in earlier ledgers also 'latest_slope'.
    statistic: discordant pairs of the rank tests, Student's t of the others.
    p_value: of the test, None if it has an e value.
    e_value: of the test, None if it has a p value.
    threshold: what the p value may be at most, or the e value must be at least.
    n: trials that the test looked at.
    slope: external per dev since calibration, of log-odds where the scores are accuracies; None
      where the slopes cannot be compared, like the next two.
    reference_slope: of the calibration rounds, scaled by lambda_ratio.
    slope_error: standard error of their difference.
    lambda_ratio: least reliability of dev now by that in the calibration rounds; None where item
      noise is not known and the reference is not scaled.
    minimum_detectable_effect: detected with the constitution's power by this test at its threshold.
      None if no effect can be detected yet.
    effect: its unit: 'dev_gain' in accuracy, where external gains nothing; 'slope_drop', external
      per dev; or 'correlation' of dev and external, the same in all rounds so far.
    why: one sentence.
    dev_gain: of the round's trials over the starting recipe; None without a gain test.
    external_gain: likewise.
    detectable: effect -> what each test detects with the constitution's power in this round; None
      where it detects nothing.
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
  dev_gain: float | None = None
  external_gain: float | None = None
  detectable: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


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

  @property
  def rejects(self) -> bool:
    """Whether the p value reaches the threshold."""
    return self.p_value is not None and self.p_value <= self.threshold


def verdicts(
  rounds: Sequence[Mapping[str, Row]], rules: Reversal, levels: Levels
) -> dict[str, Verdict]:
  """Judges the latest of some rounds.

  Args:
    rounds: stream -> row of `stats.tracking.measure`, of every round so far.
    rules: of the verdicts.
    levels: as `levels.fix` fixed them before the latest.

  Returns:
    stream -> verdict, of every stream that was in any round.

  Raises:
    ValueError: the levels are those of another round.
  """
  if levels.round != len(rounds):
    raise ValueError(
      f'levels of round {levels.round} cannot judge round {len(rounds)}; fix them for that round'
    )
  histories: dict[str, History] = {}
  for rows in rounds:
    for stream in rows:
      if stream not in histories:
        histories[stream] = ranks.history(rounds, stream)
  if not histories:
    return {}
  # Overall beside a single family is that family once more, and no hypothesis of its own.
  twin = OVERALL if len(histories) == 2 and OVERALL in histories else None
  distinct = {stream: rows for stream, rows in histories.items() if stream != twin}
  tests = ranks.reversal(distinct, rules, levels)
  if twin is not None:
    tests[twin] = next(iter(tests.values()))
  level = rules.alpha / (levels.streams * max(levels.planned_rounds, len(rounds)))
  judged = {}
  for stream, rows in histories.items():
    since = rows[rules.calibration_rounds :]
    agreement = ranks.agreement(since if any(since) else rows, level)
    row = rounds[-1].get(stream, {})
    judged[stream] = _judge(stream, row, tests[stream], agreement, rules, levels)
  return judged


def _judge(
  stream: str, row: Row, rank: RankTest, agreement: RankTest, rules: Reversal, levels: Levels
) -> Verdict:
  """Gives the first verdict, in the order of the module's docstring, that a test supports."""
  reversal = _of_ranks(rank)
  gain = _gain(row, rules, levels)
  fall = _slope(row, rules, levels)
  fields = _fields(row) | {
    'detectable': {
      'dev_gain': gain and gain.minimum_detectable_effect,
      'slope_drop': fall and fall.minimum_detectable_effect,
      'correlation': rank.correlation,
    }
  }

  def spoken(verdict: str, test: _Test, why: str) -> Verdict:
    return Verdict(stream=stream, verdict=verdict, why=why, **fields, **test._asdict())

  if rank.rejects:
    return spoken('reversed', reversal, 'dev and external rank the trials against each other')
  if gain is not None and gain.rejects:
    why = f'dev gained over the starting recipe, and external less than {rules.transfer:g} of it'
    return spoken('gaining_nothing', gain, why)
  if fall is not None and fall.rejects:
    why = 'external rises less with dev than it did in the calibration rounds'
    return spoken('decoupled', fall, why)
  nearest = _nearest(gain, fall) or reversal
  if agreement.rejects:
    # What could have been detected is that of the nearest test against a change.
    alike = _of_ranks(agreement)._replace(
      minimum_detectable_effect=nearest.minimum_detectable_effect, effect=nearest.effect
    )
    return spoken('coupled', alike, 'dev and external rank the trials alike')
  why = 'neither a change nor agreement is beyond chance'
  if fall is None:
    why = row.get('slope', {}).get('why') or why
  return spoken('undetermined', nearest, why)


def _nearest(*tests: _Test | None) -> _Test | None:
  """The test whose p value comes nearest to its threshold."""
  made = [test for test in tests if test is not None]
  return min(made, key=lambda test: test.p_value / test.threshold, default=None)


def _of_ranks(test: RankTest) -> _Test:
  return _Test(
    test=test.test,
    statistic=test.discordant,
    p_value=test.p_value,
    e_value=test.e_value,
    threshold=test.threshold,
    n=test.n,
    minimum_detectable_effect=test.correlation,
    effect='correlation',
  )


def _gain(row: Row, rules: Reversal, levels: Levels) -> _Test | None:
  """The gain test's fields; None where there is none."""
  found = row.get('gain', {})
  if 'p' not in found or levels.gain_p is None:
    return None
  gain = gain_test.Gain(**{name: found[name] for name in gain_test.Gain._fields})
  return _Test(
    test='gain',
    statistic=(gain.external - found['transfer'] * gain.dev) / gain.error,
    p_value=gain.p,
    e_value=None,
    threshold=levels.gain_p,
    n=found['n'],
    minimum_detectable_effect=gain_test.minimum_detectable_gain(gain, levels.gain_p, rules.power),
    effect='dev_gain',
  )


def _slope(row: Row, rules: Reversal, levels: Levels) -> _Test | None:
  """The slope test's fields; None where there is none."""
  found = row.get('slope', {})
  if 'p' not in found or levels.slope_p is None:
    return None
  drop = found['reference'] - found['slope']
  error = found['error']
  fall = slope_test.Fall(found['p'], 0.0, found['freedom'], drop, error, 1.0)
  return _Test(
    test='slope',
    statistic=drop / error if error else 0.0,
    p_value=fall.p,
    e_value=None,
    threshold=levels.slope_p,
    n=found['n'],
    minimum_detectable_effect=slope_test.minimum_detectable_drop(fall, levels.slope_p, rules.power),
    effect='slope_drop',
  )


def _fields(row: Row) -> dict[str, Any]:
  """Slopes and gains, None where they are not known."""
  slope = row.get('slope', {})
  gain = row.get('gain', {})
  return {
    'slope': slope.get('slope'),
    'reference_slope': slope.get('reference'),
    'slope_error': slope.get('error'),
    'lambda_ratio': slope.get('ratio'),
    'dev_gain': gain.get('dev'),
    'external_gain': gain.get('external'),
  }
