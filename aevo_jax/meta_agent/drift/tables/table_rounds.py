"""The rounds of a table of candidates: by size, by the values of a column, or by dates."""

import datetime
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aevo_jax.meta_agent.drift.tables import score_columns
from aevo_jax.meta_agent.drift.tables.table_file import TableError, TableFile

PERIODS = ('day', 'week', 'month')
_DATE = re.compile(r'\d{4}[-/]\d\d[-/]\d\d($|[T ])')
# Dates of other orders, of which nobody can tell the day from the month.
_OTHER_DATE = re.compile(r'\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b')
# Seconds since 1970 from September 2001 on, and milliseconds.
_SECONDS = 1e9
_MILLISECONDS = 1e12
# Days with fewer candidates in the median are taken by the week, and weeks by the month.
_FEWEST = 4


class Group(NamedTuple):
  """A round of the file: its label and its lines."""

  label: str
  lines: list[int]


class Grouping(NamedTuple):
  """All rounds, in the order of time.

  Attributes:
    groups: of two lines or more.
    how: how they were made, in words.
    alone: line -> label of a round of that line alone, which cannot be judged.
  """

  groups: list[Group]
  how: str
  alone: dict[int, str]

  @property
  def order(self) -> list[int]:
    """The lines of all rounds that are judged."""
    return [line for group in self.groups for line in group.lines]


def by_size(lines: Sequence[int], size: int) -> Grouping:
  """Makes rounds of so many lines; a last one of a single line joins the one before it.

  Args:
    lines: in the order of time, two or more.
    size: of a round, 2 or more.
  """
  groups = []
  for i in range(0, len(lines), size):
    groups.append(Group(str(i // size + 1), list(lines[i : i + size])))
  how = f'rounds of {size} rows'
  if len(groups) > 1 and len(groups[-1].lines) == 1:
    groups[-2].lines.extend(groups.pop().lines)
    how += '; the last row joins the round before it, since one row alone cannot be ranked'
  return Grouping(groups, how, {})


def by_column(file: TableFile, lines: Sequence[int], column: str, period: str | None) -> Grouping:
  """Makes rounds of lines that share a value of a column, or a period of its dates.

  Dates and timestamps (2026-01-31, 2026-01-31T12:00:00Z, seconds since 1970) bring the lines into
  the order of time. Other values have to stand together.

  Args:
    file: with the column.
    lines: of the file that are to be grouped.
    column: its name.
    period: 'day', 'week' or 'month' of dates; None for the shortest whose rounds have four lines or
      more in the median.

  Returns:
    The rounds; those of one line are `alone`.

  Raises:
    TableError: an empty value, one that comes back later, or a period without dates.
  """
  wanted = set(lines)
  values = {line: cell for line, cell in file.column(column).items() if line in wanted}
  for line, value in values.items():
    if not value:
      raise TableError(
        f'{file.path}:{line}: no value in round column {column!r}; every row needs one'
      )
  times = {line: _time(value) for line, value in values.items()}
  known = [time for time in times.values() if time is not None]
  if known and len(known) == len(times):
    groups, how = _by_period(times, column, period)
  elif known:
    odd = next(line for line, time in times.items() if time is None)
    raise TableError(
      f'{file.path}:{odd}: {values[odd]!r} in round column {column!r} is no date, and others are; '
      'write all of them as YYYY-MM-DD'
    )
  else:
    groups = _by_value(file, values, column, period)
    how = f'rounds by the values of {column!r}'
  judged = [group for group in groups if len(group.lines) > 1]
  alone = {group.lines[0]: group.label for group in groups if len(group.lines) == 1}
  return Grouping(judged, how, alone)


def _time(value: str) -> datetime.datetime | None:
  """The time that a cell names, in UTC; None where it names none."""
  number = score_columns.number(value)
  if number is not None and number >= _SECONDS:
    seconds = number / 1000 if number >= _MILLISECONDS else number
    try:
      return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError):
      return None
  if not _DATE.match(value):
    return None
  try:
    time = datetime.datetime.fromisoformat(value.replace('/', '-'))
  except ValueError:
    return None
  if time.tzinfo is None:
    return time.replace(tzinfo=datetime.UTC)
  return time.astimezone(datetime.UTC)


def _label(time: datetime.datetime, period: str) -> str:
  if period == 'day':
    return f'{time:%Y-%m-%d}'
  if period == 'week':
    return f'{time:%G-W%V}'
  return f'{time:%Y-%m}'


def _by_period(
  times: Mapping[int, datetime.datetime | None], column: str, period: str | None
) -> tuple[list[Group], str]:
  """Rounds of a period, and how they were made."""
  ordered = sorted(times, key=lambda line: times[line])
  how = ''
  groups: list[Group] = []
  for candidate in PERIODS if period is None else (period,):
    by_label: dict[str, Group] = {}
    for line in ordered:
      label = _label(times[line], candidate)
      by_label.setdefault(label, Group(label, [])).lines.append(line)
    groups = list(by_label.values())
    how = f'rounds by the {candidate} of {column!r}, in UTC, rows in the order of time'
    if statistics.median(len(group.lines) for group in groups) >= _FEWEST:
      break
  if ordered != list(times):
    how += ' (the file has another order)'
  return groups, how


def _by_value(
  file: TableFile, values: Mapping[int, str], column: str, period: str | None
) -> list[Group]:
  """Lines in a row that share a value; raises TableError if one comes again."""
  other = next((value for value in values.values() if _OTHER_DATE.match(value)), None)
  if period is not None or other is not None:
    shown = other or next(iter(values.values()))
    raise TableError(
      f'{file.path}: {shown!r} in round column {column!r} is read as no date; write dates as '
      'YYYY-MM-DD' + ('' if period is None else ', or leave out --round_by')
    )
  groups: dict[str, Group] = {}
  latest = None
  for line, value in values.items():
    if value != latest and value in groups:
      raise TableError(
        f'{file.path}:{line}: round {value!r} of column {column!r} begins a second time; bring '
        'the table into the order of time, one round after another'
      )
    groups.setdefault(value, Group(value, [])).lines.append(line)
    latest = value
  return list(groups.values())
