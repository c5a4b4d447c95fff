"""The campaign's state is a fold over its ledger. Resuming is folding again; nothing else is remembered."""

import dataclasses
from collections.abc import Iterable

from aevo_jax.ledger.records import Record


@dataclasses.dataclass
class TrialState:
  """One trial so far. status: assigned, sealed, failed or refused."""

  trial: str
  round: int
  worker: int
  axis: str
  overlay: str
  seed: int
  status: str = 'assigned'
  cause: str = ''
  failures: int = 0
  candidate: str = ''
  export_file: str = ''
  claim: dict = dataclasses.field(default_factory=dict)
  dev: dict | None = None
  probes: dict = dataclasses.field(default_factory=dict)  # probe -> summary, where the constitution has probes
  external_scored: bool = False
  released: float | None = None
  final_scored: bool = False
  recipe: str = ''  # digest of what it runs; '' until the gate has admitted it

  @property
  def done(self) -> bool:
    """Nothing is left to train."""
    return self.status != 'assigned'


@dataclasses.dataclass
class CampaignState:
  """Everything that happened."""

  started: dict | None = None
  base: dict | None = None
  base_probes: dict = dataclasses.field(default_factory=dict)
  policies: dict[int, dict] = dataclasses.field(default_factory=dict)
  trials: dict[str, TrialState] = dataclasses.field(default_factory=dict)
  evidence: dict[int, str] = dataclasses.field(default_factory=dict)
  ranks: dict[int, dict[str, int]] = dataclasses.field(default_factory=dict)
  promotions: dict[int, dict] = dataclasses.field(default_factory=dict)
  finished_rounds: set[int] = dataclasses.field(default_factory=set)
  final: dict | None = None
  revealed: dict | None = None
  finished: dict | None = None
  resumes: int = 0

  def of_round(self, round_: int) -> list[TrialState]:
    """Trials of a round, by worker."""
    return sorted((t for t in self.trials.values() if t.round == round_), key=lambda t: t.worker)

  def apply(self, record: Record) -> None:
    """Folds one record in."""
    p = record.payload
    match record.kind:
      case 'campaign_started':
        self.started = p
      case 'controller_resumed':
        self.resumes += 1
      case 'policy_written':
        self.policies[p['round']] = p
      case 'trial_assigned':
        self.trials[p['trial']] = TrialState(p['trial'], p['round'], p['worker'], p['axis'], p['overlay'], p['seed'], recipe=p['recipe'])
      case 'trial_sealed':
        trial = self.trials[p['trial']]
        trial.status, trial.candidate, trial.export_file, trial.claim = 'sealed', p['candidate'], p['export_file'], p['claim']
        trial.cause = ''  # of an attempt that failed before; evidence must not depend on the machine's accidents
      case 'trial_failed':
        trial = self.trials[p['trial']]
        trial.failures += 1
        trial.cause = p['cause']
        trial.status = 'failed' if p['final'] else trial.status
      case 'trial_refused':
        self.trials[p['trial']].status, self.trials[p['trial']].cause = 'refused', p['cause']
      case 'trial_scored':
        self.trials[p['trial']].dev, self.trials[p['trial']].probes = p['score'], p.get('probes', {})
      case 'base_scored':
        self.base, self.base_probes = p['score'], p.get('probes', {})
      case 'external_scored':
        self.trials[p['trial']].external_scored = True
      case 'external_ranked':
        self.ranks[p['round']] = p['ranks']
      case 'external_released':
        self.trials[p['trial']].released = p['score']
      case 'evidence_written':
        self.evidence[p['round']] = p['digest']
      case 'promotion_decided':
        self.promotions[p['round']] = p
      case 'round_finished':
        self.finished_rounds.add(p['round'])
      case 'final_candidate_scored':
        self.trials[p['trial']].final_scored = True
      case 'final_scored':
        self.final = p
      case 'secrets_revealed':
        self.revealed = p
      case 'campaign_finished':
        self.finished = p


def fold(records: Iterable[Record]) -> CampaignState:
  """State after all records."""
  state = CampaignState()
  for record in records:
    state.apply(record)
  return state
