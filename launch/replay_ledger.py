"""Run the verdicts over a table of candidates of your own.

  aevo replay_ledger history.csv --external_column=private_score
  aevo replay_ledger history.csv --external_column=private_score --round_column=week \
    --items=200 --gin.reversal.calibration_rounds=3

Prints whether the dev score still tracks the external one, round after round, and a sentence on
each family: what was seen, and what could have been. The table has a row for each candidate in the
order of time, or with dates that --round_column names, and a column of dev scores for each family;
see docs/verdicts.md. More is better in every column that --lower_is_better does not name. Nothing
is trained and nothing is written.
"""

import pathlib
import sys

from absl import app, flags

from aevo_jax import command, faults, layout

COMMAND = command.Command('replay_ledger', __doc__, takes=('TABLE',), reads=('TABLE',))
_EXTERNAL = flags.DEFINE_string(
  'external_column',
  None,
  'COLUMN: that of the score that counts.',
  required=True,
  flag_values=COMMAND.flags,
)
_ROUND_SIZE = flags.DEFINE_integer(
  'round_size',
  None,
  'Rows of a round; 8 unless --round_column is given. Neighbouring sizes are judged too.',
  lower_bound=2,
  flag_values=COMMAND.flags,
)
_ROUND_COLUMN = flags.DEFINE_string(
  'round_column',
  None,
  'COLUMN: the one whose values name the rounds, or with dates or timestamps.',
  flag_values=COMMAND.flags,
)
_ROUND_BY = flags.DEFINE_enum(
  'round_by',
  None,
  ['day', 'week', 'month'],
  'Rounds of the dates in --round_column; the shortest with four rows or more if not given.',
  flag_values=COMMAND.flags,
)
_DEV_COLUMNS = flags.DEFINE_list(
  'dev_columns',
  [],
  'COLUMN,...: those of dev scores; all that look like some if not given.',
  flag_values=COMMAND.flags,
)
_LOWER = flags.DEFINE_list(
  'lower_is_better',
  [],
  'COLUMN,...: those of scores of which less is better, such as a loss.',
  flag_values=COMMAND.flags,
)
_HIGHER = flags.DEFINE_list(
  'higher_is_better',
  [],
  'COLUMN,...: those of which more is better although they are called as losses are.',
  flag_values=COMMAND.flags,
)
_ITEMS = flags.DEFINE_integer(
  'items',
  None,
  "Items behind each family's dev score, from which its reliability is known.",
  lower_bound=1,
  flag_values=COMMAND.flags,
)
DEFAULT_ROUND_SIZE = 8


@COMMAND
def main(arguments: list[str]) -> None:
  """Reads the table and prints the verdicts."""
  if _ROUND_SIZE.value is not None and _ROUND_COLUMN.value is not None:
    raise app.UsageError('--round_size and --round_column both say what a round is; leave out one')
  if _ROUND_BY.value is not None and _ROUND_COLUMN.value is None:
    raise app.UsageError('--round_by divides the dates of --round_column; name that too')
  from aevo_jax.config import constitution
  from aevo_jax.config.loading import LoadError
  from aevo_jax.meta_agent.drift.tables import score_table

  round_size = None
  if not _ROUND_COLUMN.value:
    round_size = _ROUND_SIZE.value or DEFAULT_ROUND_SIZE
  try:
    # The table first: what is wrong with it is said before JAX starts.
    table = score_table.read(pathlib.Path(arguments[0]), _columns(), round_size)
    COMMAND.load_gin(layout.root_file('constitution.gin'))
    rules = constitution.from_gin().reversal
    replay(table, rules, items=_ITEMS.value, round_column=_ROUND_COLUMN.value, size=round_size)
  except (LoadError, score_table.TableError) as error:
    sys.exit(f'replay_ledger: {error}')
  except BrokenPipeError:
    raise
  except OSError as error:
    sys.exit(f'replay_ledger: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\nreplay_ledger: interrupted')


def _columns():
  """What the flags say of the columns."""
  from aevo_jax.meta_agent.drift.tables import score_table

  return score_table.Columns(
    external=_EXTERNAL.value,
    round=_ROUND_COLUMN.value,
    period=_ROUND_BY.value,
    dev=tuple(_DEV_COLUMNS.value),
    lower_is_better=tuple(_LOWER.value),
    higher_is_better=tuple(_HIGHER.value),
  )


def replay(table, rules, *, items: int | None, round_column: str | None, size: int | None) -> None:
  """Prints the table's outline, a verdict on every stream after every round, and what was seen.

  Args:
    table: `score_table.Table`.
    rules: the constitution's `reversal` section.
    items: questions behind each family's dev score; None where nobody knows.
    round_column: column that names the rounds, for the headings.
    size: rows of a round; None where a column names the rounds.
  """
  from aevo_jax.meta_agent.drift.tables import table_closing

  _print_outline(table, items)
  course = table_closing.courses(table, rules, items)
  width = max(map(len, course))
  for number, round_ in enumerate(table.rounds, 1):
    label = ''
    if round_column:
      label = f' ({round_column} {round_.label})'
    first, last = round_.lines
    print(f'\nround {number}{label}: {round_.rows} candidates, lines {first} to {last}')
    for stream, verdicts in course.items():
      print(f'  {stream:<{width}}  {line(verdicts[number - 1])}')
  print()
  _print_alarms(course, len(table.rounds), rules)
  others = {}
  if size is not None:
    others = table_closing.at_other_sizes(table, rules, items, size)
    sizes = ', '.join(str(each) for each in others)
    print(f'\nIn words, where rounds of {sizes} rows were judged beside those of {size}:')
  else:
    print('\nIn words:')
  for sentence in table_closing.sentences(table, course, others, rules.power):
    print(f'  {sentence}')
  print(
    f'A gain of dev that all candidates of a round share, and that {table.external} does not '
    'follow, cannot be seen in a table: it takes replicates of the starting recipe.'
  )


def _print_alarms(course, rounds: int, rules) -> None:
  """Prints the alarms of every stream, or why there was none."""
  from aevo_jax.meta_agent.drift.reversal import ALARMS

  raised = False
  detectable = False
  for stream, verdicts in course.items():
    alarms = []
    for number, verdict in enumerate(verdicts, 1):
      if verdict is None:
        continue
      detectable |= verdict.minimum_detectable_effect is not None
      if verdict.verdict in ALARMS:
        alarms.append(f'{verdict.verdict} in round {number}')
    if alarms:
      raised = True
      print(f'ALARM {stream}: {", ".join(alarms)}')
  if not raised:
    print(f'no alarm in {rounds} rounds')
    if not detectable:
      print('None could have been raised: too few candidates have both scores. Add rounds or rows.')
  if rounds <= rules.calibration_rounds:
    print(
      f'The slope test begins after {rules.calibration_rounds} calibration rounds '
      '(reversal.calibration_rounds); this table is over before.'
    )


def _print_outline(table, items: int | None) -> None:
  """Prints how large the table is, what was left out, and what is known of item noise."""
  candidates = sum(round_.rows for round_ in table.rounds)
  families = ', '.join(table.families) or 'overall alone'
  print(f'{candidates} candidates in {len(table.rounds)} rounds; dev: {families}')
  print(table.grouped)
  if table.alone:
    rows = ', '.join(f'{line} ({label})' for line, label in table.alone.items())
    print(f'not judged, since they are alone in their round: lines {rows}')
  if table.mean_overall:
    print(
      'overall: no such column, so it is the mean of the families in the rows that have all of them'
    )
  if table.ignored:
    ignored = ', '.join(f'{name} ({why})' for name, why in table.ignored.items())
    print(f'columns left out: {ignored}')
  _print_directions(table)
  if table.crashed:
    rows = ', '.join(f'{line} ({why})' for line, why in sorted(table.crashed.items()))
    print(f'{len(table.crashed)} candidates left out as crashed: lines {rows}')
  if table.no_scores:
    rows = ', '.join(f'{line} ({cell})' for line, cell in sorted(table.no_scores.items()))
    print(f'cells that are no scores: lines {rows}')
  if table.zeros:
    lines = ', '.join(map(str, table.zeros))
    print(
      f'lines {lines} have 0 in every score and count; if those candidates crashed, leave their '
      'cells empty'
    )
  if items:
    print(f'item noise: {items} items a family')
  else:
    print(
      'item noise: unknown without --items, so the reference slope is not scaled when the '
      'spread of dev shrinks'
    )


def _print_directions(table) -> None:
  """Prints of which scores more is better, and of which less."""
  names = [*table.families, table.external]
  if not table.mean_overall:
    names.insert(-1, 'overall')
  higher = [name for name in names if name not in table.lower_is_better]
  lower = [name for name in names if name in table.lower_is_better]
  for words, columns in (('more', higher), ('less', lower)):
    if columns:
      print(f'{words} is better: {", ".join(columns)}')


def line(verdict) -> str:
  """Writes one verdict: which, by which test, how strong, what could be detected, and why.

  Args:
    verdict: `reversal.Verdict`; None where too few candidates have both scores.

  Returns:
    One line of text.
  """
  if verdict is None:
    return 'undetermined  fewer than two candidates have both scores in every round so far'
  statistic = f'{verdict.statistic:g} discordant pairs'
  if 'slope' in verdict.test:
    statistic = f't = {verdict.statistic:.2f}'
  parts = [
    f'{verdict.verdict:<12}  {verdict.test}: {statistic}, {_strength(verdict)}, n = {verdict.n}'
  ]
  if verdict.slope is not None:
    scaled = ''
    if verdict.lambda_ratio is not None:
      scaled = f' (scaled by {verdict.lambda_ratio:.2f})'
    parts.append(
      f'slope {verdict.slope:.3g} +- {verdict.slope_error:.2g}, reference '
      f'{verdict.reference_slope:.3g}{scaled}'
    )
  parts.append(_detectable(verdict))
  return '; '.join([*parts, verdict.why])


def _strength(verdict) -> str:
  """Writes the e-value or p-value of a verdict with its threshold."""
  if verdict.p_value is None:
    return f'e = {verdict.e_value:.3g} (alarm at {verdict.threshold:.3g})'
  meaning = 'alarm'
  if verdict.test == 'concordance':
    meaning = 'says so'
  return f'p = {verdict.p_value:.2g} ({meaning} at {verdict.threshold:.2g})'


def _detectable(verdict) -> str:
  """Writes the smallest effect that the test could find."""
  effect = verdict.minimum_detectable_effect
  if effect is None:
    return 'detectable: none yet'
  if verdict.effect == 'slope_drop':
    return f'detectable: slope drop {effect:.2g}'
  return f'detectable: correlation {effect:.2g}'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
