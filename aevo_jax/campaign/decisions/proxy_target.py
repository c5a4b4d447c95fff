"""The target of a campaign without an external one: the consensus of the trusted proxies.

It is written into the fields of evidence that hold the external score elsewhere, marked by
`target`: 'proxies', so that agents need no second path. It is no secret: every trial has it, at
full precision, and no quota applies. Trust changes from round to round and with it the level of the
consensus, so the agent reads all trials under the latest trust (`rescored`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import proxies
from aevo_jax.meta_agent.drift.proxies import OVERALL, Judgement
from aevo_jax.meta_agent.evidence import PROXIES, Evidence, Panel, TrialEvidence
from aevo_jax.meta_agent.scores import ReleasedScore
from aevo_jax.stats.intervals import wilson


@dataclasses.dataclass(frozen=True)
class Assessment:
  """What the proxies say of each other after one round.

  Attributes:
    trials: name -> trial, of the round and those before.
    round: its number.
    judgement: an empty one before the first round of recipes that differ.
    shares: family -> share of dev's items.
  """

  trials: Mapping[str, TrialState]
  round: int
  judgement: Judgement
  shares: Mapping[str, float]

  def score(self, trial: TrialState) -> float:
    """Computes the overall consensus on a trial.

    Args:
      trial: with a dev score and its probes.

    Returns:
      An accuracy, rounded to 6 digits.
    """
    return self._consensus(proxies.scores(trial.dev, trial.probes))[OVERALL]

  def _consensus(self, scores: proxies.Scores) -> dict[str, float]:
    consensus = proxies.consensus(scores, self.judgement.trust, self.shares)
    return {stream: round(value, 6) for stream, value in consensus.items()}

  def entered(self, evidence: Evidence) -> Evidence:
    """Enters the consensus, the trials' ranks by it, and what the proxies say of each other.

    Args:
      evidence: of the round, without external scores.

    Returns:
      Evidence with the target 'proxies'.
    """
    trials = [self._entered(trial) for trial in evidence.trials]
    scored = [trial for trial in trials if trial.external is not None]
    scored.sort(key=lambda trial: (trial.external, trial.trial))
    ranks = {trial.trial: rank for rank, trial in enumerate(scored)}
    ranked = []
    for trial in trials:
      ranked.append(dataclasses.replace(trial, external_rank=ranks.get(trial.trial)))
    return dataclasses.replace(
      evidence, target=PROXIES, trials=tuple(ranked), proxies=Panel(self.judgement, self.shares)
    )

  def _entered(self, row: TrialEvidence) -> TrialEvidence:
    """A trial's row with its consensus and its scores by every proxy."""
    trial = self.trials[row.trial]
    if trial.dev is None:
      return dataclasses.replace(row, proxies=None, external_by_family=None)
    scores = proxies.scores(trial.dev, trial.probes)
    consensus = self._consensus(scores)
    by_family = {}
    for family, accuracy in consensus.items():
      if family != OVERALL:
        by_family[family] = _released(accuracy, trial.dev['by_family'][family]['total'])
    same = {}
    completions = 0
    for probe, summary in trial.probes.items():
      completions += summary['completions']
      if summary['same'] is not None:
        same[probe] = summary['same']
    return dataclasses.replace(
      row,
      external=consensus[OVERALL],
      external_by_family=by_family,
      proxies=scores,
      same_as_dev=same,
      cost=dataclasses.replace(row.cost, probe_completions=completions),
    )


def _released(accuracy: float, total: int) -> ReleasedScore:
  """A consensus as evidence has released scores, with the interval of as many items as dev has."""
  low, high = wilson(round(accuracy * total), total)
  return ReleasedScore(accuracy, total, round(low, 4), round(high, 4))


def assess(state: CampaignState, round_: int, constitution: Constitution) -> Assessment:
  """Judges the proxies after a round.

  Args:
    state: with at least the round's records.
    round_: its number.
    constitution: rules and budget.

  Returns:
    The assessment, from the trials of the round and those of the rounds before.
  """
  trials = {t.trial: t for t in state.trials.values() if 0 <= t.round <= round_}
  rounds = []
  for number in range(1, round_ + 1):
    scored = [t for t in state.of_round(number) if t.dev is not None]
    rounds.append({t.trial: proxies.scores(t.dev, t.probes) for t in scored})
  budget = constitution.budget
  judgements = proxies.judge(rounds, constitution.reversal, budget.rounds)
  judgement = judgements[-1] if judgements else Judgement()
  return Assessment(trials, round_, judgement, _shares(trials))


def _shares(trials: Mapping[str, TrialState]) -> dict[str, float]:
  """family -> share of dev's items, as the first scored trial has it."""
  for trial in trials.values():
    if trial.dev is not None:
      parts = trial.dev['by_family']
      total = sum(part['total'] for part in parts.values())
      return {family: part['total'] / total for family, part in parts.items()}
  return {}


def rescored(history: Sequence[Evidence]) -> Sequence[Evidence]:
  """Scores all trials under the latest trust, as an agent reads them.

  Args:
    history: evidence of all rounds.

  Returns:
    The same history where there is an external target.
  """
  panel = history[-1].proxies
  if panel is None:
    return history
  again = []
  for evidence in history:
    trials = tuple(_rescored(trial, panel) for trial in evidence.trials)
    again.append(dataclasses.replace(evidence, trials=trials))
  return again


def _rescored(trial: TrialEvidence, panel: Panel) -> TrialEvidence:
  if trial.proxies is None:
    return trial
  consensus = proxies.consensus(trial.proxies, panel.judgement.trust, panel.shares)
  return dataclasses.replace(trial, external=round(consensus[OVERALL], 6))
