"""Write a run's report.html and print its final table; of an unfinished run, as far as it has come.

aevo report runs/demo
"""

import pathlib
import sys

from absl import app, flags

from aevo_jax import faults
from aevo_jax.config import flags as gin_flags
from aevo_jax.ledger.records import LedgerError


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('say which run: aevo report RUN_DIRECTORY')
  if flags.FLAGS.gin_file or flags.FLAGS.gin_bindings:
    raise app.UsageError(
      'a report takes everything from the run; leave out --gin_file and --gin_bindings'
    )
  run = pathlib.Path(argv[1])
  if not (run / 'ledger.jsonl').is_file():  # said before anything heavy is imported
    sys.exit(
      f'report: {run} is not a run: it has no ledger.jsonl; start one with aevo campaign '
      f'--run={run}'
    )
  from aevo_jax.report import html
  from aevo_jax.report.final_table import final_table
  from aevo_jax.report.gains import ScoreFileError
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
  gin_flags.define()
  app.run(main, flags_parser=gin_flags.parse)
