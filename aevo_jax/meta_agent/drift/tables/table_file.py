"""The cells of a CSV file with the lines that they stand on, and the names of its columns."""

import csv
import pathlib
from typing import NamedTuple

from aevo_jax import file_kinds, strict_json
from aevo_jax.meta_agent.drift.tables import score_columns


class TableError(ValueError):
  """The table cannot be replayed; the message names line or column, and the fix."""


class Line(NamedTuple):
  """A row of the file: its line, counted from 1, and its cells."""

  number: int
  cells: list[str]


class TableFile(NamedTuple):
  """A CSV file: its path, the names of its columns, and its rows."""

  path: pathlib.Path
  header: list[str]
  lines: list[Line]

  def column(self, name: str) -> dict[int, str]:
    """Returns line -> cell of a column."""
    place = self.header.index(name)
    return {line.number: line.cells[place] for line in self.lines}


def read(path: pathlib.Path) -> TableFile:
  """Reads the cells of a file, whose header parts its columns by commas, semicolons or tabs.

  Args:
    path: of a text in UTF-8.

  Returns:
    The rows with as many cells as the header has; comments and empty lines are left out.

  Raises:
    TableError: no such text, or a row with other cells than the header names.
    OSError: the file cannot be read.
  """
  try:
    return _cells(path)
  except (UnicodeDecodeError, csv.Error) as error:
    raise TableError(f'{path} is no CSV text in UTF-8: {error}; save it as that') from None


def without_crashes(file: TableFile) -> tuple[TableFile, dict[int, str]]:
  """Leaves out candidates that a status column calls crashed.

  Args:
    file: with any columns.

  Returns:
    The file without them; and line -> status.

  Raises:
    TableError: none is left.
  """
  crashed = {}
  for name in file.header:
    if score_columns.is_status(name):
      for line, status in file.column(name).items():
        if score_columns.has_crashed(status):
          crashed[line] = f'{name} {status}'
  lines = [line for line in file.lines if line.number not in crashed]
  if not lines:
    raise TableError(f'{file.path} has no candidate that did not crash')
  return file._replace(lines=lines), crashed


def score(cell: str, path: pathlib.Path, line: int, column: str) -> float | None:
  """Reads the score in a cell.

  Args:
    cell: as it is written.
    path: of the file, for the message.
    line: of the cell, likewise.
    column: likewise.

  Returns:
    The number; None where it is missing.

  Raises:
    TableError: anything else.
  """
  if cell.lower() in score_columns.MISSING:
    return None
  if score_columns.has_comma(cell):
    raise TableError(
      f'{path}:{line}: {cell!r} in column {column!r} has a comma; write a decimal point, and '
      'nothing between thousands'
    )
  value = score_columns.number(cell)
  if value is None:
    raise TableError(
      f'{path}:{line}: {cell!r} in column {column!r} is not a number; leave the cell '
      'empty if the score is missing'
    )
  return value


def _cells(path: pathlib.Path) -> TableFile:
  written = path.read_bytes()
  foreign = file_kinds.not_text(path, written, file_kinds.CSV)
  whole = '' if foreign else written.decode('utf-8-sig')
  reader = _of_json(whole)
  if reader:
    foreign = file_kinds.table(path, 'JSON', reader, file_kinds.CSV)
  if foreign is not None:
    raise TableError(foreign)
  content = []
  for number, text in enumerate(whole.splitlines(keepends=True), 1):
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
        'leave a cell empty where a score is missing, and write decimal points'
      )
    lines.append(Line(last, cells))
  if not lines:
    raise TableError(
      f'{path} has no rows of candidates; a header with the names of the columns comes '
      'first, then one line a candidate'
    )
  return TableFile(path, header, lines)


def _of_json(text: str) -> str:
  """The call of pandas that reads a text of JSON; '' where it is none."""
  text = text.strip()
  if text[:1] not in ('{', '['):
    return ''
  try:
    _, end = strict_json.first_value(text, 0)
  except (ValueError, RecursionError):
    return ''
  return 'read_json(FILE)' if end == len(text) else 'read_json(FILE, lines=True)'
