"""A table of candidates in time order, as rounds of dev and external scores, from a CSV file.

`aevo replay_ledger` reads it: one column for each family's dev score, optionally `overall`, one
external column. Columns that hold no scores are left out and listed (`score_columns`), and so are
rows of candidates that crashed. Empty cells are missing scores. Lines that begin with # are
comments.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aevo_jax.config.nearest import suggestion
from aevo_jax.meta_agent.drift import score_columns, table_file
from aevo_jax.meta_agent.drift.table_file import TableError, TableFile

OVERALL = 'overall'

# line of the file -> score, None where it is missing
Column = dict[int, float | None]


@dataclasses.dataclass(frozen=True)
class Columns:
  """What a person says of a table's columns.

  Attributes:
    external: name of the column with the score that counts.
    round: name of a column with a value for each round; None for rounds of equal size.
    dev: names of the columns with dev scores; empty for all that look like some.
    lower_is_better: names of columns of which less is better. They hold scores.
    higher_is_better: names of columns of which more is better, whatever they are called.
  """

  external: str
  round: str | None = None
  dev: tuple[str, ...] = ()
  lower_is_better: tuple[str, ...] = ()
  higher_is_better: tuple[str, ...] = ()

  def named(self) -> dict[str, tuple[str, ...]]:
    """Returns flag -> the columns that it names."""
    return {
      'external_column': (self.external,),
      'round_column': (self.round,) if self.round is not None else (),
      'dev_columns': self.dev,
      'lower_is_better': self.lower_is_better,
      'higher_is_better': self.higher_is_better,
    }

  def are_scores(self, name: str) -> bool:
    """Whether a flag says that a column holds scores."""
    return name in (self.external, *self.dev, *self.lower_is_better, *self.higher_is_better)


@dataclasses.dataclass(frozen=True)
class Round:
  """Rows that are judged together.

  Attributes:
    label: value of the round column, or the round's number.
    lines: first and last line of the file.
    rows: how many there are.
    dev: stream -> line -> score, None if it is missing. More is better: scores of which less is
      better have the other sign.
    external: line -> score, likewise.
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
    external: name of the external column.
    lower_is_better: columns of which less is better; their scores have the other sign.
    crashed: line -> why its candidate is left out.
    zeros: lines of candidates with 0 in every score.
  """

  families: tuple[str, ...]
  ignored: dict[str, str]
  mean_overall: bool
  rounds: tuple[Round, ...]
  external: str
  lower_is_better: tuple[str, ...]
  crashed: dict[int, str]
  zeros: tuple[int, ...]

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
    loss = next((name for name in names if score_columns.is_loss(name)), None)
    if loss is not None:
      raise TableError(
        f'--items needs scores that count right answers, and {loss!r} is a loss; leave out --items'
      )
    written = {name: self._as_written(name, self.rounds) for name in names}
    _check_one_scale(written, 'give --items scores of one scale, or leave it out')
    scores = [score for column in written.values() for score in column]
    scale = {score_columns.SHARES: 1, score_columns.PERCENTAGES: 100}.get(
      score_columns.scale(scores)
    )
    if scale is None:
      raise TableError(
        '--items needs dev scores that are shares (0 to 1) or percentages (0 to 100), '
        f'and they go from {min(scores):g} to {max(scores):g}; leave out --items'
      )
    variance = {}
    for name in names:
      present = self._as_written(name, [round_])
      if present:
        variance[name] = sum(s * (scale - s) for s in present) / len(present) / items
    if self.families and len(variance) == len(names):
      variance[OVERALL] = sum(variance.values()) / len(names) ** 2
    return variance

  def _as_written(self, stream: str, rounds: Sequence[Round]) -> list[float]:
    """The scores of a stream in some rounds, those of which less is better too."""
    sign = -1 if stream in self.lower_is_better else 1
    return [sign * score for each in rounds for score in _present(each.dev[stream])]


def _present(column: Column) -> list[float]:
  return [score for score in column.values() if score is not None]


class _Group(NamedTuple):
  """A round of the file: its label and its lines."""

  label: str
  lines: list[int]


def read(path: pathlib.Path, said: Columns, round_size: int | None) -> Table:
  """Reads and checks a table.

  Args:
    path: of the CSV file.
    said: what the person says of its columns.
    round_size: rows of a round, where no column names the rounds; the last may have fewer.

  Returns:
    The table.

  Raises:
    TableError: the table cannot be replayed.
    OSError: the file cannot be read.
  """
  file = table_file.read(path)
  _check_names(file, said)
  file, crashed = _without_crashes(file)
  columns, ignored = _columns(file, said)
  if len(columns) == 1:
    left_out = ', '.join(f'{name}: {why}' for name, why in ignored.items())
    raise TableError(
      f'{path} has no column of dev scores besides {said.external!r}'
      + (f' (left out: {left_out})' if left_out else '')
      + '; give each family one, or name those there are with --dev_columns=NAME,...'
    )
  _check_directions(path, columns, said)
  columns, zeros = _without_zeros(columns, said, crashed)
  lower = tuple([name for name in columns if name in said.lower_is_better])
  if not any(name.lower() == OVERALL for name in columns) and len(columns) > 2:
    families = {name: _present(column) for name, column in columns.items() if name != said.external}
    _check_one_scale(families, f'write one scale, or give the table a column {OVERALL!r}')
  columns = {name: _oriented(column, name in lower) for name, column in columns.items()}
  external = columns.pop(said.external)
  overall_name = next((name for name in columns if name.lower() == OVERALL), '')
  overall = columns.pop(overall_name, None)
  streams = columns | {OVERALL: _mean(columns) if overall is None else overall}
  return Table(
    families=tuple(columns),
    ignored=ignored,
    mean_overall=overall is None,
    rounds=_rounds(file, streams, external, _groups(file, list(external), round_size, said.round)),
    external=said.external,
    lower_is_better=tuple([OVERALL if name == overall_name else name for name in lower]),
    crashed=crashed,
    zeros=zeros,
  )


def _rounds(
  file: TableFile, streams: Mapping[str, Column], external: Column, groups: Sequence[_Group]
) -> tuple[Round, ...]:
  rounds = []
  for group in groups:
    if len(group.lines) < 2:
      raise TableError(
        f'{file.path}:{group.lines[0]}: round {group.label} has 1 row, and nothing can be ranked; '
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
  return tuple(rounds)


def _part(column: Column, lines: Sequence[int]) -> Column:
  return {line: column[line] for line in lines}


def _oriented(column: Column, lower_is_better: bool) -> Column:
  """The column with more as better."""
  if not lower_is_better:
    return column
  return {line: None if score is None else -score for line, score in column.items()}


# -- checks ----------------------------------------------------------------------------------------


def _check_names(file: TableFile, said: Columns) -> None:
  """Whether the file has the columns that the flags name; raises TableError."""
  for flag, names in said.named().items():
    for name in names:
      if name not in file.header or not name:
        known = [column for column in file.header if column]
        raise TableError(
          f'{file.path} has no column {name!r} for --{flag}' + suggestion(name, known)
        )
  if said.round == said.external:
    raise TableError(
      f'--round_column and --external_column are both {said.round!r}; name two columns'
    )
  if said.external in said.dev:
    raise TableError(
      f'--dev_columns and --external_column both name {said.external!r}; leave one out'
    )
  both = set(said.lower_is_better) & set(said.higher_is_better)
  if both:
    raise TableError(
      f'--lower_is_better and --higher_is_better both name {min(both)!r}; leave one out'
    )
  overall = [name for name in file.header if name.lower() == OVERALL]
  if len(overall) > 1:
    raise TableError(f'{file.path}: two columns are named {" and ".join(overall)}; rename one')


def _check_directions(path: pathlib.Path, columns: Mapping[str, Column], said: Columns) -> None:
  """Raises TableError where less seems to be better in a column and no flag says which."""
  for name, column in columns.items():
    if name in said.lower_is_better or name in said.higher_is_better:
      continue
    why = ''
    if score_columns.less_is_better(name):
      why = 'is called as if less were better'
    elif score_columns.falls_as_losses_do(_present(column)):
      scores = _present(column)
      why = f'goes from {scores[0]:g} to {scores[-1]:g} in the order of time, as losses do'
    if why:
      raise TableError(
        f'{path}: column {name!r} {why}; say --lower_is_better={name} if less is better, '
        f'or --higher_is_better={name}'
      )


def _check_one_scale(columns: Mapping[str, Sequence[float]], fix: str) -> None:
  """Raises TableError where some columns hold shares and others percentages or neither."""
  scales: dict[str, str] = {}
  for name, scores in columns.items():
    if scores:
      scales.setdefault(score_columns.scale(scores) or 'numbers beyond 0 to 100', name)
  if len(scales) > 1:
    (first, one), (second, other) = list(scales.items())[:2]
    raise TableError(
      f'column {one!r} holds {first} and column {other!r} {second}, so their mean is nearly that '
      f'of one of them alone; {fix}'
    )


# -- rows that are left out ------------------------------------------------------------------------


def _without_crashes(file: TableFile) -> tuple[TableFile, dict[int, str]]:
  """The file without candidates that a status column calls crashed; and line -> its status."""
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


def _without_zeros(
  columns: dict[str, Column], said: Columns, crashed: dict[int, str]
) -> tuple[dict[str, Column], tuple[int, ...]]:
  """Leaves out rows with 0 in every score, where less is better in one of them.

  Args:
    columns: of scores as they are written.
    said: the flags.
    crashed: takes the lines that are left out.

  Returns:
    The columns without those lines; and the lines with nothing but 0 that stay.
  """
  lower = [name for name in columns if name in said.lower_is_better]
  zeros = []
  for line in next(iter(columns.values())):
    present = [column[line] for column in columns.values() if column[line] is not None]
    if not present or any(present):
      continue
    if any(columns[name][line] is not None for name in lower):
      crashed[line] = '0 in every score'
    else:
      zeros.append(line)
  kept = {}
  for name, column in columns.items():
    kept[name] = {line: score for line, score in column.items() if line not in crashed}
  if not next(iter(kept.values())):
    raise TableError('there is 0 in every score of every candidate')
  return kept, tuple(zeros)


# -- columns and cells -----------------------------------------------------------------------------


def _columns(file: TableFile, said: Columns) -> tuple[dict[str, Column], dict[str, str]]:
  """Columns of scores, the external one among them; and column -> why it is left out."""
  columns = {}
  ignored = {}
  for place, name in enumerate(file.header):
    if name == said.round:
      continue
    if not name:
      ignored[f'column {place + 1}'] = 'no score by its name'
      continue
    cells = file.column(name)
    why = ''
    if not said.are_scores(name):
      why = score_columns.why_no_score(name, list(cells.values()))
      if said.dev:
        why = why or 'not among --dev_columns'
    if why:
      ignored[name] = why
      continue
    _check_percent_signs(file.path, name, cells)
    columns[name] = {}
    for line, cell in cells.items():
      columns[name][line] = _score(cell, file.path, line, name)
    _check_ranks(file.path, name, columns[name], said)
  return columns, ignored


def _check_ranks(path: pathlib.Path, name: str, column: Column, said: Columns) -> None:
  """Raises TableError where a column that a flag names is empty or has one value alone."""
  scores = _present(column)
  fix = 'name the one with the external scores' if name == said.external else 'name another'
  if not scores:
    raise TableError(f'{path}: column {name!r} is empty; {fix}')
  if len(set(scores)) == 1 and len(scores) > 1:
    raise TableError(
      f'{path}: column {name!r} has {scores[0]:g} in every row, so nothing can be ranked by it; '
      f'{fix}'
    )


def _check_percent_signs(path: pathlib.Path, name: str, cells: Mapping[int, str]) -> None:
  """Raises TableError where one cell is `60%` and another `0.6`."""
  signed = [cell for cell in cells.values() if cell.endswith('%')]
  for line, cell in cells.items():
    value = score_columns.number(cell)
    if signed and value and not cell.endswith('%') and abs(value) <= 1:
      raise TableError(
        f'{path}:{line}: {cell!r} in column {name!r} has no percent sign, and {signed[0]!r} has '
        'one; write all of them one way'
      )


def _mean(columns: Mapping[str, Column]) -> Column:
  """The mean of all columns, None where one has no score."""
  lines = next(iter(columns.values()))
  means: Column = {}
  for line in lines:
    scores = [column[line] for column in columns.values()]
    means[line] = None if None in scores else math.fsum(scores) / len(scores)
  return means


def _score(cell: str, path: pathlib.Path, line: int, column: str) -> float | None:
  """The score in a cell, None if it is missing; raises TableError for anything else."""
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


def _groups(
  file: TableFile, lines: Sequence[int], round_size: int | None, round_column: str | None
) -> list[_Group]:
  """The rounds: lines that share a value of the round column, or so many lines each."""
  if round_column is not None:
    return _by_value(file, lines, round_column)
  groups = []
  for i in range(0, len(lines), round_size):
    groups.append(_Group(str(i // round_size + 1), list(lines[i : i + round_size])))
  return groups


def _by_value(file: TableFile, lines: Sequence[int], column: str) -> list[_Group]:
  """Lines in a row that share a value of a column; raises TableError if one comes again."""
  groups: dict[str, _Group] = {}
  latest = None
  for line, value in file.column(column).items():
    if line not in lines:
      continue
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
