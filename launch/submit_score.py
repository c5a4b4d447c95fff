"""Hand in the score that somebody else gave a submission of a campaign.

  aevo submit_score runs/mine r1w3 0.84 --note='public leaderboard'
  aevo campaign --resume=runs/mine       once all scores of the round are in

The campaign has campaign.arbiter = 'manual'. A score is a fraction between 0 and 1, and is given
once. What lies in submissions/TRIAL must still be what was exported.
"""

import pathlib
import sys

from absl import app, flags

from aevo_jax import command, faults
from aevo_jax.ledger.records import LedgerError

COMMAND = command.Command(
  'submit_score',
  __doc__,
  takes=('RUN', 'TRIAL', 'SCORE'),
  reads=('RUN',),
  no_gin='a score is handed in to a run that has its configuration',
)
_NOTE = flags.DEFINE_string(
  'note', '', 'Where the score comes from; kept in the ledger.', flag_values=COMMAND.flags
)
_DIGEST = flags.DEFINE_string(
  'digest',
  '',
  "Digest of what was scored, as the submission's README.txt names it.",
  flag_values=COMMAND.flags,
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Enters one score into the run's ledger."""
  run = pathlib.Path(arguments[0])
  trial = arguments[1]
  try:
    score = float(arguments[2])
  except ValueError:
    raise app.UsageError(f'a score is a number between 0 and 1, got {arguments[2]!r}') from None
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.campaign import manual_arbiter
  from aevo_jax.campaign.setup import setup

  try:
    setup.reload(run)
    print(manual_arbiter.submit(run, trial, score, _NOTE.value, _DIGEST.value))
  except (setup.RunDirectoryError, manual_arbiter.ScoreRefusedError, LedgerError) as error:
    sys.exit(f'submit_score: {error}')
  except OSError as error:
    sys.exit(f'submit_score: {faults.explain(error)}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
