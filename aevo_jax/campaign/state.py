"""The campaign's state is a fold over its ledger. Resuming is folding again; nothing else is
remembered.
"""

import dataclasses
from collections.abc import Iterable

from aevo_jax.ledger.records import Record

NO_COST = {'tokens_in': 0, 'tokens_out': 0, 'money': 0.0}
AFTER_A_STOP = (
  'controller_resumed',
  'score_submitted',
  'scores_waived',
)  # what is written before them was written by a controller that has ended


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
  probes: dict = dataclasses.field(
    default_factory=dict
  )  # probe -> summary, where the constitution has probes
  external_scored: bool = False
  released: float | None = None
  released_families: dict[str, list] | None = None  # family -> [accuracy, items]
  final_scored: bool = False
  recipe: str = ''  # digest of what it runs; '' until the gate has admitted it
  submission: dict | None = None  # what was exported for somebody else to score
  submitted: float | None = None  # the score that was handed in for it
  waived: bool = False  # the campaign went on without that score

  @property
  def has_external(self) -> bool:
    """Whether the target scored it: the arbiter, or somebody who handed the score in."""
    return self.external_scored or self.submitted is not None

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
  concordance: dict[int, dict] = dataclasses.field(
    default_factory=dict
  )  # round -> stream -> statistics of dev against external
  thresholds: dict[int, dict] = dataclasses.field(default_factory=dict)
  verdicts: dict[int, dict] = dataclasses.field(default_factory=dict)
  attributions: dict[int, dict] = dataclasses.field(default_factory=dict)
  promotions: dict[int, dict] = dataclasses.field(default_factory=dict)
  finished_rounds: set[int] = dataclasses.field(default_factory=set)
  final: dict | None = None
  revealed: dict | None = None
  finished: dict | None = None
  resumes: int = 0
  exchanges: dict[tuple[int, str], list[dict]] = dataclasses.field(
    default_factory=dict
  )  # with a language model, by round and purpose
  fell_back: dict[tuple[int, str], str] = dataclasses.field(default_factory=dict)
  llm_costs: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)  # by round
  llm_reserved: dict | None = None  # what the request in flight can come to
  exhausted: dict | None = None
  waiting: list[str] = dataclasses.field(
    default_factory=list
  )  # trials whose scores the controller stopped for
  seconds: float = dataclasses.field(
    default=0.0, repr=False
  )  # from the first record to the last, times in which the campaign was stopped left out
  round_ended: dict[int, float] = dataclasses.field(
    default_factory=dict
  )  # round -> `seconds` at its end
  last_time: float | None = dataclasses.field(default=None, repr=False)

  def of_round(self, round_: int) -> list[TrialState]:
    """Trials of a round, by worker."""
    return sorted((t for t in self.trials.values() if t.round == round_), key=lambda t: t.worker)

  def conversation(self, round_: int, purpose: str) -> tuple[list[dict], str | None]:
    """The exchanges about one question, and why it was given up if it was."""
    return self.exchanges.get((round_, purpose), []), self.fell_back.get((round_, purpose))

  def llm_cost(self, round_: int) -> dict[str, float]:
    """What the language model took to make a round's policy and to choose its workers' bindings."""
    return dict(self.llm_costs.get(round_, NO_COST))

  @property
  def llm_spent(self) -> dict[str, float]:
    """Of all rounds."""
    return {name: sum(cost[name] for cost in self.llm_costs.values()) for name in NO_COST}

  def _spend(self, round_: int, usage: dict, sign: int = 1) -> None:
    cost = self.llm_cost(round_)
    # Rounded, so that what is given back leaves no dust.
    self.llm_costs[round_] = {name: round(cost[name] + sign * usage[name], 9) for name in NO_COST}

  def last_round(self, planned: int) -> int:
    """The last round that is run: the constitution's, or the one after which the wall-clock budget
    was used up.
    """
    return planned if self.exhausted is None else self.exhausted['round']

  def apply(self, record: Record) -> None:
    """Folds one record in."""
    p = record.payload
    if self.last_time is not None and record.kind not in AFTER_A_STOP:
      self.seconds += max(0.0, record.time - self.last_time)
    self.last_time = record.time
    match record.kind:
      case 'campaign_started':
        self.started = p
      case 'controller_resumed':
        self.resumes += 1
        self.waiting = []
      case 'policy_written':
        self.policies[p['round']] = p
      case 'trial_assigned':
        self.trials[p['trial']] = TrialState(
          p['trial'],
          p['round'],
          p['worker'],
          p['axis'],
          p['overlay'],
          p['seed'],
          recipe=p['recipe'],
        )
      case 'trial_sealed':
        trial = self.trials[p['trial']]
        trial.status, trial.candidate, trial.export_file, trial.claim = (
          'sealed',
          p['candidate'],
          p['export_file'],
          p['claim'],
        )
        # of an attempt that failed before; evidence must not depend on the machine's accidents
        trial.cause = ''
      case 'trial_failed':
        trial = self.trials[p['trial']]
        trial.failures += 1
        trial.cause = p['cause']
        trial.status = 'failed' if p['final'] else trial.status
        if p['cause'] == 'scoring':  # of one score, so that the others do not count either
          trial.dev, trial.probes, trial.external_scored, trial.final_scored = (
            None,
            {},
            False,
            False,
          )
      case 'trial_refused':
        self.trials[p['trial']].status, self.trials[p['trial']].cause = 'refused', p['cause']
      case 'trial_scored':
        self.trials[p['trial']].dev, self.trials[p['trial']].probes = (
          p['score'],
          p.get('probes', {}),
        )
      case 'base_scored':
        self.base, self.base_probes = p['score'], p.get('probes', {})
      case 'external_scored':
        self.trials[p['trial']].external_scored = True
      case 'external_ranked':
        self.ranks[p['round']] = p['ranks']
      case 'external_released':
        self.trials[p['trial']].released, self.trials[p['trial']].released_families = (
          p['score'],
          p.get('by_family'),
        )
      case 'thresholds_fixed':
        self.thresholds[p['round']] = p['thresholds']
      case 'concordance_measured':
        self.concordance[p['round']] = p['streams']
      case 'verdicts_spoken':
        self.verdicts[p['round']] = p['verdicts']
      case 'control_tested':
        self.attributions[p['round']] = p['result']
      case 'evidence_written':
        self.evidence[p['round']] = p['digest']
      case 'promotion_decided':
        self.promotions[p['round']] = p
      case 'round_finished':
        self.finished_rounds.add(p['round'])
        self.round_ended[p['round']] = self.seconds
      case 'submission_exported':
        self.trials[p['trial']].submission = p
      case 'score_submitted':
        self.trials[p['trial']].submitted = p['score']
      case 'scores_waived':
        for trial in p['trials']:
          self.trials[trial].waived = True
      case 'campaign_waiting':
        self.waiting = p['trials']
      case 'budget_exhausted':
        self.exhausted = p
      case 'final_candidate_scored':
        self.trials[p['trial']].final_scored = True
      case 'final_scored':
        self.final = p
      case 'secrets_revealed':
        self.revealed = p
      case 'campaign_finished':
        self.finished = p
      case 'llm_requested':
        self._spend(p['round'], p['reserved'])
        self.llm_reserved = p['reserved']
      case 'llm_exchange':
        self._spend(p['round'], self.llm_reserved, -1)
        self._spend(p['round'], p['usage'])
        self.llm_reserved = None
        self.exchanges.setdefault((p['round'], p['purpose']), []).append(p)
      case 'agent_fell_back':
        self.fell_back[p['round'], p['purpose']] = p['cause']


def fold(records: Iterable[Record]) -> CampaignState:
  """State after all records."""
  state = CampaignState()
  for record in records:
    state.apply(record)
  return state
