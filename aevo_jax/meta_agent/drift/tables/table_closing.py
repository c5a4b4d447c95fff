"""What was seen in a table of candidates, and what could have been seen, stream by stream in words.

Effects are in the table's own points: a slope of log-odds is turned into one of points at the mean
scores of the table.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift.reversal import ALARMS, Verdict
from aevo_jax.meta_agent.drift.tables import table_verdicts
from aevo_jax.meta_agent.drift.tables.score_table import OVERALL, Table

# Sizes of rounds that are judged together; another size is judged with those from one below it to
# two above.
_USUAL = (7, 8, 9, 10)
_FEWEST = 3

_SEEN = {
  'reversed': 'dev and {external} ranked the candidates against each other',
  'gaining_nothing': 'dev gained and {external} did not follow',
  'decoupled': '{external} gained less with dev than in the calibration rounds',
}

# stream -> its verdict after each round, None where it has none
Course = Mapping[str, Sequence[Verdict | None]]


class Points(NamedTuple):
  """A stream's scores within rounds, in the table's points.

  Attributes:
    spread: standard deviation of dev between the candidates of a round.
    slope_unit: points of external per point of dev that a slope of 1 is.
  """

  spread: float
  slope_unit: float


def courses(table: Table, rules: Reversal, items: int | None) -> dict[str, list[Verdict | None]]:
  """Judges a table.

  Args:
    table: of candidates.
    rules: of the verdicts.
    items: behind each dev score, None where nobody knows.

  Returns:
    stream -> verdict after each round.
  """
  spoken = list(table_verdicts.judged(table, rules, items))
  streams = dict.fromkeys(stream for each in table.rounds for stream in each.dev)
  return {stream: [verdicts.get(stream) for verdicts in spoken] for stream in streams}


def outcome(course: Sequence[Verdict | None]) -> str:
  """Names the verdict on a whole table: the first alarm, or that of the last round.

  Args:
    course: of one stream.
  """
  spoken = [each.verdict for each in course if each is not None]
  for verdict in spoken:
    if verdict in ALARMS:
      return verdict
  return spoken[-1] if spoken else 'undetermined'


def at_other_sizes(
  table: Table, rules: Reversal, items: int | None, size: int
) -> dict[int, dict[str, str]]:
  """Judges a table at neighbouring sizes of rounds.

  Args:
    table: with rounds of one size.
    rules: of the verdicts.
    items: behind each dev score.
    size: of the table's rounds.

  Returns:
    size -> stream -> `outcome`, of sizes of 3 rows or more.
  """
  sizes = _USUAL if size in _USUAL else range(max(size - 1, _FEWEST), size + 3)
  found = {}
  for other in sizes:
    if other == size:
      continue
    judged = courses(table.with_rounds_of(other), rules, items)
    found[other] = {stream: outcome(course) for stream, course in judged.items()}
  return found


def sentences(
  table: Table, course: Course, others: Mapping[int, Mapping[str, str]], power: float
) -> list[str]:
  """Writes a closing sentence on every stream.

  Args:
    table: of candidates.
    course: of its streams.
    others: as `at_other_sizes` has them; empty where rounds are not by size.
    power: of what could have been seen.

  Returns:
    A line for each stream.
  """
  lines = []
  for stream, verdicts in course.items():
    if stream == OVERALL and table.mean_overall and len(table.families) == 1:
      continue  # the family once more
    line = f'{stream}: {_seen(verdicts, table.external)}; {_could(table, stream, verdicts, power)}.'
    verdict = outcome(verdicts)
    differing = []
    for size, outcomes in others.items():
      if outcomes[stream] != verdict:
        differing.append(f'{outcomes[stream]} in rounds of {size}')
    if differing:
      line += f' THE SIZE OF ROUNDS MATTERS: {verdict} here, {", ".join(differing)}.'
    lines.append(line)
  return lines


def _seen(course: Sequence[Verdict | None], external: str) -> str:
  """What was seen of one stream."""
  verdict = outcome(course)
  if verdict in ALARMS:
    numbers = [i for i, each in enumerate(course, 1) if each and each.verdict == verdict]
    words = _SEEN[verdict].format(external=external)
    return f'{verdict}, {words} (after {_numbered(numbers)})'
  if verdict == 'coupled':
    return f'coupled, dev and {external} ranked the candidates alike, and no alarm was raised'
  return f'undetermined, neither agreement of dev and {external} nor a change was beyond chance'


def _numbered(numbers: Sequence[int]) -> str:
  """Numbers of rounds, those in a row as first to last."""
  parts = []
  for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
    run = [number for _, number in group]
    parts.append(str(run[0]) if len(run) == 1 else f'{run[0]} to {run[-1]}')
  return f'round{"s" if len(numbers) > 1 else ""} {", ".join(parts)}'


def _could(table: Table, stream: str, course: Sequence[Verdict | None], power: float) -> str:
  """What could have been seen of one stream by the last round."""
  last = next((each for each in reversed(course) if each is not None), None)
  detectable = {} if last is None else last.detectable
  found = []
  drop = detectable.get('slope_drop')
  points = _points(table, stream)
  if drop is not None and points is not None:
    fall = drop * points.slope_unit
    found.append(
      f'a point gained on dev gains {fall:.2g} less on {table.external} than in the calibration '
      f'rounds ({fall * points.spread:.2g} for the {points.spread:.2g} by which candidates of a '
      'round differ)'
    )
  correlation = detectable.get('correlation')
  if correlation is not None:
    found.append(f'their ranks have a correlation of {correlation:.2f} or below in all rounds')
  if not found:
    return 'nothing could have been seen with so few candidates: add rounds or rows'
  return f'could have been seen, with power {power:g}: that {", or that ".join(found)}'


def _points(table: Table, stream: str) -> Points | None:
  """`Points` of a stream; None where dev does not differ."""
  squares = 0.0
  freedom = 0
  levels = []
  for each in table.rounds:
    column = each.dev[stream]
    both = [line for line, score in column.items() if None not in (score, each.external[line])]
    if len(both) < 2:
      continue
    scores = np.array([column[line] for line in both])
    squares += float(np.var(scores)) * len(scores)
    freedom += len(scores) - 1
    if table.perfect is not None:
      dev, external = table.shares(each)
      levels += [(dev[stream][line], external[line]) for line in both]
  if not squares:
    return None
  unit = 1.0
  if table.perfect is not None:
    inside, outside = np.mean(levels, axis=0)
    # d share = p (1 - p) d log-odds
    unit = outside * (1 - outside) / (inside * (1 - inside))
    unit *= table.perfect[1] / table.perfect[0]
  return Points(float(np.sqrt(squares / freedom)), float(unit))
