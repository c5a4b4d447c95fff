"""A table of candidates in time order, as rounds of dev and external scores, from a CSV file.

`aevo replay_ledger` reads it: one column for each family's dev score, optionally `overall`, one
external column. Columns that hold no scores are left out and listed (`score_columns`), and so are
rows of candidates that crashed. Empty cells are missing scores. Lines that begin with # are
comments.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence

from aevo_jax.config.nearest import suggestion
from aevo_jax.meta_agent.drift.tables import score_columns, table_file, table_rounds
from aevo_jax.meta_agent.drift.tables.table_file import TableError, TableFile

OVERALL = 'overall'

# line of the file -> score, None where it is missing
Column = dict[int, float | None]


@dataclasses.dataclass(frozen=True)
class Columns:
  """What a person says of a table's columns.

  Attributes:
    external: name of the column with the score that counts.
    round: name of a column with a value for each round, or dates; None for rounds of equal size.
    period: 'day', 'week' or 'month' of dates in that column; None to choose by their number.
    dev: names of the columns with dev scores; empty for all that look like some.
    lower_is_better: names of columns of which less is better. They hold scores.
    higher_is_better: names of columns of which more is better, whatever they are called.
  """

  external: str
  round: str | None = None
  period: str | None = None
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
    rounds: in the order of time.
    grouped: how rounds were made, in words.
    alone: line -> label of a round of that line alone, which is not judged.
    external: name of the external column.
    lower_is_better: columns of which less is better; their scores have the other sign.
    crashed: line -> why its candidate is left out.
    no_scores: line -> a cell that is missing because it says a crash or infinity.
    zeros: lines of candidates with 0 in every score.
  """

  families: tuple[str, ...]
  ignored: dict[str, str]
  mean_overall: bool
  rounds: tuple[Round, ...]
  grouped: str
  alone: dict[int, str]
  external: str
  lower_is_better: tuple[str, ...]
  crashed: dict[int, str]
  no_scores: dict[int, str]
  zeros: tuple[int, ...]

  def check_items(self) -> None:
    """Raises TableError where dev scores are no shares of right answers among items."""
    names = self.families or (OVERALL,)
    loss = next((name for name in names if score_columns.is_loss(name)), None)
    if loss is not None:
      raise TableError(
        f'--items needs scores that count right answers, and {loss!r} is a loss; leave out --items'
      )
    written = {name: self._as_written(name, self.rounds) for name in names}
    _check_one_scale(written, 'give --items scores of one scale, or leave it out')
    scores = [score for column in written.values() for score in column]
    if not _perfect(scores):
      raise TableError(
        '--items needs dev scores that are shares (0 to 1) or percentages (0 to 100), '
        f'and they go from {min(scores):g} to {max(scores):g}; leave out --items'
      )
    outside = self._external_as_written()
    if score_columns.is_loss(self.external) or not _perfect(outside):
      raise TableError(
        f'--items needs an external score that is a share or a percentage, and {self.external!r} '
        'is none; leave out --items'
      )

  @functools.cached_property
  def perfect(self) -> tuple[float, float] | None:
    """A perfect dev and a perfect external score, 1 or 100; None where they are no accuracies."""
    names = self.families if self.mean_overall else (*self.families, OVERALL)
    if any(score_columns.is_loss(name) for name in (*names, self.external)):
      return None
    dev = _perfect([score for name in names for score in self._as_written(name, self.rounds)])
    external = _perfect(self._external_as_written())
    if not dev or not external:
      return None
    return dev, external

  def shares(self, round_: Round) -> tuple[dict[str, Column], Column]:
    """Dev and external scores of a round as shares of right answers, where `perfect` is known.

    Args:
      round_: of this table.

    Returns:
      stream -> line -> share, and line -> share; those of error rates are 1 less the error.
    """
    dev, external = self.perfect
    streams = {}
    for name, column in round_.dev.items():
      streams[name] = _as_shares(column, dev, self._errors(name))
    return streams, _as_shares(round_.external, external, self._errors(self.external))

  def with_rounds_of(self, size: int) -> 'Table':
    """Makes the same table with rounds of another size.

    Args:
      size: rows of a round.
    """
    dev: dict[str, Column] = {}
    external: Column = {}
    for each in self.rounds:
      external |= each.external
      for name, column in each.dev.items():
        dev[name] = dev.get(name, {}) | column
    grouping = table_rounds.by_size(list(external), size)
    rounds = _rounds(dev, external, grouping.groups)
    return dataclasses.replace(self, rounds=rounds, grouped=grouping.how)

  def _errors(self, stream: str) -> float:
    """The part of a stream that is error rates: 0 or 1, between them of a mean of families."""
    if stream == OVERALL and self.mean_overall:
      return len(set(self.families) & set(self.lower_is_better)) / len(self.families)
    return float(stream in self.lower_is_better)

  def _external_as_written(self) -> list[float]:
    sign = -1 if self.external in self.lower_is_better else 1
    return [sign * score for each in self.rounds for score in _present(each.external)]

  def _as_written(self, stream: str, rounds: Sequence[Round]) -> list[float]:
    """The scores of a stream in some rounds, those of which less is better too."""
    sign = -1 if stream in self.lower_is_better else 1
    return [sign * score for each in rounds for score in _present(each.dev[stream])]


def _perfect(scores: Sequence[float]) -> float:
  """1 for shares, 100 for percentages, else 0."""
  if not scores:
    return 0.0
  return {score_columns.SHARES: 1.0, score_columns.PERCENTAGES: 100.0}.get(
    score_columns.scale(scores), 0.0
  )


def _as_shares(column: Column, perfect: float, errors: float) -> Column:
  """Scores by the perfect one; an error, which has the other sign, is what the share lacks of 1."""
  shares: Column = {}
  for line, score in column.items():
    shares[line] = None if score is None else score / perfect + errors
  return shares


def _present(column: Column) -> list[float]:
  return [score for score in column.values() if score is not None]


def read(path: pathlib.Path, said: Columns, round_size: int | None) -> Table:
  """Reads and checks a table.

  Args:
    path: of the CSV file.
    said: what the person says of its columns.
    round_size: rows of a round, where no column names the rounds; the last may have fewer, and
      joins the one before it if it has one.

  Returns:
    The table.

  Raises:
    TableError: the table cannot be replayed.
    OSError: the file cannot be read.
  """
  file = table_file.read(path)
  _check_names(file, said)
  file, crashed = table_file.without_crashes(file)
  columns, ignored, no_scores = _columns(file, said)
  if len(columns) == 1:
    left_out = ', '.join(f'{name}: {why}' for name, why in ignored.items())
    raise TableError(
      f'{path} has no column of dev scores besides {said.external!r}'
      + (f' (left out: {left_out})' if left_out else '')
      + '; give each family one, or name those there are with --dev_columns=NAME,...'
      + _log_of_changes(file)
    )
  columns, zeros = _without_zeros(columns, said, crashed)
  grouping = _grouping(file, list(columns[said.external]), said, round_size)
  _check_directions(path, columns, said, grouping.order)
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
    rounds=_rounds(streams, external, grouping.groups),
    grouped=grouping.how,
    alone=grouping.alone,
    external=said.external,
    lower_is_better=tuple([OVERALL if name == overall_name else name for name in lower]),
    crashed=crashed,
    no_scores=no_scores,
    zeros=zeros,
  )


def _log_of_changes(file: TableFile) -> str:
  """The end of the message where a table has a status column."""
  if any(score_columns.is_status(name) for name in file.header):
    return '; a log of kept and discarded changes is judged by aevo audit_log'
  return ''


def _grouping(
  file: TableFile, lines: Sequence[int], said: Columns, round_size: int | None
) -> table_rounds.Grouping:
  """The rounds of some lines; raises TableError where no two can be ranked together."""
  if len(lines) < 2:
    raise TableError(
      f'{file.path} has {len(lines)} candidates with scores, and two or more are ranked together'
    )
  if said.round is None:
    return table_rounds.by_size(lines, round_size or len(lines))
  grouping = table_rounds.by_column(file, lines, said.round, said.period)
  if not grouping.groups:
    raise TableError(
      f'{file.path}: every row has a round of its own by column {said.round!r}, so nothing can be '
      'ranked; choose another column, or --round_size'
    )
  return grouping


def _rounds(
  streams: Mapping[str, Column], external: Column, groups: Sequence[table_rounds.Group]
) -> tuple[Round, ...]:
  rounds = []
  for group in groups:
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


def _check_directions(
  path: pathlib.Path, columns: Mapping[str, Column], said: Columns, order: Sequence[int]
) -> None:
  """Raises TableError where less seems to be better in a column and no flag says which."""
  for name, unordered in columns.items():
    column = _part(unordered, order)
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


def _columns(
  file: TableFile, said: Columns
) -> tuple[dict[str, Column], dict[str, str], dict[int, str]]:
  """Columns of scores; column -> why it is left out; and line -> a cell of it that is no score."""
  columns = {}
  ignored = {}
  no_scores = {}
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
      if score_columns.has_crashed(cell) or score_columns.is_infinite(cell):
        no_scores[line] = cell
      columns[name][line] = (
        None if line in no_scores else table_file.score(cell, file.path, line, name)
      )
    _check_ranks(file.path, name, columns[name], said)
  return columns, ignored, no_scores


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
