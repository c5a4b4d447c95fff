"""A CSV table of candidates in time order, as rounds of dev and external scores: what `aevo
replay_ledger` reads.

One column for each family's dev score, optionally `overall`, one external column. Columns that hold
no numbers, and those that by their names count or identify things, are left out and listed. Empty
cells are missing scores. Lines that begin with # are comments.
"""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

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


class TableError(ValueError):
  """The table cannot be replayed; the message names line or column, and the fix."""


@dataclasses.dataclass(frozen=True)
class Round:
  """Rows that are judged together.

  Attributes:
    label: value of the round column, or the round's number. lines: first and last line of the file.
      rows: how many there are.
    dev: stream -> line -> score. external: line -> score. None is missing.
  """

  label: str
  lines: tuple[int, int]
  rows: int
  dev: dict[str, dict[int, float | None]]
  external: dict[int, float | None]


@dataclasses.dataclass(frozen=True)
class Table:
  """Attributes: families, in the order of the file; ignored: column -> why; mean_overall: whether
  `overall` was made here; rounds.
  """

  families: tuple[str, ...]
  ignored: dict[str, str]
  mean_overall: bool
  rounds: tuple[Round, ...]

  def item_variance(self, round_: Round, items: int) -> dict[str, float]:
    """stream -> variance of a dev score by the choice of `items` items a family: the mean of p (1 -
    p) / items; overall is taken as the mean of the families.

    Raises:
      TableError: dev scores are neither shares nor percentages.
    """
    names = self.families or (OVERALL,)
    scores = [
      s for r in self.rounds for name in names for s in r.dev[name].values() if s is not None
    ]
    scale = 1 if max(scores, default=0) <= 1 else 100
    if min(scores, default=0) < 0 or max(scores, default=0) > scale:
      raise TableError(
        '--items needs dev scores that are shares (0 to 1) or percentages (0 to 100), '
        f'and they go from {min(scores):g} to {max(scores):g}; leave out --items'
      )
    variance = {}
    for name in names:
      present = [s for s in round_.dev[name].values() if s is not None]
      if present:
        variance[name] = sum(s * (scale - s) for s in present) / len(present) / items
    if self.families and len(variance) == len(names):
      variance[OVERALL] = sum(variance.values()) / len(names) ** 2
    return variance


def read(
  path: pathlib.Path, external_column: str, round_size: int | None, round_column: str | None
) -> Table:
  """Reads and checks a table. Rounds are `round_size` rows each (the last may have fewer), or the
  rows that share a value of `round_column`.

  Raises:
    TableError: see there. OSError: the file cannot be read.
  """
  try:
    header, rows = _rows(path)
  except (UnicodeDecodeError, csv.Error) as error:
    raise TableError(f'{path} is no CSV text in UTF-8: {error}') from None
  for flag, name in (('external_column', external_column), ('round_column', round_column)):
    if name is not None and name not in header:
      raise TableError(
        f'{path} has no column {name!r} for --{flag}' + suggestion(name, filter(None, header))
      )
  if round_column == external_column:
    raise TableError(
      f'--round_column and --external_column are both {round_column!r}; name two columns'
    )
  columns, ignored = {}, {}
  for place, name in enumerate(header):
    cells = {line: row[place] for line, row in rows}
    present = [c for c in cells.values() if c.lower() not in _MISSING]
    numbers = sum(_number(c) is not None for c in present)
    if name == round_column:
      continue
    if name != external_column and name.lower() in _BOOKKEEPING:
      ignored[name or f'column {place + 1}'] = 'no score by its name'
    elif name != external_column and not present:
      ignored[name] = 'empty'
    elif name != external_column and 2 * numbers <= len(present):
      ignored[name] = 'not numeric'
    else:
      columns[name] = {line: _score(cell, path, line, name) for line, cell in cells.items()}
  external = columns.pop(external_column)
  if all(value is None for value in external.values()):
    raise TableError(
      f'{path}: column {external_column!r} is empty; name the one with the external scores'
    )
  given = next((name for name in columns if name.lower() == OVERALL), None)
  overall = columns.pop(given) if given else None
  if not columns and overall is None:
    raise TableError(
      f'{path} has no column of dev scores besides {external_column!r}'
      + (f' (left out: {", ".join(ignored)})' if ignored else '')
      + '; give each family one'
    )
  if overall is None:
    overall = {
      line: None
      if None in (scores := [c[line] for c in columns.values()])
      else math.fsum(scores) / len(scores)
      for line in external
    }
  streams = columns | {OVERALL: overall}
  lines = [line for line, _ in rows]
  if round_column is not None:
    place = header.index(round_column)
    groups = _by_value(path, round_column, [(line, row[place]) for line, row in rows])
  else:
    groups = [
      (str(i // round_size + 1), lines[i : i + round_size])
      for i in range(0, len(lines), round_size)
    ]
  rounds = []
  for label, members in groups:
    if len(members) < 2:
      raise TableError(
        f'{path}:{members[0]}: round {label} has 1 row, and nothing can be ranked; remove '
        'it, or choose other rounds with --round_size or --round_column'
      )
    rounds.append(
      Round(
        label,
        (members[0], members[-1]),
        len(members),
        {s: {line: c[line] for line in members} for s, c in streams.items()},
        {line: external[line] for line in members},
      )
    )
  return Table(tuple(columns), ignored, given is None, tuple(rounds))


def _rows(path: pathlib.Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
  """(header, [(line, cells)])."""
  line = 0

  def content() -> Iterator[str]:
    nonlocal line
    for text in path.read_text(encoding='utf-8-sig').splitlines(keepends=True):
      line += 1
      if text.strip() and not text.lstrip().startswith('#'):
        yield text

  head = next(content(), '')
  line = 0
  delimiter = max(',;\t', key=head.count)
  header, rows = None, []
  for cells in csv.reader(content(), delimiter=delimiter):
    cells = [cell.strip() for cell in cells]
    if header is None:
      header = cells
      twice = next((name for name in header if name and header.count(name) > 1), None)
      if twice is not None:
        raise TableError(f'{path}:{line}: two columns are named {twice!r}; rename one')
      continue
    while len(cells) > len(header) and not cells[-1]:
      cells.pop()
    if len(cells) != len(header):
      raise TableError(
        f'{path}:{line}: {len(cells)} cells, and the header names {len(header)} columns; '
        'leave a cell empty where a score is missing'
      )
    rows.append((line, cells))
  if not rows:
    raise TableError(
      f'{path} has no rows of candidates; a header with the names of the columns comes '
      'first, then one line a candidate'
    )
  return header, rows


def _number(cell: str) -> float | None:
  try:
    value = float(cell.removesuffix('%'))
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def _score(cell: str, path: pathlib.Path, line: int, column: str) -> float | None:
  if cell.lower() in _MISSING:
    return None
  value = _number(cell)
  if value is None:
    raise TableError(
      f'{path}:{line}: {cell!r} in column {column!r} is not a number; leave the cell '
      'empty if the score is missing'
    )
  return value


def _by_value(
  path: pathlib.Path, column: str, cells: Sequence[tuple[int, str]]
) -> list[tuple[str, list[int]]]:
  groups: list[tuple[str, list[int]]] = []
  for line, value in cells:
    if not value:
      raise TableError(f'{path}:{line}: no value in round column {column!r}; every row needs one')
    if groups and groups[-1][0] == value:
      groups[-1][1].append(line)
    elif any(label == value for label, _ in groups):
      raise TableError(
        f'{path}:{line}: round {value!r} of column {column!r} begins a second time; bring '
        'the table into the order of time, one round after another'
      )
    else:
      groups.append((value, [line]))
  return groups
