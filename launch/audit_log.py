"""Judge a log of kept and discarded changes: which gains are more than luck.

  aevo audit_log results.tsv --seed_sd=0.0008
  aevo audit_log results.tsv --noise_from=discards
  aevo audit_log history.csv --score_column=accuracy --status_column=outcome

The log has a row for each run in the order of time, with a score and a status (keep, discard or
crash), as autoresearch's results.tsv. Printed are, for every kept change, its gain over the one
kept before, and whether the best of as many tries without effect gains as much; how many changes
noise alone would have kept; and how much of the improvement is real for certain. Nothing is
trained and nothing is written; docs/keep_logs.md explains the figures.
"""

import dataclasses
import json
import pathlib
import sys

from absl import app, flags

from aevo_jax import command, faults

COMMAND = command.Command(
  'audit_log',
  __doc__,
  takes=('LOG',),
  reads=('LOG',),
  no_gin='nothing of a log depends on gin',
)
_SEED_SD = flags.DEFINE_float(
  'seed_sd',
  None,
  'Standard deviation of the score between seeds, from repeats of one recipe.',
  flag_values=COMMAND.flags,
)
_NOISE_FROM = flags.DEFINE_enum(
  'noise_from',
  None,
  ['replicates', 'discards'],
  (
    'Where the noise between seeds comes from: runs of the same commit or description (the default '
    'where there are some), or discarded changes, if most of them did nothing.'
  ),
  flag_values=COMMAND.flags,
)
_SCORE = flags.DEFINE_string(
  'score_column',
  None,
  'COLUMN: that of the score that decides what is kept; the only one that looks so if not given.',
  flag_values=COMMAND.flags,
)
_STATUS = flags.DEFINE_string(
  'status_column', 'status', 'COLUMN: that of keep, discard and crash.', flag_values=COMMAND.flags
)
_LOWER = flags.DEFINE_bool(
  'lower_is_better',
  None,
  'Less is better in the score; by its name if not given (a loss, an error rate).',
  flag_values=COMMAND.flags,
)
_ALPHA = flags.DEFINE_float(
  'alpha',
  0.05,
  'Probability of naming any kept change that has no effect.',
  flag_values=COMMAND.flags,
)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=COMMAND.flags)


@COMMAND
def main(arguments: list[str]) -> None:
  """Reads the log and prints its judgement."""
  if _SEED_SD.value is not None and _NOISE_FROM.value is not None:
    raise app.UsageError('--seed_sd and --noise_from both say what the noise is; leave out one')
  if _SEED_SD.value is not None and not 0 < _SEED_SD.value < float('inf'):
    raise app.UsageError(f'--seed_sd must be above 0, got {_SEED_SD.value:g}')
  if not 0 < _ALPHA.value < 1:
    raise app.UsageError(f'--alpha must lie in (0, 1), got {_ALPHA.value:g}')
  from aevo_jax.meta_agent.drift.tables.table_file import TableError
  from aevo_jax.meta_agent.keep_logs import keep_log, kept_gains, wording

  said = keep_log.Said(_SCORE.value, _STATUS.value, _LOWER.value)
  try:
    log = keep_log.read(pathlib.Path(arguments[0]), said)
    noise = _noise(log)
  except TableError as error:
    sys.exit(f'audit_log: {error}')
  except OSError as error:
    sys.exit(f'audit_log: {faults.explain(error)}')
  judgement = kept_gains.judge(log, noise, _ALPHA.value)
  if _JSON.value:
    print(
      json.dumps(dataclasses.asdict(judgement) | {'noise': dataclasses.asdict(noise)}, indent=1)
    )
    return
  print('\n'.join(wording.lines(log, noise, judgement)))


def _noise(log):
  """The noise between seeds, as the flags say; raises TableError where nothing has it."""
  from aevo_jax.meta_agent.drift.tables.table_file import TableError
  from aevo_jax.meta_agent.keep_logs import seed_noise

  if _SEED_SD.value is not None:
    return seed_noise.given(_SEED_SD.value)
  if _NOISE_FROM.value == 'discards':
    return seed_noise.of_discards(log)
  noise = seed_noise.of_replicates(log)
  if noise is None:
    raise TableError(
      'nothing in the log says how much scores differ between seeds: no commit or description '
      'comes twice. Repeat the standing recipe with three or more seeds and give '
      '--seed_sd=STANDARD_DEVIATION, or say --noise_from=discards if most discarded changes did '
      'nothing'
    )
  return noise


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
