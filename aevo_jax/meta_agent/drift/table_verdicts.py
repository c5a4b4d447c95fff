"""Verdicts on a table of candidates, as `aevo replay_ledger` gives them."""

from collections.abc import Iterator, Mapping

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import levels, reversal, score_columns
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.drift.score_table import Column, Round, Table
from aevo_jax.stats import tracking

# Items that a share is taken to count where nobody knows: log-odds of 0 and 1 are finite by them.
_ITEMS = 1000


def judged(table: Table, rules: Reversal, items: int | None) -> Iterator[dict[str, Verdict]]:
  """Judges after every round.

  There is no gain test: a table has neither answers item by item nor replicates of a starting
  recipe, so the other tests have its share of alpha.

  Args:
    table: of candidates.
    rules: the constitution's `reversal` section.
    items: questions behind each family's dev score; None where nobody knows.

  Yields:
    stream -> verdict, for each round.
  """
  scale = _scale(table)
  windows = tracking.Windows(rules.calibration_rounds)
  rows: list[tracking.Rows] = []
  streams = {stream for each in table.rounds for stream in each.dev}
  for number, each in enumerate(table.rounds, 1):
    windows.add(_measured(each, items, scale))
    rows.append(windows.measure(seed=number))
    fixed = levels.fix(
      rules,
      round_=number,
      planned_rounds=len(table.rounds),
      streams=streams,
      with_gains=False,
    )
    yield reversal.verdicts(rows, rules, fixed)


def _scale(table: Table) -> float | None:
  """What a perfect score is, where dev and external are shares or percentages alike; else None."""
  kinds = set()
  columns: list[Column] = []
  for each in table.rounds:
    columns += [*each.dev.values(), each.external]
  scores = [score for column in columns for score in column.values() if score is not None]
  kinds.add(score_columns.scale(scores))
  if kinds == {score_columns.SHARES}:
    return 1.0
  if kinds == {score_columns.PERCENTAGES}:
    return 100.0
  return None


def _measured(each: Round, items: int | None, scale: float | None) -> tracking.Round:
  external = dict.fromkeys(each.dev, each.external)
  if scale is None:
    return tracking.Round(each.dev, external, {})
  return tracking.of_accuracies(
    _shares(each.dev, scale), _shares(external, scale), items, items or _ITEMS
  )


def _shares(columns: Mapping[str, Column], scale: float) -> dict[str, dict[str, float | None]]:
  shares: dict[str, dict[str, float | None]] = {}
  for stream, column in columns.items():
    shares[stream] = {}
    for line, score in column.items():
      shares[stream][str(line)] = None if score is None else score / scale
  return shares
