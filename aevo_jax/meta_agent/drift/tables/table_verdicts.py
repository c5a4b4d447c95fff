"""Verdicts on a table of candidates, as `aevo replay_ledger` gives them."""

from collections.abc import Iterator, Mapping

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import levels, reversal
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.meta_agent.drift.tables.score_table import Column, Round, Table
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

  Raises:
    TableError: items are given, and scores are no shares of right answers.
  """
  if items is not None:
    table.check_items()
  windows = tracking.Windows(rules.calibration_rounds)
  rows: list[tracking.Rows] = []
  streams = {stream for each in table.rounds for stream in each.dev}
  for number, each in enumerate(table.rounds, 1):
    windows.add(_measured(table, each, items))
    rows.append(windows.measure(seed=number))
    fixed = levels.fix(
      rules,
      round_=number,
      planned_rounds=len(table.rounds),
      streams=streams,
      with_gains=False,
    )
    yield reversal.verdicts(rows, rules, fixed)


def _measured(table: Table, each: Round, items: int | None) -> tracking.Round:
  """A round as it is measured: log-odds of accuracies, other scores as they are."""
  if table.perfect is None:
    return tracking.Round(_named(each.dev), _outside(each.dev, each.external), {})
  dev, external = table.shares(each)
  return tracking.of_accuracies(_named(dev), _outside(dev, external), items, items or _ITEMS)


def _named(columns: Mapping[str, Column]) -> dict[str, dict[str, float | None]]:
  return {name: {str(line): s for line, s in column.items()} for name, column in columns.items()}


def _outside(columns: Mapping[str, Column], external: Column) -> dict[str, dict[str, float | None]]:
  """The one external score for every stream."""
  scores = {str(line): score for line, score in external.items()}
  return dict.fromkeys(columns, scores)
