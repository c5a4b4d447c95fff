"""The target of a campaign: who scores its trials externally, and what is told of those scores.

`ArbiterTarget` asks the arbiter's process. `ManualTarget` exports submissions, waits until somebody
hands their scores in, and computes the same from them.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Protocol

from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.decisions import arms, decisions
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.machine.fault import MachineFaultError, resume_command
from aevo_jax.campaign.manual_arbiter import WriteSubmission
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.servers import told
from aevo_jax.evaluation.servers.client import Server
from aevo_jax.meta_agent.policy import Policy


class Target(Protocol):
  """What a campaign learns from its external scores."""

  def release(self, round_: int, trials: Sequence[TrialState], policy: Policy) -> None:
    """Enters a round's released scores into the journal, as far as they are missing.

    The anchors' scores are released first, then those of the best trials by dev, within the quota.

    Args:
      round_: the round.
      trials: of the round.
      policy: of the round.
    """

  def concordance(self, round_: int, trials: Sequence[TrialState]) -> dict[str, dict]:
    """Measures how far external followed dev in a round.

    Args:
      round_: the round.
      trials: of the round.

    Returns:
      Stream -> row of `stats.tracking.measure`.
    """

  def control(self, round_: int) -> dict | None:
    """Compares the arms of a revision.

    Args:
      round_: the round of their look.

    Returns:
      See `servers.arbiter.arm_result`.
    """


class ArbiterTarget:
  """The arbiter's process, which keeps the scores to itself."""

  def __init__(
    self,
    run: pathlib.Path,
    journal: Journal,
    settings: CampaignSettings,
    inputs: Inputs,
    arbiter: Server,
  ):
    self._run = run
    self._journal = journal
    self._settings = settings
    self._constitution = inputs.constitution
    self._arbiter = arbiter

  def release(self, round_: int, trials: Sequence[TrialState], policy: Policy) -> None:
    """Asks for scores. See `Target.release`."""
    scored = [t for t in trials if t.external_scored]
    if not scored:
      return
    state = self._journal.state
    per_round = self._constitution.release.per_round
    chosen = decisions.to_release(
      scored, per_round, policy.objectives, decisions.repeated(state, round_)
    )
    missing = [t for t in chosen if state.trials[t].released is None]
    if not missing:
      return
    reply = self._arbiter.call({'op': 'release', 'round': round_, 'trials': chosen})
    for trial in missing:
      self._journal.append(
        'external_released',
        {
          'trial': trial,
          'round': round_,
          'score': reply['scores'][trial],
          'by_family': reply['families'][trial],
        },
      )

  def concordance(self, round_: int, trials: Sequence[TrialState]) -> dict[str, dict]:
    """Asks for the statistics. See `Target.concordance`."""
    if not any(t.has_external for t in trials):
      return {}
    asked = decisions.question(self._journal.state, round_, self._constitution, self._settings.seed)
    named = {name for names in (*asked['rounds'], asked['start']) for name in names}
    dev = {name: self._dev_answers(name) for name in sorted(named)}
    request = {'op': 'concordance', 'dev': dev, **asked}
    return self._arbiter.call(request)['streams']

  def _dev_answers(self, trial: str) -> dict[str, str]:
    """A trial's right answers on dev, as the evaluator wrote them."""
    path = self._run / 'scores' / f'{trial}.dev.json'
    restore = f'restore it from a copy of the run, then {resume_command(self._run)}'
    try:
      results = scoring.from_rows(json.loads(path.read_text())['items'])
    except FileNotFoundError:
      raise MachineFaultError('score_file', f'{path} is missing; {restore}') from None
    except (ValueError, KeyError, TypeError) as error:
      raise MachineFaultError(
        'score_file', f'{path} cannot be read ({type(error).__name__}: {error}); {restore}'
      ) from error
    answers = told.bits(results, self._constitution.objective.verifier)
    recorded = self._journal.state.trials[trial].dev['overall']['correct']
    right = sum(marks.count('1') for marks in answers.values())
    if right != recorded:
      raise MachineFaultError(
        'score_file', f'{path} has {right} right answers and the ledger {recorded}; {restore}'
      )
    return answers

  def control(self, round_: int) -> dict | None:
    """Asks for the test. See `Target.control`."""
    compared = arms.compared(self._journal.state, round_)
    return self._arbiter.call({'op': 'control', 'round': round_, 'arms': compared})['result']


class ManualTarget:
  """Somebody who scores submissions elsewhere and hands their scores in."""

  def __init__(
    self,
    run: pathlib.Path,
    journal: Journal,
    settings: CampaignSettings,
    inputs: Inputs,
    write_submission: WriteSubmission,
  ):
    self._run = run
    self._journal = journal
    self._settings = settings
    self._inputs = inputs
    self._write_submission = write_submission

  def release(self, round_: int, trials: Sequence[TrialState], policy: Policy) -> None:
    """Waits for scores and releases them. See `Target.release` and `wait_for`."""
    release = self._inputs.constitution.release
    armed = arms.of_trials(self._journal.state, round_)
    repeats = decisions.repeated(self._journal.state, round_)
    chosen = decisions.to_release(
      trials, release.per_round, policy.objectives, repeats, manual=True, armed=armed
    )
    self.wait_for(chosen)
    state = self._journal.state
    scores = {}
    for trial in chosen:
      if state.trials[trial].submitted is not None:
        scores[trial] = state.trials[trial].submitted
    for trial, score in scores.items():
      if state.trials[trial].released is None:
        rounded = round(score, release.decimals)
        payload = {'trial': trial, 'round': round_, 'score': rounded}
        self._journal.append('external_released', payload)

  def concordance(self, round_: int, trials: Sequence[TrialState]) -> dict[str, dict]:
    """Computes the statistics. See `Target.concordance`."""
    del trials  # the state has them
    return decisions.submitted_concordance(
      self._journal.state, round_, self._inputs.constitution, self._settings.seed
    )

  def control(self, round_: int) -> dict | None:
    """Computes the test. See `Target.control`."""
    return decisions.submitted_control(self._journal.state, round_, self._inputs.constitution)

  def wait_for(self, chosen: Sequence[str]) -> None:
    """Exports trials that have not been exported yet, and insists on their scores.

    Args:
      chosen: names of sealed trials.

    Raises:
      WaitingForScoresError: scores of these trials have not been handed in.
    """
    state = self._journal.state
    for name in chosen:
      trial = state.trials[name]
      if trial.submission is not None or trial.waived:
        continue
      try:
        payload = manual_arbiter.export(self._run, trial, self._inputs, self._write_submission)
      except manual_arbiter.NoSubmissionError as error:
        self._journal.append('scores_waived', {'trials': [name], 'cause': str(error)})
      else:
        self._journal.append('submission_exported', payload)
    missing = manual_arbiter.missing(state)
    if missing:
      self._journal.append('campaign_waiting', {'trials': missing})
      raise manual_arbiter.WaitingForScoresError(self._run, missing)
