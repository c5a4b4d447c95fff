"""A campaign without an external target: what stands in the evidence where the external score
would.

The consensus of the trusted proxies (meta_agent.drift.proxies) is written into the same fields, marked by
`target`: 'proxies', so that agents need no second path. It is no secret: every trial has it, at
full precision, and no quota applies. Trust changes from round to round and with it the level of the
consensus, so the agent reads all trials under the latest trust (`rescored`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import proxies
from aevo_jax.meta_agent.drift.proxies import OVERALL, Judgement
from aevo_jax.stats.intervals import wilson


@dataclasses.dataclass(frozen=True)
class Assessment:
  """After one round. judgement: None before the first round of recipes that differ. shares: family
  -> share of dev's items.
  """

  trials: Mapping[str, TrialState]
  round: int
  judgement: Judgement | None
  shares: Mapping[str, float]

  @property
  def trust(self) -> Mapping[str, Mapping[str, float]]:
    return self.judgement.trust if self.judgement else {}

  def score(self, trial: TrialState) -> float:
    """The consensus, overall."""
    return self._consensus(proxies.scores(trial.dev, trial.probes))[OVERALL]

  def _consensus(self, scores: proxies.Scores) -> dict[str, float]:
    return {
      stream: round(value, 6)
      for stream, value in proxies.consensus(scores, self.trust, self.shares).items()
    }

  def entered(self, evidence: dict[str, Any]) -> dict[str, Any]:
    """The evidence with the consensus of its trials in place of external scores, their ranks, their
    scores by every proxy, verdicts and trust.
    """
    shown = []
    for row in evidence['trials']:
      trial = self.trials[row['trial']]
      if trial.dev is None:
        shown.append(row | {'proxies': None, 'external_by_family': None})
        continue
      scores = proxies.scores(trial.dev, trial.probes)
      consensus = self._consensus(scores)
      shown.append(
        row
        | {
          'external': consensus[OVERALL],
          'external_by_family': {
            f: _proportion(x, trial.dev['by_family'][f]['total'])
            for f, x in consensus.items()
            if f != OVERALL
          },
          'proxies': {
            p: {stream: list(values) for stream, values in parts.items()}
            for p, parts in scores.items()
          },
          'same_as_dev': {
            p: summary['same'] for p, summary in trial.probes.items() if summary['same'] is not None
          },
          'cost': row['cost']
          | {'probe_completions': sum(summary['completions'] for summary in trial.probes.values())},
        }
      )
    order = sorted(
      (row for row in shown if row['external'] is not None),
      key=lambda row: (row['external'], row['trial']),
    )
    ranks = {row['trial']: place for place, row in enumerate(order)}
    shown = [row | {'external_rank': ranks.get(row['trial'])} for row in shown]
    said = (
      self.judgement.to_json()
      if self.judgement
      else {
        'evidence': proxies.WEAKER,
        'trust': {},
        'departed': {},
        'thresholds': None,
        'verdicts': {},
      }
    )
    return evidence | {
      'target': 'proxies',
      'trials': shown,
      'proxies': said | {'shares': dict(self.shares)},
    }


def _proportion(accuracy: float, total: int) -> dict[str, float]:
  """A consensus as evidence has released scores, with the interval of as many items as dev has."""
  low, high = wilson(round(accuracy * total), total)
  return {'accuracy': accuracy, 'total': total, 'low': round(low, 4), 'high': round(high, 4)}


def assess(state: CampaignState, round_: int, constitution: Constitution) -> Assessment:
  """What the proxies say of each other after a round, from its trials and those of the rounds
  before.
  """
  scored = {t.trial: t for t in state.trials.values() if 0 <= t.round <= round_}
  rounds = [
    {t.trial: proxies.scores(t.dev, t.probes) for t in state.of_round(k) if t.dev is not None}
    for k in range(1, round_ + 1)
  ]
  said = proxies.judge(
    rounds, constitution.reversal, constitution.budget.rounds, constitution.budget.workers
  )
  some = next((t.dev for t in scored.values() if t.dev is not None), {'by_family': {}})
  total = sum(part['total'] for part in some['by_family'].values())
  return Assessment(
    scored,
    round_,
    said[-1] if said else None,
    {family: part['total'] / total for family, part in some['by_family'].items()},
  )


def rescored(history: Sequence[dict]) -> Sequence[dict]:
  """Evidence of all rounds as its agent reads it: without an external target, every trial's score
  under the latest trust; otherwise as it is.
  """
  if history[-1].get('target') != 'proxies':
    return history
  said = history[-1]['proxies']
  again = lambda row: (
    row
    if row['proxies'] is None
    else row
    | {
      'external': round(
        proxies.consensus(row['proxies'], said['trust'], said['shares'])[OVERALL], 6
      )
    }
  )
  return [evidence | {'trials': [again(row) for row in evidence['trials']]} for evidence in history]
