"""The rank tests of the verdicts, over all streams: reversal by e-process or exactly, agreement."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift.levels import Levels
from aevo_jax.stats import rank_tests
from aevo_jax.stats.prefixes import Prefixes


class Pairs(NamedTuple):
  """A stream's trials and discordant pairs in one round."""

  n: int
  discordant: int


# A stream's rounds in order, None where it is missing.
History = tuple[Pairs | None, ...]


class RankTest(NamedTuple):
  """A rank test of one stream.

  Attributes:
    rejects: whether it alarms, over all streams.
    test: 'e_process', 'exact' or 'concordance'.
    discordant: pairs of all its rounds.
    n: trials of all its rounds.
    p_value: None if it has an e value.
    e_value: None if it has a p value.
    threshold: of the p or e value.
    correlation: the weakest, the same in all rounds so far, that it detects with the constitution's
      power; None where it detects none.
  """

  rejects: bool
  test: str
  discordant: int
  n: int
  p_value: float | None
  e_value: float | None
  threshold: float
  correlation: float | None


def history(rounds: Sequence[Mapping], stream: str) -> History:
  """Collects a stream's pairs.

  Args:
    rounds: stream -> row of `stats.tracking.measure`, of each round in order.
    stream: its name.

  Returns:
    A hashable value.
  """
  pairs = []
  for rows in rounds:
    row = rows.get(stream)
    pairs.append(None if row is None else Pairs(row['n'], row['discordant']))
  return tuple(pairs)


def reversal(
  histories: Mapping[str, History], rules: Reversal, levels: Levels
) -> dict[str, RankTest]:
  """Tests whether dev and external rank against each other.

  Args:
    histories: of streams that all differ.
    rules: which test.
    levels: its level.

  Returns:
    stream -> test.
  """
  if rules.test == 'exact':
    return _exact(histories, rules, levels)
  return _e_process(histories, rules, levels)


def agreement(rows: History, level: float) -> RankTest:
  """Tests whether dev and external rank alike: the mirrored exact test.

  Args:
    rows: of one stream.
    level: of this test.

  Returns:
    The test.
  """
  sizes, discordant = _together(rows)
  p_value = rank_tests.concordance_p(discordant, sizes)
  return RankTest(
    p_value <= level, 'concordance', discordant, sum(sizes), p_value, None, level, None
  )


def _together(rows: History) -> tuple[tuple[int, ...], int]:
  """Trials of each round that has the stream, and discordant pairs of all."""
  present = [row for row in rows if row is not None]
  return tuple([row.n for row in present]), sum(row.discordant for row in present)


def _e_process(
  histories: Mapping[str, History], rules: Reversal, levels: Levels
) -> dict[str, RankTest]:
  running = _running(levels.planned_rounds)
  unspent = max(levels.planned_rounds - levels.round, 0) / levels.planned_rounds
  current = np.array([running(rows) + unspent for rows in histories.values()])
  alpha = levels.ranks_alpha
  decisions = rank_tests.e_bh(current, alpha, levels.streams)
  needed = levels.streams / (alpha * max(sum(decisions), 1))
  alone = _Alarm('e_process', levels.planned_rounds, levels.streams / alpha)
  tests = {}
  for (stream, rows), value, rejects in zip(histories.items(), current, decisions, strict=True):
    sizes, discordant = _together(rows)
    weakest = _detectable(sizes, rules.power, alone)
    tests[stream] = RankTest(
      bool(rejects), 'e_process', discordant, sum(sizes), None, float(value), needed, weakest
    )
  return tests


@functools.lru_cache(maxsize=4)
def _running(planned_rounds: int) -> Prefixes[float]:
  """The e-process of a history, see `rank_tests.e_process`, without the stakes to come."""

  def step(betting: float, row: Pairs | None, place: int) -> float:
    stake = betting + (place < planned_rounds) / planned_rounds
    value = 1.0 if row is None else float(rank_tests.e_value(row.discordant, row.n))
    return min(stake * value, rank_tests.LARGEST)

  return Prefixes(0.0, step)


def _exact(
  histories: Mapping[str, History], rules: Reversal, levels: Levels
) -> dict[str, RankTest]:
  """The test that is run once, after `exact_rounds`. Its result stands from then on."""
  together = {s: _together(rows[: rules.exact_rounds]) for s, rows in histories.items()}
  p_values = [rank_tests.reversal_p(pairs, sizes) for sizes, pairs in together.values()]
  decisions = rank_tests.holm(np.array(p_values), levels.ranks_alpha)
  level = levels.ranks_alpha / levels.streams
  due = levels.round >= rules.exact_rounds
  tests = {}
  for (stream, both), p_value, rejects in zip(together.items(), p_values, decisions, strict=True):
    sizes, discordant = both
    weakest = _detectable(sizes, rules.power, _Alarm('exact', 0, level))
    tests[stream] = RankTest(
      due and bool(rejects), 'exact', discordant, sum(sizes), p_value, None, level, weakest
    )
  return tests


class _Alarm(NamedTuple):
  """When a rank test alarms on one stream: 'e_process' or 'exact', with its threshold."""

  test: str
  planned_rounds: int
  threshold: float


def detectable(sizes: tuple[int, ...], rules: Reversal, levels: Levels) -> float | None:
  """Finds the weakest reversal that the constitution's test detects over rounds of these sizes.

  Args:
    sizes: trials of each round.
    rules: which test, and its power.
    levels: of the last of the rounds.

  Returns:
    A correlation in [-1, 0], the same in all rounds; None where not even -1 is detected.
  """
  if rules.test == 'exact':
    alarm = _Alarm('exact', 0, levels.ranks_alpha / levels.streams)
    return _detectable(sizes[: rules.exact_rounds], rules.power, alarm)
  threshold = levels.streams / levels.ranks_alpha
  return _detectable(sizes, rules.power, _Alarm('e_process', levels.planned_rounds, threshold))


@functools.lru_cache(maxsize=4096)
def _detectable(sizes: tuple[int, ...], power: float, alarm: _Alarm) -> float | None:
  if alarm.test == 'e_process':
    return rank_tests.detectable_by_e_process(sizes, alarm.planned_rounds, alarm.threshold, power)

  def exact(discordant: np.ndarray) -> np.ndarray:
    critical = rank_tests.critical(sizes, alarm.threshold)
    return discordant.sum(-1) >= (np.inf if critical is None else critical)

  return rank_tests.detectable_correlation(sizes, exact, power)
