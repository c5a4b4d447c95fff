"""The ledger itself: its chain, and a history without repetitions or loose ends."""

import collections

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.report.audit.audited_run import AuditedRun

# A trial has at most one record of each.
_ONCE = (
  'trial_assigned',
  'trial_sealed',
  'trial_scored',
  'external_scored',
  'external_released',
  'final_candidate_scored',
  'submission_exported',
  'score_submitted',
)
_STATUSES = ('sealed', 'failed', 'refused', 'assigned')


def check_ledger(run: AuditedRun) -> str:
  """Checks the hash chain, and the head beside it.

  Args:
    run: reading its records raises LedgerError where the chain is broken.

  Returns:
    The number of records and the start of the head's hash.
  """
  run.expect(
    run.records and run.records[0].kind == 'campaign_started',
    'it does not begin with campaign_started',
  )
  return f'{len(run.records)} records, chained; the head is {run.records[-1].hash[:12]}'


def check_history(run: AuditedRun) -> str:
  """Checks that no trial was assigned, sealed or scored twice, and that none is left over.

  Args:
    run: a run, finished or not.

  Returns:
    Numbers of trials by status, of resumes, and how the campaign ended.
  """
  _check_repetitions(run)
  if run.state.finished is not None:
    _check_conclusion(run)
  if run.state.exhausted is not None:
    _check_exhaustion(run)
  statuses = collections.Counter(t.status for t in run.state.trials.values())
  counts = [f'{statuses[status]} {status}' for status in _STATUSES if statuses[status]]
  detail = f'{", ".join(counts)}; {run.state.resumes} resumes'
  if run.state.exhausted:
    detail += f'; ended after round {run.last_round} by the wall-clock budget'
  if run.state.finished is None:
    detail += '; unfinished'
  return detail


def _check_repetitions(run: AuditedRun) -> None:
  seen: set[tuple[str, str]] = set()
  for record in run.records:
    if record.kind not in _ONCE:
      continue
    trial = record.payload['trial']
    key = (record.kind, trial)
    run.expect(key not in seen, f'{trial} has two records {record.kind}')
    seen.add(key)


def _check_conclusion(run: AuditedRun) -> None:
  """A finished campaign has all its rounds and no open trial."""
  rounds = run.state.finished_rounds
  run.expect(rounds == set(range(run.last_round + 1)), f'finished rounds are {sorted(rounds)}')
  for trial in run.state.trials.values():
    run.expect(trial.done, f'{trial.trial} was never concluded')


def _check_exhaustion(run: AuditedRun) -> None:
  """Rounds end early only where the wall-clock budget was used up."""
  index = next(i for i, r in enumerate(run.records) if r.kind == 'budget_exhausted')
  before = fold(run.records[:index])
  run.expect(
    decisions.out_of_time(before, run.constitution, manual=run.manual) == run.state.exhausted,
    "the rounds were ended early, and the ledger's times do not say that the "
    'wall-clock budget was used up',
  )
