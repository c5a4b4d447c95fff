"""A keep-or-discard log in time order, from a table with a column of scores and one of statuses.

The form is that of autoresearch: commit, val_bpb, memory_gb, status (keep, discard or crash) and
description, parted by tabs. Commas and semicolons part columns as well, and names may differ.
"""

import dataclasses
import itertools
import pathlib
import re

from aevo_jax.config.nearest import suggestion
from aevo_jax.meta_agent.drift.tables import score_columns, table_file
from aevo_jax.meta_agent.drift.tables.table_file import TableError, TableFile

_KEPT = re.compile(r'(keep|kept|accept|adopt|promot|baseline)')
_DISCARDED = re.compile(r'(discard|reject|revert|drop|undo|undid|no.?keep|not.kept|skip)')
# Columns whose rows with one value are runs of the same code.
_IDENTITIES = ('commit', 'description')


@dataclasses.dataclass(frozen=True)
class Said:
  """What a person says of a log's columns.

  Attributes:
    score: name of the column with the score by which changes are kept; None for the only one.
    status: name of the column that says what was kept.
    lower_is_better: whether less is better in the score; None to tell by its name.
  """

  score: str | None = None
  status: str = 'status'
  lower_is_better: bool | None = None


@dataclasses.dataclass(frozen=True)
class Try:
  """A run of the log that has a score.

  Attributes:
    line: of the file.
    score: more is better: a score of which less is better has the other sign.
    kept: whether it was kept.
    commit: its cell, '' where the file has none.
    description: likewise.
  """

  line: int
  score: float
  kept: bool
  commit: str
  description: str


@dataclasses.dataclass(frozen=True)
class KeepLog:
  """A log.

  Attributes:
    score: name of the column.
    lower_is_better: whether less is better in it.
    tries: in the order of time.
    left_out: line -> why it has no score.
  """

  score: str
  lower_is_better: bool
  tries: tuple[Try, ...]
  left_out: dict[int, str]


def read(path: pathlib.Path, said: Said) -> KeepLog:
  """Reads and checks a log.

  Args:
    path: of the file.
    said: what the person says of its columns.

  Returns:
    The log, with two kept tries or more.

  Raises:
    TableError: it cannot be judged; the message names the line or column, and the fix.
    OSError: the file cannot be read.
  """
  file = table_file.read(path)
  _check_quotes(file)
  if said.status not in file.header:
    known = [name for name in file.header if name]
    raise TableError(
      f'{path} has no column {said.status!r} that says what was kept; name it with '
      f'--status_column=COLUMN' + suggestion(said.status, known)
    )
  score = _score_column(file, said)
  lower = said.lower_is_better
  if lower is None:
    lower = score_columns.less_is_better(score)
  tries, left_out = _tries(file, score, said.status, lower)
  log = KeepLog(score, lower, tries, left_out)
  _check_kept(path, log, said)
  return log


def _check_quotes(file: TableFile) -> None:
  """Raises TableError where a quotation mark has swallowed lines of the file."""
  for line in file.lines:
    if any('\n' in cell for cell in line.cells):
      raise TableError(
        f'{file.path}: a quotation mark opens a cell that ends on line {line.number}, some lines '
        'later; remove it or close it'
      )


def _score_column(file: TableFile, said: Said) -> str:
  """The name of the column with the scores; raises TableError where it is not clear."""
  if said.score is not None:
    if said.score not in file.header:
      known = [name for name in file.header if name]
      raise TableError(
        f'{file.path} has no column {said.score!r} for --score_column'
        + suggestion(said.score, known)
      )
    return said.score
  possible = []
  for name in file.header:
    if not name or name == said.status or name.lower() in _IDENTITIES:
      continue
    if not score_columns.why_no_score(name, list(file.column(name).values())):
      possible.append(name)
  if len(possible) == 1:
    return possible[0]
  found = f'columns that may hold it: {", ".join(possible)}' if possible else 'no column looks so'
  raise TableError(
    f'{file.path}: it is not clear which score decides what is kept ({found}); name it with '
    '--score_column=COLUMN'
  )


def _tries(
  file: TableFile, score: str, status: str, lower: bool
) -> tuple[tuple[Try, ...], dict[int, str]]:
  """The runs that have a score; and line -> why one has none."""
  scores = file.column(score)
  identities = {}
  for name in _IDENTITIES:
    column = next((known for known in file.header if known.lower() == name), None)
    identities[name] = file.column(column) if column else {}
  tries = []
  left_out = {}
  for line, said in file.column(status).items():
    cell = scores[line]
    if score_columns.has_crashed(said):
      left_out[line] = f'{status} {said}'
      continue
    kept = _was_kept(file.path, line, said)
    if cell.lower() in score_columns.MISSING:
      if kept:
        raise TableError(
          f'{file.path}:{line}: kept, and it has no score in column {score!r}; write it down, or '
          'say crash if there is none'
        )
      left_out[line] = 'no score'
      continue
    value = score_columns.number(cell)
    if value is None:
      raise TableError(
        f'{file.path}:{line}: {cell!r} in column {score!r} is not a number; write a decimal point, '
        'and leave the cell empty if the score is missing'
      )
    if value == 0 and lower:
      left_out[line] = f'{score} 0'
      continue
    found = {name: cells.get(line, '') for name, cells in identities.items()}
    tries.append(Try(line, -value if lower else value, kept, **found))
  return tuple(tries), left_out


def _was_kept(path: pathlib.Path, line: int, status: str) -> bool:
  """Whether a status says that the change was kept; raises TableError for an unknown one."""
  if _DISCARDED.match(status.lower()):
    return False
  if _KEPT.match(status.lower()):
    return True
  raise TableError(
    f'{path}:{line}: status {status!r} is none that is known; write keep, discard or crash'
  )


def _check_kept(path: pathlib.Path, log: KeepLog, said: Said) -> None:
  """Raises TableError where nothing was kept on another, or what was kept is mostly worse."""
  kept = [each for each in log.tries if each.kept]
  if len(kept) < 2:
    raise TableError(
      f'{path}: {len(kept)} kept runs have a score, and a gain is that of one over another; there '
      'is nothing to judge before a second is kept'
    )
  better = 0
  worse = 0
  for before, now in itertools.pairwise(kept):
    better += now.score > before.score
    worse += now.score < before.score
  if said.lower_is_better is None and worse > better:
    direction = 'less' if log.lower_is_better else 'more'
    other = 'nolower_is_better' if log.lower_is_better else 'lower_is_better'
    raise TableError(
      f'{path}: of {better + worse} kept changes {worse} are worse if {direction} is better in '
      f'{log.score!r}; say --{other} if it is the other way, or '
      f'--{"" if log.lower_is_better else "no"}lower_is_better if it is not'
    )
