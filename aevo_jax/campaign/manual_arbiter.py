"""The manual arbiter: for targets that only somebody else can score, such as a leaderboard.

    export    a chosen candidate becomes run/submissions/TRIAL/: what to hand in, and a README.txt
              with its digest and the command for its score
              (the controller stops; `aevo submit_score RUN TRIAL SCORE` writes each score into the
              ledger; `aevo campaign --resume=RUN` goes on)
    submit    a score, once, for what was exported
    waive     to go on without the scores that did not come

There is no holdout and no secret, so nothing of these scores can be recomputed here; what followed
from them can.
"""

import math
import os
import pathlib
import shlex
import shutil
from collections.abc import Callable, Iterable
from typing import Any

from aevo_jax.campaign.decisions.state import CampaignState, TrialState, fold
from aevo_jax.campaign.setup.settings import Inputs
from aevo_jax.campaign.trial import submission
from aevo_jax.campaign.trial.gate import full_recipe
from aevo_jax.campaign.trial.submission import NoSubmissionError
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint import durable
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.statements import parse_statements
from aevo_jax.ledger.append import Ledger

__all__ = [
  'NoSubmissionError',
  'ScoreRefusedError',
  'WaitingForScoresError',
  'WriteSubmission',
  'export',
  'missing',
  'submit',
  'waive',
]

# Writes a trial's files to hand in and returns their form; see `submission.write`.
WriteSubmission = Callable[..., str]
SUBMISSIONS = 'submissions'
README = 'README.txt'
# Exit status of a campaign that waits for scores.
WAITING_STATUS = 3

_README = """{trial}: {form} to be scored elsewhere

Hand in what lies in {payload}/, and give its score back, as a fraction between 0 and 1:

  aevo submit_score {run} {trial} SCORE --digest={digest}

When every submission of the round has its score: aevo campaign --resume={run}

digest of the submission     {digest}
tensors of the whole model   {candidate}
"""


class WaitingForScoresError(Exception):
  """The campaign stops until scores are handed in; the message says how.

  Attributes:
    trials: whose scores are missing.
  """

  def __init__(self, run: pathlib.Path, trials: Iterable[str]):
    self.trials = list(trials)
    name = shlex.quote(str(run))
    lines = [
      (
        f'waiting for the score(s) of {", ".join(self.trials)}; hand in what lies in '
        f'{run / SUBMISSIONS}/TRIAL, then:'
      )
    ]
    for trial in self.trials:
      lines.append(f'  aevo submit_score {name} {trial} SCORE')
    lines.append(f'  aevo campaign --resume={name}')
    lines.append('To go on without what is missing: add --without_missing')
    super().__init__('\n'.join(lines))


class ScoreRefusedError(ValueError):
  """A score that is not taken; the message says why and what to do."""


def payload(run: pathlib.Path, trial: str, form: str) -> pathlib.Path:
  """Names the folder to hand in.

  Args:
    run: the run directory.
    trial: its name.
    form: 'adapter' or 'weights'.
  """
  return run / SUBMISSIONS / trial / form


def export(
  run: pathlib.Path, trial: TrialState, inputs: Inputs, write: WriteSubmission = submission.write
) -> dict[str, Any]:
  """Writes run/submissions/TRIAL, whole or not at all.

  Args:
    run: the run directory.
    trial: sealed.
    inputs: of the campaign.
    write: writes the files to hand in.

  Returns:
    The payload of its `submission_exported` record.

  Raises:
    NoSubmissionError: see `submission.write`.
  """
  rules = inputs.constitution.submission
  target = run / SUBMISSIONS / trial.trial
  stage = target.with_name(f'.{trial.trial}.partial')
  # A controller that ended before the record left them.
  for leftover in (stage, target):
    shutil.rmtree(leftover, ignore_errors=True)
  stage.mkdir(parents=True)
  recipe = full_recipe(parse_statements(trial.overlay), inputs.recipe)
  try:
    form = write(
      stage / 'payload',
      run / 'trials' / trial.trial,
      pathlib.Path(inputs.store) / inputs.substrate_object,
      recipe,
      base_name=rules.base_name,
      max_rank=rules.max_rank,
    )
  except NoSubmissionError:
    shutil.rmtree(stage)
    raise
  (stage / 'payload').rename(stage / form)
  digest = digest_lib.manifest_digest(digest_lib.file_manifest(stage / form))
  (stage / README).write_text(
    _README.format(
      trial=trial.trial,
      form=f'a PEFT {form}' if form == 'adapter' else form,
      payload=form,
      run=shlex.quote(str(run)),
      digest=digest,
      candidate=trial.candidate,
    )
  )
  durable.fsync_tree(stage)
  os.rename(stage, target)
  return {
    'trial': trial.trial,
    'round': trial.round,
    'form': form,
    'digest': digest,
    'candidate': trial.candidate,
  }


def missing(state: CampaignState) -> list[str]:
  """Lists the exported trials whose score has neither been handed in nor given up.

  Args:
    state: of the campaign.
  """
  names = []
  for name, trial in state.trials.items():
    if trial.submission is not None and trial.submitted is None and not trial.waived:
      names.append(name)
  return names


def submit(run: pathlib.Path, trial: str, score: float, note: str = '', digest: str = '') -> str:
  """Enters a score into the ledger.

  Args:
    run: the run directory.
    trial: its name.
    score: a fraction between 0 and 1.
    note: free text for the ledger.
    digest: of the submission, as its README.txt names it; '' if not known.

  Returns:
    A sentence about what was recorded and what is still missing.

  Raises:
    ScoreRefusedError: not a manual campaign, no such submission, another score before, out of
      range, or files other than those exported.
    LedgerError: the ledger is damaged, or a controller has it open.
  """
  with Ledger.open(run / 'ledger.jsonl') as ledger:
    state = fold(ledger.records)
    _check_exported(run, state, trial)
    _check_range(score)
    known = state.trials[trial]
    recorded = known.submission['digest']
    if digest and digest != recorded:
      raise ScoreRefusedError(
        f'{trial} was exported with digest {recorded}, and this score is of {digest}'
      )
    if known.submitted == score:
      return f'{trial} has this score already; nothing was changed'
    if known.submitted is not None:
      raise ScoreRefusedError(
        f'{trial} has the score {known.submitted:g} already, and a score is given once'
      )
    if known.waived:
      raise ScoreRefusedError(f'the campaign went on without the score of {trial}')
    _check_files(payload(run, trial, known.submission['form']), recorded)
    ledger.append(
      'score_submitted', {'trial': trial, 'score': score, 'digest': recorded, 'note': note}
    )
    left = missing(fold(ledger.records))
  if left:
    return f'{trial}: {score:g} recorded; still missing: {", ".join(left)}'
  return (
    f'{trial}: {score:g} recorded; all scores are in, go on with: '
    f'aevo campaign --resume={shlex.quote(str(run))}'
  )


def _check_exported(run: pathlib.Path, state: CampaignState, trial: str) -> None:
  if state.started is None or state.started['settings'].get('arbiter') != 'manual':
    raise ScoreRefusedError(
      f'{run} scores its trials itself; scores are handed in for campaigns with '
      "campaign.arbiter = 'manual'"
    )
  exported = [t.trial for t in state.trials.values() if t.submission is not None]
  if trial not in exported:
    message = f'{trial!r} was not exported' + suggestion(trial, exported)
    if exported:
      message += f'; submissions are {", ".join(exported)}'
    raise ScoreRefusedError(message)


def _check_range(score: float) -> None:
  if math.isfinite(score) and 0 <= score <= 1:
    return
  message = f'a score is a fraction between 0 and 1, got {score:g}'
  if 1 < score <= 100:
    message += f'; for {score:g}% give {score / 100:g}'
  raise ScoreRefusedError(message)


def _check_files(folder: pathlib.Path, recorded: str) -> None:
  files = digest_lib.file_manifest(folder) if folder.is_dir() else {}
  if digest_lib.manifest_digest(files) != recorded:
    raise ScoreRefusedError(
      f'{folder} is not what was exported (digest {recorded}); restore it from a copy '
      'of what was handed in'
    )


def waive(run: pathlib.Path) -> list[str]:
  """Gives up the scores that a stopped campaign waits for.

  Args:
    run: the run directory.

  Returns:
    The trials that they are of.

  Raises:
    ScoreRefusedError: it waits for none.
  """
  with Ledger.open(run / 'ledger.jsonl') as ledger:
    left = missing(fold(ledger.records))
    if not left:
      raise ScoreRefusedError(f'{run} misses no score; resume it without --without_missing')
    ledger.append('scores_waived', {'trials': left, 'cause': '--without_missing'})
  return left
