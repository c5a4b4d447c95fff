"""What left the arbiter: released scores, and submissions to somebody else who scores."""

from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.evaluation import sets
from aevo_jax.report.audit.audited_run import AuditedRun


def check_releases(run: AuditedRun) -> str:
  """Checks the trials with released scores, their number, and that each is the rounded score.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of releases, and what their values were compared with.
  """
  released = run.payloads('external_released')
  for round_ in sorted(run.state.finished_rounds):
    _check_rule(run, round_, [p['trial'] for p in released if p['round'] == round_])
  count = f'{len(released)} releases within the quota'
  decimals = run.constitution.release.decimals
  if run.manual:
    for payload in released:
      _check_handed_in(run, payload)
    return f'{count}, each the score that was handed in to {decimals} decimals'
  if not _secret_holds(run):
    return f'{count}; their values can be checked once the secret is revealed'
  for payload in released:
    _check_external(run, payload)
  return f'{count}, each the external score to {decimals} decimals'


def expected_releases(run: AuditedRun, round_: int) -> list[str]:
  """Applies the rule of releases.

  Args:
    run: the run.
    round_: a finished round.

  Returns:
    The trials that the rule names; of a manual arbiter those of them that have a score.
  """
  chosen = _named_by_rule(run, round_)
  if not run.manual:
    return chosen
  return [trial for trial in chosen if run.state.trials[trial].submitted is not None]


def _named_by_rule(run: AuditedRun, round_: int) -> list[str]:
  return decisions.to_release(
    run.state.of_round(round_),
    run.constitution.release.per_round,
    run.policies[round_].objectives,
    decisions.repeated(run.state, round_),
    manual=run.manual,
  )


def _secret_holds(run: AuditedRun) -> bool:
  if run.state.revealed is None:
    return False
  return sets.commitment(run.secret) == run.constitution.holdout.commitment


def _check_rule(run: AuditedRun, round_: int, released: list[str]) -> None:
  allowed = run.constitution.release.per_round
  run.expect(
    len(released) <= allowed,
    f'round {round_} released {len(released)} scores, {allowed} are allowed',
  )
  run.expect(
    set(released) == set(expected_releases(run, round_)),
    f'round {round_} released other trials than its rule names',
  )


def _check_handed_in(run: AuditedRun, payload: dict) -> None:
  trial = payload['trial']
  score = run.state.trials[trial].submitted
  run.expect(
    payload['score'] == round(score, run.constitution.release.decimals),
    f'{trial} was released as {payload["score"]}, handed in was {score}',
  )


def _check_external(run: AuditedRun, payload: dict) -> None:
  trial = payload['trial']
  decimals = run.constitution.release.decimals
  families = {}
  for stream, score in run.external(trial).items():
    if stream != 'overall':
      families[stream] = [round(score['accuracy'], decimals), score['total']]
  accuracy = run.external(trial)['overall']['accuracy']
  run.expect(
    payload['score'] == round(accuracy, decimals),
    f'{trial} was released as {payload["score"]}, its external score is {accuracy}',
  )
  run.expect(
    payload['by_family'] == families,
    f'{trial} was released with other scores by family than it has',
  )


def check_submissions(run: AuditedRun) -> str:
  """Checks what was exported for somebody else to score.

  Each submission is of a trial that the rule names, holds the sealed candidate unchanged, and each
  score is of a submission.

  Args:
    run: a run with the constitution it began with.

  Returns:
    Numbers of submissions, of scores and of trials without one.
  """
  exported = {}
  for trial in run.state.trials.values():
    if trial.submission is not None:
      exported[trial.trial] = trial.submission
  if not run.manual:
    run.expect(
      not exported, f'{", ".join(exported)} exported, and the campaign has an arbiter of its own'
    )
    return 'none: the campaign has an arbiter of its own'
  scores = {payload['trial']: payload for payload in run.payloads('score_submitted')}
  for name, submission in exported.items():
    _check_submission(run, name, submission)
    run.expect(
      name not in scores or scores[name]['digest'] == submission['digest'],
      f'the score of {name} is of another submission',
    )
  run.expect(
    scores.keys() <= exported.keys(),
    f'scores of {sorted(scores.keys() - exported.keys())}, which were not exported',
  )
  detail = f'{len(exported)} submissions as exported, {len(scores)} scores handed in'
  waived = sum(trial.waived for trial in run.state.trials.values())
  if waived:
    detail += f', {waived} given up'
  return f'{detail}; the scores themselves cannot be recomputed here'


def _check_submission(run: AuditedRun, name: str, submission: dict) -> None:
  trial = run.state.trials[name]
  folder = manual_arbiter.payload(run.path, name, submission['form'])
  run.expect(
    submission['candidate'] == trial.candidate,
    f'{name} was exported as another candidate than was sealed',
  )
  if trial.round != FINAL:
    run.expect(
      name in _named_by_rule(run, trial.round),
      f'{name} was exported, and the rule names others',
    )
  run.expect(
    folder.is_dir()
    and digest_lib.manifest_digest(digest_lib.file_manifest(folder)) == submission['digest'],
    f'{folder.relative_to(run.path)} is not what was exported',
  )
