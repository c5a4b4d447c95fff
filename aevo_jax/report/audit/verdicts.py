"""Verdicts and evidence: thresholds, statistics of dev against external, and what follows."""

import collections

from aevo_jax.campaign.decisions import decisions
from aevo_jax.evaluation.servers import arbiter, told
from aevo_jax.report.audit.audited_run import AuditedRun, sha256


def check_verdicts(run: AuditedRun) -> str:
  """Checks the levels that were fixed, and the verdicts at them from the statistics.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of verdicts, by kind.
  """
  _check_version(run)
  for round_, recorded in run.state.thresholds.items():
    run.expect(
      recorded == decisions.fix_levels(run.state, round_, run.constitution),
      f'round {round_}: the levels are not those of the constitution',
    )
  if run.manual:
    _check_submitted_statistics(run)
  counts = collections.Counter()
  for round_, recorded in run.state.verdicts.items():
    run.expect(
      recorded == decisions.verdicts(run.state, round_, run.constitution),
      f'round {round_}: the statistics give other verdicts than were recorded',
    )
    counts.update(verdict['verdict'] for verdict in recorded.values())
  kinds = [f'{count} {verdict}' for verdict, count in sorted(counts.items())]
  return f'{counts.total()} verdicts recomputed: {", ".join(kinds)}'


def _check_version(run: AuditedRun) -> None:
  """Whether this version's rules judged the run; those of earlier ones had replays."""
  run.expect(
    not any('replays' in thresholds for thresholds in run.state.thresholds.values()),
    'an earlier version judged this run, by other tests; audit it with the code that it ran with '
    '(git checkout COMMIT, the commit is in the first record)',
  )


def _check_submitted_statistics(run: AuditedRun) -> None:
  """Of a manual arbiter the statistics follow from the scores that were handed in."""
  for round_, recorded in run.state.concordance.items():
    statistics = decisions.submitted_concordance(
      run.state, round_, run.constitution, run.started['seed']
    )
    run.expect(
      recorded == statistics,
      f'round {round_}: the recorded statistics of dev and external are not those of the '
      'scores that were handed in',
    )
  for round_, recorded in run.state.attributions.items():
    run.expect(
      recorded == decisions.submitted_control(run.state, round_),
      f'round {round_}: the recorded test of the control arm is not that of the scores '
      'that were handed in',
    )


def check_concordance(run: AuditedRun) -> str:
  """Checks the statistics behind the verdicts, and the control arm's test, from the answers.

  Args:
    run: a run with a revealed secret that holds.

  Returns:
    Numbers of rounds and of tests.
  """
  _check_version(run)
  for round_, recorded in run.state.concordance.items():
    run.expect(
      recorded == _concordance(run, round_),
      f'round {round_}: the recorded statistics of dev and external are not those of the answers',
    )
  for round_, recorded in run.state.attributions.items():
    run.expect(
      recorded == _control(run, round_),
      f'round {round_}: the recorded test of the control arm is not that of the answers',
    )
  return (
    f'{len(run.state.concordance)} rounds of statistics and {len(run.state.attributions)} '
    'tests of a control arm recomputed from the answers'
  )


def _concordance(run: AuditedRun, round_: int) -> dict:
  """Rows of a round, as the arbiter computes and tells them."""
  if not any(t.has_external for t in run.state.of_round(round_)):
    return {}
  asked = decisions.question(run.state, round_, run.constitution, run.started['seed'])
  names = {name for names in (*asked['rounds'], asked['start']) for name in names}
  dev = {name: run.answers(name, 'dev') for name in names}
  external = {name: run.answers(name, 'external') for name in names}
  return told.told(dev, external, asked, decimals=run.constitution.release.decimals)


def _control(run: AuditedRun, round_: int) -> dict | None:
  """The test of the control arm, as the arbiter computes it."""
  rounds = []
  for trials_of_arms in decisions.controlled(run.state, round_):
    arms = {}
    for arm, trials in trials_of_arms.items():
      arms[arm] = {trial: run.external(trial)['overall'] for trial in trials}
    rounds.append(arms)
  return arbiter.arm_result(rounds)


def check_evidence(run: AuditedRun) -> str:
  """Checks each round's evidence, rebuilt from the ledger's records, and its file.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of rounds.
  """
  for round_, recorded in run.state.evidence.items():
    path = run.evidence_path(round_)
    run.expect(
      sha256(run.rebuilt_evidence(round_)) == recorded,
      f"round {round_}: the ledger's records give other evidence than was recorded",
    )
    run.expect(
      path.exists() and sha256(path.read_text()) == recorded,
      f'{path.relative_to(run.path)} is not the recorded evidence',
    )
  return f'{len(run.state.evidence)} rounds of evidence rebuilt from the ledger'
