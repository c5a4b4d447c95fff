"""A table of candidates in time order, as rounds of dev and external scores, from a CSV file.

`aevo replay_ledger` reads it: one column for each family's dev score, optionally `overall`, one
external column. Columns that hold no numbers, and those that by their names count or identify
things, are left out and listed. Empty cells are missing scores. Lines that begin with # are
comments.
"""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aevo_jax.config.nearest import suggestion

OVERALL = 'overall'
_MISSING = {'', '-', 'na', 'n/a', 'nan', 'none', 'null'}
# Numbers under these names are no scores.
_BOOKKEEPING = {
  '',
  'batch',
  'candidate',
  'date',
  'day',
  'entry',
  'generation',
  'id',
  'index',
  'iteration',
  'no',
  'number',
  'rank',
  'round',
  'row',
  'run',
  'seed',
  'step',
  'submission',
  'time',
  'timestamp',
  'trial',
  'unnamed: 0',
  'worker',
}

# line of the file -> score, None where it is missing
Column = dict[int, float | None]


class TableError(ValueError):
  """The table cannot be replayed; the message names line or column, and the fix."""


@dataclasses.dataclass(frozen=True)
class Round:
  """Rows that are judged together.

  Attributes:
    label: value of the round column, or the round's number.
    lines: first and last line of the file.
    rows: how many there are.
    dev: stream -> line -> score, None if it is missing.
    external: line -> score, None if it is missing.
  """

  label: str
  lines: tuple[int, int]
  rows: int
  dev: dict[str, Column]
  external: Column


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of candidates.

  Attributes:
    families: in the order of the file.
    ignored: column -> why it is left out.
    mean_overall: whether `overall` was computed here.
    rounds: in the order of the file.
  """

  families: tuple[str, ...]
  ignored: dict[str, str]
  mean_overall: bool
  rounds: tuple[Round, ...]

  def item_variance(self, round_: Round, items: int) -> dict[str, float]:
    """Computes the variance of a dev score by the choice of items: the mean of p (1 - p) / items.

    Args:
      round_: of this table.
      items: of each family.

    Returns:
      stream -> variance; overall is taken as the mean of the families.

    Raises:
      TableError: dev scores are neither shares nor percentages.
    """
    names = self.families or (OVERALL,)
    scores = []
    for each in self.rounds:
      for name in names:
        scores += _present(each.dev[name])
    scale = 1 if max(scores, default=0) <= 1 else 100
    if min(scores, default=0) < 0 or max(scores, default=0) > scale:
      raise TableError(
        '--items needs dev scores that are shares (0 to 1) or percentages (0 to 100), '
        f'and they go from {min(scores):g} to {max(scores):g}; leave out --items'
      )
    variance = {}
    for name in names:
      present = _present(round_.dev[name])
      if present:
        variance[name] = sum(s * (scale - s) for s in present) / len(present) / items
    if self.families and len(variance) == len(names):
      variance[OVERALL] = sum(variance.values()) / len(names) ** 2
    return variance


def _present(column: Column) -> list[float]:
  return [score for score in column.values() if score is not None]


class _Line(NamedTuple):
  """A row of the file: its line, counted from 1, and its cells."""

  number: int
  cells: list[str]


class _File(NamedTuple):
  """A CSV file: its path, the names of its columns, and its rows."""

  path: pathlib.Path
  header: list[str]
  lines: list[_Line]

  def column(self, place: int) -> dict[int, str]:
    """line -> cell."""
    return {line.number: line.cells[place] for line in self.lines}


class _Group(NamedTuple):
  """A round of the file: its label and its lines."""

  label: str
  lines: list[int]


def read(
  path: pathlib.Path, external_column: str, round_size: int | None, round_column: str | None
) -> Table:
  """Reads and checks a table.

  Args:
    path: of the CSV file.
    external_column: name of the column with the external scores.
    round_size: rows of a round; the last may have fewer.
    round_column: name of a column with a value for each round, in place of `round_size`.

  Returns:
    The table.

  Raises:
    TableError: the table cannot be replayed.
    OSError: the file cannot be read.
  """
  try:
    file = _file(path)
  except (UnicodeDecodeError, csv.Error) as error:
    raise TableError(f'{path} is no CSV text in UTF-8: {error}') from None
  _check_names(file, external_column, round_column)
  columns, ignored = _columns(file, external_column, round_column)
  external = columns.pop(external_column)
  if all(value is None for value in external.values()):
    raise TableError(
      f'{path}: column {external_column!r} is empty; name the one with the external scores'
    )
  overall = None
  for name in list(columns):
    if name.lower() == OVERALL and overall is None:
      overall = columns.pop(name)
  if not columns and overall is None:
    left_out = f' (left out: {", ".join(ignored)})' if ignored else ''
    raise TableError(
      f'{path} has no column of dev scores besides {external_column!r}{left_out}; give each '
      'family one'
    )
  streams = columns | {OVERALL: _mean(columns) if overall is None else overall}
  rounds = []
  for group in _groups(file, round_size, round_column):
    if len(group.lines) < 2:
      raise TableError(
        f'{path}:{group.lines[0]}: round {group.label} has 1 row, and nothing can be ranked; '
        'remove it, or choose other rounds with --round_size or --round_column'
      )
    rounds.append(
      Round(
        label=group.label,
        lines=(group.lines[0], group.lines[-1]),
        rows=len(group.lines),
        dev={stream: _part(column, group.lines) for stream, column in streams.items()},
        external=_part(external, group.lines),
      )
    )
  return Table(tuple(columns), ignored, overall is None, tuple(rounds))


def _part(column: Column, lines: Sequence[int]) -> Column:
  return {line: column[line] for line in lines}


def _check_names(file: _File, external_column: str, round_column: str | None) -> None:
  """Whether the file has the columns that the flags name; raises TableError."""
  for flag, name in (('external_column', external_column), ('round_column', round_column)):
    if name is not None and name not in file.header:
      known = [column for column in file.header if column]
      raise TableError(f'{file.path} has no column {name!r} for --{flag}' + suggestion(name, known))
  if round_column == external_column:
    raise TableError(
      f'--round_column and --external_column are both {round_column!r}; name two columns'
    )


def _columns(
  file: _File, external_column: str, round_column: str | None
) -> tuple[dict[str, Column], dict[str, str]]:
  """Columns of scores, the external one among them; and column -> why it is left out."""
  columns = {}
  ignored = {}
  for place, name in enumerate(file.header):
    if name == round_column:
      continue
    cells = file.column(place)
    why = '' if name == external_column else _no_scores(name, list(cells.values()))
    if why:
      ignored[name or f'column {place + 1}'] = why
      continue
    columns[name] = {}
    for line, cell in cells.items():
      columns[name][line] = _score(cell, file.path, line, name)
  return columns, ignored


def _no_scores(name: str, cells: Sequence[str]) -> str:
  """Why a column holds no scores; '' if it does."""
  if name.lower() in _BOOKKEEPING:
    return 'no score by its name'
  present = 0
  numbers = 0
  for cell in cells:
    if cell.lower() not in _MISSING:
      present += 1
      numbers += _number(cell) is not None
  if not present:
    return 'empty'
  return 'not numeric' if 2 * numbers <= present else ''


def _mean(columns: Mapping[str, Column]) -> Column:
  """The mean of all columns, None where one has no score."""
  lines = next(iter(columns.values()))
  means: Column = {}
  for line in lines:
    scores = [column[line] for column in columns.values()]
    means[line] = None if None in scores else math.fsum(scores) / len(scores)
  return means


def _file(path: pathlib.Path) -> _File:
  """Reads the cells of a file."""
  content = []
  for number, text in enumerate(path.read_text(encoding='utf-8-sig').splitlines(keepends=True), 1):
    if text.strip() and not text.lstrip().startswith('#'):
      content.append((number, text))
  head = content[0][1] if content else ''
  delimiter = max(',;\t', key=head.count)
  reader = csv.reader([text for _, text in content], delimiter=delimiter)
  header: list[str] | None = None
  lines = []
  for raw in reader:
    # The line that the row ends on: a quoted cell may span lines.
    last = content[reader.line_num - 1][0]
    cells = [cell.strip() for cell in raw]
    if header is None:
      header = cells
      for name in header:
        if name and header.count(name) > 1:
          raise TableError(f'{path}:{last}: two columns are named {name!r}; rename one')
      continue
    while len(cells) > len(header) and not cells[-1]:
      cells.pop()
    if len(cells) != len(header):
      raise TableError(
        f'{path}:{last}: {len(cells)} cells, and the header names {len(header)} columns; '
        'leave a cell empty where a score is missing'
      )
    lines.append(_Line(last, cells))
  if not lines:
    raise TableError(
      f'{path} has no rows of candidates; a header with the names of the columns comes '
      'first, then one line a candidate'
    )
  return _File(path, header, lines)


def _number(cell: str) -> float | None:
  """The finite number in a cell, None without one."""
  try:
    value = float(cell.removesuffix('%'))
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def _score(cell: str, path: pathlib.Path, line: int, column: str) -> float | None:
  """The score in a cell, None if it is missing; raises TableError for anything else."""
  if cell.lower() in _MISSING:
    return None
  value = _number(cell)
  if value is None:
    raise TableError(
      f'{path}:{line}: {cell!r} in column {column!r} is not a number; leave the cell '
      'empty if the score is missing'
    )
  return value


def _groups(file: _File, round_size: int | None, round_column: str | None) -> list[_Group]:
  """The rounds: lines that share a value of the round column, or so many lines each."""
  if round_column is not None:
    return _by_value(file, round_column)
  lines = [line.number for line in file.lines]
  groups = []
  for i in range(0, len(lines), round_size):
    groups.append(_Group(str(i // round_size + 1), lines[i : i + round_size]))
  return groups


def _by_value(file: _File, column: str) -> list[_Group]:
  """Lines in a row that share a value of a column; raises TableError if one comes again."""
  groups: dict[str, _Group] = {}
  latest = None
  for line, value in file.column(file.header.index(column)).items():
    if not value:
      raise TableError(
        f'{file.path}:{line}: no value in round column {column!r}; every row needs one'
      )
    if value != latest and value in groups:
      raise TableError(
        f'{file.path}:{line}: round {value!r} of column {column!r} begins a second time; bring '
        'the table into the order of time, one round after another'
      )
    groups.setdefault(value, _Group(value, [])).lines.append(line)
    latest = value
  return list(groups.values())
