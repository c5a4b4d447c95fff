"""Audit a run: the ledger's chain, every digest, every score, every promotion, recomputed.

  aevo audit runs/demo            one line a check; exit status 1 if any failed
  aevo audit runs/demo --json

Everything comes from the run directory and its substrate store; gin has no say in it.
"""

import dataclasses
import json
import pathlib
import sys

from absl import flags

from aevo_jax import command, faults

COMMAND = command.Command(
  'audit',
  __doc__,
  takes=('RUN',),
  reads=('RUN',),
  no_gin='an audit takes its configuration from the run',
)
_JSON = flags.DEFINE_bool('json', False, 'Print the findings as JSON.', flag_values=COMMAND.flags)


@COMMAND
def main(arguments: list[str]) -> int:
  """Prints a line for each check; the status is 1 if one failed."""
  # Imported here, so that a wrong flag is answered before JAX starts.
  from aevo_jax.campaign.setup import setup

  run = pathlib.Path(arguments[0])
  try:
    setup.reload(run)  # not a run: said before the checks are imported
    from aevo_jax.report.audit import checks

    findings = []
    for finding in checks.audit(run.absolute()):
      findings.append(finding)
      if not _JSON.value:
        print(f'{finding.status:<8} {finding.check:<16} {finding.detail}', flush=True)
  except setup.RunDirectoryError as error:
    sys.exit(f'audit: {error}')
  except OSError as error:
    sys.exit(f'audit: {faults.explain(error)}')
  except KeyboardInterrupt:
    sys.exit('\naudit: interrupted; nothing was changed')
  failed = sum(finding.status == checks.FAILED for finding in findings)
  if _JSON.value:
    rows = [dataclasses.asdict(finding) for finding in findings]
    print(json.dumps({'run': str(run), 'failed': failed, 'findings': rows}, indent=2))
  elif failed:
    print(f'{failed} of {len(findings)} checks failed')
  else:
    print(f'{len(findings)} checks, none failed')
  return int(failed > 0)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
