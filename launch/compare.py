"""Set two campaigns side by side: what differs, scores, costs and promotions.

  aevo compare runs/mine runs/other            two policies, two constitutions or two seeds
  aevo compare runs/mine runs/other --json

The difference of the scores has an interval. The campaigns need not be finished.
"""

import pathlib
import sys

from absl import flags

from aevo_jax import command, faults
from aevo_jax.ledger.records import LedgerError

COMMAND = command.Command(
  'compare',
  __doc__,
  takes=('RUN_A', 'RUN_B'),
  reads=('RUN_A', 'RUN_B'),
  no_gin='a comparison takes everything from the two runs',
)
_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object.', flag_values=COMMAND.flags)


@COMMAND
def main(arguments: list[str]) -> None:
  """Prints the comparison."""
  from aevo_jax.config.configurables import LoadError
  from aevo_jax.report import comparison
  from aevo_jax.report.gains import ScoreFileError
  from aevo_jax.report.run_view import NoRunError

  try:
    found = comparison.compare(pathlib.Path(arguments[0]), pathlib.Path(arguments[1]))
  except (comparison.ComparisonError, NoRunError, LedgerError, ScoreFileError, LoadError) as error:
    sys.exit(f'compare: {error}')
  except OSError as error:
    sys.exit(f'compare: {faults.explain(error)}')
  if _JSON.value:
    print(comparison.to_json(found))
  else:
    print(comparison.text(found))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
