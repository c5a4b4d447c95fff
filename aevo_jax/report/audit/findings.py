"""Findings: what one check of the audit came to, and the exceptions that a check may raise."""

import dataclasses
from collections.abc import Sequence

OK = 'ok'
FAILED = 'FAILED'
WARNING = 'warning'
NOT_YET = 'not yet'
SKIPPED = 'skipped'
NOT_APPLICABLE = 'n/a'
SHOWN = 6  # problems named in one line


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the audit. status: 'ok', 'FAILED', 'warning', 'not yet', 'skipped' or 'n/a'."""

  check: str
  status: str
  detail: str


class NotYetError(Exception):
  """The run has not come to what the check looks at."""


class NotApplicableError(Exception):
  """A campaign of this kind has nothing for the check to look at."""


class AuditWarning(Exception):
  """Nothing is wrong with the run, but its reader should know this."""


def summarize(problems: Sequence[str]) -> str:
  """Joins problems into one line.

  Args:
    problems: sentences; the first `SHOWN` are named.

  Returns:
    The line, which ends with the number of the others.
  """
  rest = len(problems) - SHOWN
  line = '; '.join(problems[:SHOWN])
  if rest > 0:
    line += f'; and {rest} more'
  return line
