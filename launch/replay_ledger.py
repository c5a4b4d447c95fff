"""Run the verdicts over a table of candidates of your own.

  aevo replay_ledger history.csv --external_column=private_score
  aevo replay_ledger history.csv --external_column=private_score --round_column=week \
    --items=200 --gin.reversal.calibration_rounds=3

Prints whether the dev score still tracks the external one, round after round. The table has a row
for each candidate in the order of time, and a column of dev scores for each family; see
docs/verdicts.md. More is better in every column that --lower_is_better does not name. Nothing is
trained and nothing is written.
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
  'Rows of a round; 8 unless --round_column is given.',
  lower_bound=2,
  flag_values=COMMAND.flags,
)
_ROUND_COLUMN = flags.DEFINE_string(
  'round_column', None, 'COLUMN: the one whose values name the rounds.', flag_values=COMMAND.flags
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
SEED = 0
DEFAULT_ROUND_SIZE = 8


@COMMAND
def main(arguments: list[str]) -> None:
  """Reads the table and prints the verdicts."""
  if _ROUND_SIZE.value is not None and _ROUND_COLUMN.value is not None:
    raise app.UsageError('--round_size and --round_column both say what a round is; leave out one')
  from aevo_jax.config import constitution
  from aevo_jax.config.loading import LoadError
  from aevo_jax.meta_agent.drift import score_table

  round_size = None
  if not _ROUND_COLUMN.value:
    round_size = _ROUND_SIZE.value or DEFAULT_ROUND_SIZE
  try:
    # The table first: what is wrong with it is said before JAX starts.
    table = score_table.read(pathlib.Path(arguments[0]), _columns(), round_size)
    COMMAND.load_gin(layout.root_file('constitution.gin'))
    rules = constitution.from_gin().reversal
    replay(table, rules, items=_ITEMS.value, round_column=_ROUND_COLUMN.value)
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
  from aevo_jax.meta_agent.drift import score_table

  return score_table.Columns(
    external=_EXTERNAL.value,
    round=_ROUND_COLUMN.value,
    dev=tuple(_DEV_COLUMNS.value),
    lower_is_better=tuple(_LOWER.value),
    higher_is_better=tuple(_HIGHER.value),
  )


def replay(table, rules, *, items: int | None, round_column: str | None) -> None:
  """Prints the table's outline, a verdict on every stream after every round, and the alarms.

  Args:
    table: `score_table.Table`.
    rules: the constitution's `reversal` section.
    items: questions behind each family's dev score; None where nobody knows.
    round_column: column that names the rounds, for the headings.
  """
  from aevo_jax.meta_agent.drift import table_verdicts
  from aevo_jax.meta_agent.drift.reversal import ALARMS

  _print_outline(table, items)
  streams = [*table.families, 'overall']
  width = max(map(len, streams))
  alarms: dict[str, list[str]] = {}
  detectable = False
  spoken = table_verdicts.judged(table, rules, items)
  for number, (round_, verdicts) in enumerate(zip(table.rounds, spoken, strict=True), 1):
    label = ''
    if round_column:
      label = f' ({round_column} {round_.label})'
    first, last = round_.lines
    print(f'\nround {number}{label}: {round_.rows} candidates, lines {first} to {last}')
    for stream in streams:
      verdict = verdicts.get(stream)
      print(f'  {stream:<{width}}  {line(verdict)}')
      detectable |= verdict is not None and verdict.minimum_detectable_effect is not None
      if verdict and verdict.verdict in ALARMS:
        alarms.setdefault(stream, []).append(f'{verdict.verdict} in round {number}')
  print()
  for stream, raised in alarms.items():
    print(f'ALARM {stream}: {", ".join(raised)}')
  if not alarms:
    print(f'no alarm in {len(table.rounds)} rounds')
    if not detectable:
      print('None could have been raised: too few candidates have both scores. Add rounds or rows.')
  if len(table.rounds) <= rules.calibration_rounds:
    print(
      f'The slope test begins after {rules.calibration_rounds} calibration rounds '
      '(reversal.calibration_rounds); this table is over before.'
    )


def _print_outline(table, items: int | None) -> None:
  """Prints how large the table is, what was left out, and what is known of item noise."""
  candidates = sum(round_.rows for round_ in table.rounds)
  families = ', '.join(table.families) or 'overall alone'
  print(f'{candidates} candidates in {len(table.rounds)} rounds; dev: {families}')
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
