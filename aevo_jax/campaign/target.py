"""The target of a campaign: who scores its trials externally, and what is told of those scores.

`ArbiterTarget` asks the arbiter's process. `ManualTarget` exports submissions, waits until somebody
hands their scores in, and computes the same from them.
"""

import pathlib
from collections.abc import Sequence
from typing import Protocol

from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.manual_arbiter import WriteSubmission
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.evaluation.servers import arbiter as arbiter_lib
from aevo_jax.evaluation.servers.client import Server
from aevo_jax.meta_agent.policy import Policy


class Target(Protocol):
  """What a campaign learns from its external scores."""

  def release(self, round_: int, trials: Sequence[TrialState], policy: Policy) -> None:
    """Enters a round's ranks and released scores into the journal, as far as they are missing.

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
      Stream -> statistics, see `stats.concordance`.
    """

  def control(self, round_: int) -> dict | None:
    """Tests the revision whose control arm runs in a round.

    Args:
      round_: a round with a control arm.

    Returns:
      See `servers.arbiter.arm_result`.
    """


class ArbiterTarget:
  """The arbiter's process, which keeps the scores to itself."""

  def __init__(self, journal: Journal, settings: CampaignSettings, inputs: Inputs, arbiter: Server):
    self._journal = journal
    self._settings = settings
    self._constitution = inputs.constitution
    self._arbiter = arbiter

  def release(self, round_: int, trials: Sequence[TrialState], policy: Policy) -> None:
    """Asks for ranks and scores. See `Target.release`."""
    scored = [t for t in trials if t.external_scored]
    if not scored:
      return
    state = self._journal.state
    if round_ not in state.ranks:
      seed = decisions.tie_seed(self._settings.seed, round_)
      request = {'op': 'ranks', 'trials': [t.trial for t in scored], 'seed': seed}
      ranks = self._arbiter.call(request)['ranks']
      self._journal.append('external_ranked', {'round': round_, 'ranks': ranks})
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
    scored = [t.trial for t in trials if t.has_external]
    if not scored:
      return {}
    request = {
      'op': 'concordance',
      'round': round_,
      'trials': scored,
      'dev': decisions.dev_streams(trials),
      'variance': decisions.dev_item_variance(trials),
      'seed': decisions.tie_seed(self._settings.seed, round_),
    }
    return self._arbiter.call(request)['streams']

  def control(self, round_: int) -> dict | None:
    """Asks for the test. See `Target.control`."""
    rounds = decisions.controlled(self._journal.state, round_)
    return self._arbiter.call({'op': 'control', 'round': round_, 'rounds': rounds})['result']


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
    """Waits for scores, ranks and releases them. See `Target.release` and `wait_for`."""
    release = self._inputs.constitution.release
    repeats = decisions.repeated(self._journal.state, round_)
    chosen = decisions.to_release(
      trials, release.per_round, policy.objectives, repeats, manual=True
    )
    self.wait_for(chosen)
    state = self._journal.state
    scores = {}
    for trial in chosen:
      if state.trials[trial].submitted is not None:
        scores[trial] = state.trials[trial].submitted
    if scores and round_ not in state.ranks:
      ranks = arbiter_lib.rank(scores, decisions.tie_seed(self._settings.seed, round_))
      self._journal.append('external_ranked', {'round': round_, 'ranks': ranks})
    for trial, score in scores.items():
      if state.trials[trial].released is None:
        rounded = round(score, release.decimals)
        payload = {'trial': trial, 'round': round_, 'score': rounded}
        self._journal.append('external_released', payload)

  def concordance(self, round_: int, trials: Sequence[TrialState]) -> dict[str, dict]:
    """Computes the statistics. See `Target.concordance`."""
    seed = decisions.tie_seed(self._settings.seed, round_)
    return decisions.submitted_concordance(trials, seed)

  def control(self, round_: int) -> dict | None:
    """Computes the test. See `Target.control`."""
    return decisions.submitted_control(self._journal.state, round_)

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
