"""Run the verdicts over a table of candidates of your own: does the dev score still track the
external one, round after round?

  aevo replay_ledger history.csv --external_column=private_score
  aevo replay_ledger history.csv --external_column=private_score --round_column=week --items=200
  --gin.reversal.calibration_rounds=3

The table has a row for each candidate in the order of time and a column of dev scores for each
family; see docs/verdicts.md. Nothing is trained and nothing is written.
"""

import pathlib
import statistics
import sys

from absl import app, flags

from aevo_jax import command, faults, layout

COMMAND = command.Command('replay_ledger', __doc__)
_EXTERNAL = flags.DEFINE_string(
  'external_column', None, 'Column of the score that counts.', flag_values=COMMAND.flags
)
_ROUND_SIZE = flags.DEFINE_integer(
  'round_size',
  None,
  'Rows of a round; 8 unless --round_column is given.',
  lower_bound=2,
  flag_values=COMMAND.flags,
)
_ROUND_COLUMN = flags.DEFINE_string(
  'round_column', None, 'Column whose values name the rounds.', flag_values=COMMAND.flags
)
_ITEMS = flags.DEFINE_integer(
  'items',
  None,
  "Items behind each family's dev score, from which its reliability is known.",
  lower_bound=1,
  flag_values=COMMAND.flags,
)
SEED = 0


@COMMAND
def main(arguments: list[str]) -> None:
  if len(arguments) != 1:
    raise app.UsageError('say which table: aevo replay_ledger FILE.csv --external_column=NAME')
  if _EXTERNAL.value is None:
    raise app.UsageError('say which column holds the score that counts: --external_column=NAME')
  if _ROUND_SIZE.value is not None and _ROUND_COLUMN.value is not None:
    raise app.UsageError('--round_size and --round_column both say what a round is; leave out one')
  from aevo_jax.config import constitution
  from aevo_jax.config.loading import LoadError
  from aevo_jax.meta_agent.drift import score_table

  COMMAND.load_gin(layout.root_file('constitution.gin'))
  try:
    rules = constitution.from_gin().reversal
    replay(
      score_table.read(
        pathlib.Path(arguments[0]),
        _EXTERNAL.value,
        None if _ROUND_COLUMN.value else _ROUND_SIZE.value or 8,
        _ROUND_COLUMN.value,
      ),
      rules,
    )
  except (LoadError, score_table.TableError) as error:
    sys.exit(f'replay_ledger: {error}')
  except OSError as error:
    sys.exit(f'replay_ledger: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\nreplay_ledger: interrupted')


def replay(table, rules) -> None:
  """Prints what the table is, a verdict on every stream after every round, and the alarms."""
  from aevo_jax.meta_agent.drift import calibration, reversal
  from aevo_jax.stats import concordance

  print(
    f'{sum(r.rows for r in table.rounds)} candidates in {len(table.rounds)} rounds; dev: '
    f'{", ".join(table.families) or "overall alone"}'
  )
  if table.mean_overall:
    print(
      'overall: no such column, so it is the mean of the families in the rows that have all of them'
    )
  if table.ignored:
    print(
      'columns left out: ' + ', '.join(f'{name} ({why})' for name, why in table.ignored.items())
    )
  print(
    f'item noise: {_ITEMS.value} items a family'
    if _ITEMS.value
    else (
      'item noise: unknown without --items, so the reference slope is not scaled when the '
      'spread of dev shrinks'
    )
  )
  workers = round(statistics.median(r.rows for r in table.rounds))
  width = max(map(len, [*table.families, 'overall']))
  rows, alarms = [], {}
  for number, round_ in enumerate(table.rounds, 1):
    fixed = calibration.thresholds(rows, rules, len(table.rounds), workers, SEED)
    variance = table.item_variance(round_, _ITEMS.value) if _ITEMS.value else {}
    rows.append(
      concordance.reduce_round(
        round_.dev, dict.fromkeys(round_.dev, round_.external), variance, seed=number
      )
    )
    named = f' ({_ROUND_COLUMN.value} {round_.label})' if _ROUND_COLUMN.value else ''
    print(
      f'\nround {number}{named}: {round_.rows} candidates, lines {round_.lines[0]} to '
      f'{round_.lines[1]}'
    )
    found = reversal.verdicts(rows, rules, fixed)
    for stream in (*table.families, 'overall'):
      verdict = found.get(stream)
      print(
        f'  {stream:<{width}}  '
        + (
          line(verdict)
          if verdict
          else 'undetermined  fewer than two candidates have both scores in every round so far'
        )
      )
      if verdict and verdict.verdict in ('reversed', 'decoupled'):
        alarms.setdefault(stream, []).append((number, verdict.verdict))
  print()
  for stream, raised in alarms.items():
    print(
      f'ALARM {stream}: ' + ', '.join(f'{verdict} in round {number}' for number, verdict in raised)
    )
  if not alarms:
    print(f'no alarm in {len(table.rounds)} rounds')
  if len(table.rounds) <= rules.calibration_rounds:
    print(
      f'The slope test begins after {rules.calibration_rounds} calibration rounds '
      '(reversal.calibration_rounds); this table is over before.'
    )


def line(verdict) -> str:
  """One verdict as text: which, by which test, how strong, what could be detected, why."""
  evidence = (
    f'e = {verdict.e_value:.3g} (alarm at {verdict.threshold:.3g})'
    if verdict.p_value is None
    else (
      f'p = {verdict.p_value:.2g} '
      f'({"says so" if verdict.test == "concordance" else "alarm"} at '
      f'{verdict.threshold:.2g})'
    )
  )
  statistic = (
    f't = {verdict.statistic:.2f}'
    if 'slope' in verdict.test
    else f'{verdict.statistic:g} discordant pairs'
  )
  parts = [f'{verdict.verdict:<12}  {verdict.test}: {statistic}, {evidence}, n = {verdict.n}']
  if verdict.slope is not None:
    scaled = '' if verdict.lambda_ratio is None else f' (scaled by {verdict.lambda_ratio:.2f})'
    parts.append(
      f'slope {verdict.slope:.3g} +- {verdict.slope_error:.2g}, reference '
      f'{verdict.reference_slope:.3g}{scaled}'
    )
  detectable = verdict.minimum_detectable_effect
  what = 'slope drop' if verdict.effect == 'slope_drop' else 'correlation'
  parts.append(
    'detectable: none yet' if detectable is None else f'detectable: {what} {detectable:.2g}'
  )
  return '; '.join([*parts, verdict.why])


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
