"""Write a run's report.html and print its final table; of an unfinished run, as far as it has come.

aevo report runs/demo
"""

import pathlib
import sys

from aevo_jax import command, faults
from aevo_jax.checkpoint.run_directory import no_campaign
from aevo_jax.ledger.records import LedgerError

COMMAND = command.Command(
  'report',
  __doc__,
  takes=('RUN',),
  reads=('RUN',),
  no_gin='a report takes everything from the run',
)


@COMMAND
def main(arguments: list[str]) -> None:
  """Writes the report and prints the table."""
  run = pathlib.Path(arguments[0])
  if not (run / 'ledger.jsonl').is_file():  # said before anything heavy is imported
    sys.exit(f'report: {no_campaign(run, ["ledger.jsonl"])}')
  from aevo_jax.report.final_table import final_table
  from aevo_jax.report.gains import ScoreFileError
  from aevo_jax.report.page import html
  from aevo_jax.report.run_view import NoRunError, RunView

  try:
    view = RunView(run.absolute())
    path = html.write(view)
    print(final_table(view))
    print(f'report: {path}')
  except (NoRunError, LedgerError, ScoreFileError) as error:
    sys.exit(f'report: {error}')
  except OSError as error:
    sys.exit(f'report: {faults.explain(error)}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
