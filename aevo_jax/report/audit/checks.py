"""The audit's table of checks, and the function that runs them.

Nothing stored is believed that can be derived: dev, external and final items are drawn again,
answers are compared again with their keys, ranks, releases, evidence, policies and promotions are
computed again by the functions the controller used, and digests are taken again from the files.

Two checks are gates: with a broken ledger, or another constitution than the run's, nothing further
can be said and the rest is skipped; so are the private scores without the secret that was committed
to. What a run has not come to yet is 'not yet', which is no failure.
"""

import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from safetensors import SafetensorError

from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.ledger.records import LedgerError
from aevo_jax.report.audit import history, inputs, policies, releases, scores, trials, verdicts
from aevo_jax.report.audit.audited_run import AuditedRun, Measure
from aevo_jax.report.audit.findings import (
  FAILED,
  NOT_APPLICABLE,
  NOT_YET,
  OK,
  SKIPPED,
  WARNING,
  AuditWarning,
  Finding,
  NotApplicableError,
  NotYetError,
  summarize,
)
from aevo_jax.substrate import build

# What a file that was tampered with can make its reader raise.
_UNREADABLE = (
  OSError,
  ValueError,
  KeyError,
  TypeError,
  AttributeError,
  IndexError,
  RecursionError,
  LedgerError,
  ManifestError,
  SafetensorError,
)


class Check(NamedTuple):
  """One check.

  Attributes:
    name: its name for the user.
    function: adds problems to the run and returns a line of detail.
    needs: the check without which this one says nothing, '' for none.
    of_submitted: whether it also looks at scores that were handed in by somebody else, so that it
      runs where the check that it needs is not applicable.
  """

  name: str
  function: Callable[[AuditedRun], str]
  needs: str = 'constitution'
  of_submitted: bool = False


_TABLE = (
  Check('ledger', history.check_ledger, needs=''),
  Check('constitution', inputs.check_constitution, needs='ledger'),
  Check('inputs', inputs.check_inputs),
  Check('history', history.check_history),
  Check('substrate', inputs.check_substrate),
  Check('tasks', inputs.check_tasks),
  Check('code', inputs.check_code),
  Check('confinement', inputs.check_confinement),
  Check('sealed trials', trials.check_seals),
  Check('recipes', trials.check_recipes),
  Check('dev scores', scores.check_dev_scores),
  Check('probes', scores.check_probes),
  Check('verdicts', verdicts.check_verdicts),
  Check('evidence', verdicts.check_evidence),
  Check('policies', policies.check_policies),
  Check('transcript', policies.check_transcript),
  Check('promotions', policies.check_promotions),
  Check('releases', releases.check_releases),
  Check('submissions', releases.check_submissions),
  Check('commitment', inputs.check_commitment),
  Check('external scores', scores.check_external_scores, needs='commitment'),
  Check('ranks', scores.check_ranks, needs='commitment', of_submitted=True),
  Check('concordance', verdicts.check_concordance, needs='commitment'),
  Check('final scores', scores.check_final_scores, needs='commitment'),
)
_BY_NAME = {check.name: check for check in _TABLE}
CHECKS = tuple(_BY_NAME)


def audit(
  run: pathlib.Path,
  checks: Collection[str] = CHECKS,
  *,
  measure: Measure = build.measure,
  parse: Parser = parse_untrusted,
) -> Iterator[Finding]:
  """Yields the findings of some checks, in the order of `CHECKS`.

  A check that another one needs runs too, without a finding if it is not named. `recipes` leaves
  the files of broken trials to `sealed trials`, and the scores of a broken base are left to
  `substrate`; where these are not named, a damaged file is reported by the checks that read it.

  Args:
    run: a run directory, finished or not, with no controller at work in it.
    checks: names out of `CHECKS`.
    measure: measures the substrate of this checkout, given its folder and the package's root.
    parse: reads what agents wrote, by default in a process of its own.

  Yields:
    One finding for each named check.

  Raises:
    ValueError: a name is not in `CHECKS`.
  """
  unknown = set(checks) - set(CHECKS)
  if unknown:
    raise ValueError(f'checks must be of {", ".join(CHECKS)}; received {", ".join(unknown)}')
  audited = AuditedRun(run, measure=measure, parse=parse)
  needed = _with_needs(checks)
  findings: dict[str, Finding] = {}
  for check in _TABLE:
    if check.name not in needed:
      continue
    finding = _without_running(check, findings)
    if finding is None:
      finding = _finding(check, audited)
    findings[check.name] = finding
    if check.name in checks:
      yield finding


def _with_needs(names: Collection[str]) -> set[str]:
  needed = set()
  for name in names:
    while name:
      needed.add(name)
      name = _BY_NAME[name].needs
  return needed


def _without_running(check: Check, findings: Mapping[str, Finding]) -> Finding | None:
  """The finding of a check that cannot look, because of the one that it needs."""
  if not check.needs:
    return None
  cause = findings[check.needs]
  if cause.status == NOT_YET:
    return Finding(check.name, NOT_YET, 'needs the secret')
  if cause.status == NOT_APPLICABLE and not check.of_submitted:
    return Finding(
      check.name, NOT_APPLICABLE, 'private re-scoring: somebody else scored this campaign'
    )
  while cause.status == SKIPPED:
    cause = findings[_BY_NAME[cause.check].needs]
  if cause.status == FAILED:
    return Finding(check.name, SKIPPED, f'says nothing while the {cause.check} check fails')
  return None


def _finding(check: Check, run: AuditedRun) -> Finding:
  run.problems = []
  status = OK
  detail = ''
  try:
    detail = check.function(run)
  except NotYetError as reason:
    detail = str(reason)
    status = NOT_YET
  except NotApplicableError as reason:
    detail = str(reason)
    status = NOT_APPLICABLE
  except AuditWarning as warning:
    detail = str(warning)
    status = WARNING
  except _UNREADABLE as error:
    run.problems.append(f'{type(error).__name__}: {error}')
  if run.problems:
    return Finding(check.name, FAILED, summarize(run.problems))
  return Finding(check.name, status, detail)
