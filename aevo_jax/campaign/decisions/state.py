"""The state of a campaign: a fold over its ledger. Resuming is folding again."""

import dataclasses
from collections.abc import Iterable

from aevo_jax.ledger.records import Record

NO_COST = {'tokens_in': 0, 'tokens_out': 0, 'money': 0.0}
# What is written before them was written by a controller that has ended, or that waited for nothing
# but a machine that had failed.
AFTER_A_STOP = (
  'controller_resumed',
  'campaign_paused',
  'score_submitted',
  'scores_waived',
)


@dataclasses.dataclass
class TrialState:
  """One trial so far.

  Attributes:
    trial: its name.
    round: of which it is, FINAL for a retraining of the final.
    worker: its number in the round.
    axis: what it varies.
    overlay: the bindings that an agent wrote, canonical once the gate has admitted them.
    seed: of its training.
    status: assigned, sealed, failed or refused.
    cause: of its failure or refusal.
    failures: attempts that failed.
    interruptions: attempts that the machine or another trial ended; they are not counted.
    candidate: logical digest of its weights, once sealed.
    export_file: SHA-256 of the weights' file.
    claim: what its worker says of it.
    dev: summary of the dev score.
    probes: probe -> summary, where the constitution has probes.
    external_scored: the arbiter has an external score of it.
    released: the external score as it was released.
    released_families: family -> [accuracy, items] of it.
    final_scored: the arbiter has a final score of it.
    recipe: digest of what it runs; '' until the gate has admitted it.
    submission: what was exported for somebody else to score.
    submitted: the score that was handed in for it.
    waived: the campaign went on without that score.
  """

  trial: str
  round: int
  worker: int
  axis: str
  overlay: str
  seed: int
  status: str = 'assigned'
  cause: str = ''
  failures: int = 0
  interruptions: int = 0
  candidate: str = ''
  export_file: str = ''
  claim: dict = dataclasses.field(default_factory=dict)
  dev: dict | None = None
  probes: dict = dataclasses.field(default_factory=dict)
  external_scored: bool = False
  released: float | None = None
  released_families: dict[str, list] | None = None
  final_scored: bool = False
  recipe: str = ''
  submission: dict | None = None
  submitted: float | None = None
  waived: bool = False

  @property
  def has_external(self) -> bool:
    """Whether the target scored it: the arbiter, or somebody who handed the score in."""
    return self.external_scored or self.submitted is not None

  @property
  def done(self) -> bool:
    """Whether nothing is left to train."""
    return self.status != 'assigned'


@dataclasses.dataclass
class CampaignState:
  """Everything that happened; the dicts with int keys are by round.

  Attributes:
    started, base, final, revealed, finished, exhausted: payload or score of that record, None
      before it.
    base_probes: probe -> summary of the base.
    policies, promotions: payloads.
    trials: by name.
    evidence: digests of the evidence files.
    ranks: trial -> rank by external score.
    concordance: stream -> statistics of dev against external.
    thresholds, verdicts, attributions: of the tests of a round.
    finished_rounds: rounds that are over.
    resumes: how often a controller was resumed.
    exchanges: with a language model, by round and purpose.
    fell_back: why a question was given up, by round and purpose.
    llm_costs: what the language model took.
    llm_reserved: what the request in flight can come to.
    waiting: trials whose scores the controller stopped for.
    paused: payload of the pause in which the campaign is, None while it runs.
    pauses: how often it paused.
    seconds: from the first record to the last, times in which the campaign was stopped left out.
    round_ended: `seconds` at a round's end.
    last_time: of the last record.
  """

  started: dict | None = None
  base: dict | None = None
  base_probes: dict = dataclasses.field(default_factory=dict)
  policies: dict[int, dict] = dataclasses.field(default_factory=dict)
  trials: dict[str, TrialState] = dataclasses.field(default_factory=dict)
  evidence: dict[int, str] = dataclasses.field(default_factory=dict)
  ranks: dict[int, dict[str, int]] = dataclasses.field(default_factory=dict)
  concordance: dict[int, dict] = dataclasses.field(default_factory=dict)
  thresholds: dict[int, dict] = dataclasses.field(default_factory=dict)
  verdicts: dict[int, dict] = dataclasses.field(default_factory=dict)
  attributions: dict[int, dict] = dataclasses.field(default_factory=dict)
  promotions: dict[int, dict] = dataclasses.field(default_factory=dict)
  finished_rounds: set[int] = dataclasses.field(default_factory=set)
  final: dict | None = None
  revealed: dict | None = None
  finished: dict | None = None
  resumes: int = 0
  exchanges: dict[tuple[int, str], list[dict]] = dataclasses.field(default_factory=dict)
  fell_back: dict[tuple[int, str], str] = dataclasses.field(default_factory=dict)
  llm_costs: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
  llm_reserved: dict | None = None
  exhausted: dict | None = None
  waiting: list[str] = dataclasses.field(default_factory=list)
  paused: dict | None = None
  pauses: int = 0
  seconds: float = dataclasses.field(default=0.0, repr=False)
  round_ended: dict[int, float] = dataclasses.field(default_factory=dict)
  last_time: float | None = dataclasses.field(default=None, repr=False)

  def of_round(self, round_: int) -> list[TrialState]:
    """Lists the trials of a round, by worker.

    Args:
      round_: the round, or FINAL.
    """
    trials = [t for t in self.trials.values() if t.round == round_]
    return sorted(trials, key=lambda t: t.worker)

  def conversation(self, round_: int, purpose: str) -> tuple[list[dict], str | None]:
    """Finds what was said about one question to the language model.

    Args:
      round_: of the policy that it is about.
      purpose: of the question.

    Returns:
      The exchanges, and why the question was given up if it was.
    """
    return self.exchanges.get((round_, purpose), []), self.fell_back.get((round_, purpose))

  def llm_cost(self, round_: int) -> dict[str, float]:
    """Sums what the language model took for a round's policy and its workers' bindings.

    Args:
      round_: the round.

    Returns:
      tokens_in, tokens_out and money.
    """
    return dict(self.llm_costs.get(round_, NO_COST))

  @property
  def llm_spent(self) -> dict[str, float]:
    """The language model's costs of all rounds."""
    return {name: sum(cost[name] for cost in self.llm_costs.values()) for name in NO_COST}

  def last_round(self, planned: int) -> int:
    """Finds the last round that is run.

    Args:
      planned: rounds of the constitution.

    Returns:
      `planned`, or the round after which the wall-clock budget was used up.
    """
    return planned if self.exhausted is None else self.exhausted['round']

  def apply(self, record: Record) -> None:
    """Folds one record in. Kinds that the state does not need are passed over.

    Args:
      record: the next one.
    """
    if self.last_time is not None and record.kind not in AFTER_A_STOP:
      self.seconds += max(0.0, record.time - self.last_time)
    self.last_time = record.time
    fold_in = _FOLDS.get(record.kind)
    if fold_in is not None:
      fold_in(self, record.payload)

  def _spend(self, round_: int, usage: dict, sign: int = 1) -> None:
    cost = self.llm_cost(round_)
    # Rounded, so that what is given back leaves no dust.
    self.llm_costs[round_] = {name: round(cost[name] + sign * usage[name], 9) for name in NO_COST}

  # -- one method a kind ---------------------------------------------------------------------------

  def _campaign_started(self, payload: dict) -> None:
    self.started = payload

  def _controller_resumed(self, payload: dict) -> None:
    del payload
    self.resumes += 1
    self.waiting = []
    self.paused = None

  def _campaign_paused(self, payload: dict) -> None:
    self.paused = payload
    self.pauses += 1
    for trial in payload['trials']:
      self.trials[trial].interruptions += 1

  def _trial_interrupted(self, payload: dict) -> None:
    self.trials[payload['trial']].interruptions += 1

  def _policy_written(self, payload: dict) -> None:
    self.policies[payload['round']] = payload

  def _trial_assigned(self, payload: dict) -> None:
    self.trials[payload['trial']] = TrialState(
      payload['trial'],
      payload['round'],
      payload['worker'],
      payload['axis'],
      payload['overlay'],
      payload['seed'],
      recipe=payload['recipe'],
    )

  def _trial_sealed(self, payload: dict) -> None:
    trial = self.trials[payload['trial']]
    trial.status = 'sealed'
    trial.candidate = payload['candidate']
    trial.export_file = payload['export_file']
    trial.claim = payload['claim']
    # Of an attempt that failed before; evidence must not depend on the machine's accidents.
    trial.cause = ''

  def _trial_failed(self, payload: dict) -> None:
    trial = self.trials[payload['trial']]
    trial.failures += 1
    trial.cause = payload['cause']
    if payload['final']:
      trial.status = 'failed'
    if payload['cause'] == 'scoring':  # of one score, so that the others do not count either
      trial.dev = None
      trial.probes = {}
      trial.external_scored = False
      trial.final_scored = False

  def _trial_refused(self, payload: dict) -> None:
    trial = self.trials[payload['trial']]
    trial.status = 'refused'
    trial.cause = payload['cause']

  def _trial_scored(self, payload: dict) -> None:
    trial = self.trials[payload['trial']]
    trial.dev = payload['score']
    trial.probes = payload.get('probes', {})

  def _base_scored(self, payload: dict) -> None:
    self.base = payload['score']
    self.base_probes = payload.get('probes', {})

  def _external_scored(self, payload: dict) -> None:
    self.trials[payload['trial']].external_scored = True

  def _external_ranked(self, payload: dict) -> None:
    self.ranks[payload['round']] = payload['ranks']

  def _external_released(self, payload: dict) -> None:
    trial = self.trials[payload['trial']]
    trial.released = payload['score']
    trial.released_families = payload.get('by_family')

  def _thresholds_fixed(self, payload: dict) -> None:
    self.thresholds[payload['round']] = payload['thresholds']

  def _concordance_measured(self, payload: dict) -> None:
    self.concordance[payload['round']] = payload['streams']

  def _verdicts_spoken(self, payload: dict) -> None:
    self.verdicts[payload['round']] = payload['verdicts']

  def _control_tested(self, payload: dict) -> None:
    self.attributions[payload['round']] = payload['result']

  def _evidence_written(self, payload: dict) -> None:
    self.evidence[payload['round']] = payload['digest']

  def _promotion_decided(self, payload: dict) -> None:
    self.promotions[payload['round']] = payload

  def _round_finished(self, payload: dict) -> None:
    self.finished_rounds.add(payload['round'])
    self.round_ended[payload['round']] = self.seconds

  def _submission_exported(self, payload: dict) -> None:
    self.trials[payload['trial']].submission = payload

  def _score_submitted(self, payload: dict) -> None:
    self.trials[payload['trial']].submitted = payload['score']

  def _scores_waived(self, payload: dict) -> None:
    for trial in payload['trials']:
      self.trials[trial].waived = True

  def _campaign_waiting(self, payload: dict) -> None:
    self.waiting = payload['trials']

  def _budget_exhausted(self, payload: dict) -> None:
    self.exhausted = payload

  def _final_candidate_scored(self, payload: dict) -> None:
    self.trials[payload['trial']].final_scored = True

  def _final_scored(self, payload: dict) -> None:
    self.final = payload

  def _secrets_revealed(self, payload: dict) -> None:
    self.revealed = payload

  def _campaign_finished(self, payload: dict) -> None:
    self.finished = payload

  def _llm_requested(self, payload: dict) -> None:
    self._spend(payload['round'], payload['reserved'])
    self.llm_reserved = payload['reserved']

  def _llm_exchange(self, payload: dict) -> None:
    self._spend(payload['round'], self.llm_reserved, -1)
    self._spend(payload['round'], payload['usage'])
    self.llm_reserved = None
    self.exchanges.setdefault((payload['round'], payload['purpose']), []).append(payload)

  def _agent_fell_back(self, payload: dict) -> None:
    self.fell_back[payload['round'], payload['purpose']] = payload['cause']


_KINDS = (
  'campaign_started',
  'controller_resumed',
  'policy_written',
  'trial_assigned',
  'trial_sealed',
  'trial_failed',
  'trial_refused',
  'trial_interrupted',
  'trial_scored',
  'base_scored',
  'external_scored',
  'external_ranked',
  'external_released',
  'thresholds_fixed',
  'concordance_measured',
  'verdicts_spoken',
  'control_tested',
  'evidence_written',
  'promotion_decided',
  'round_finished',
  'submission_exported',
  'score_submitted',
  'scores_waived',
  'campaign_waiting',
  'campaign_paused',
  'budget_exhausted',
  'final_candidate_scored',
  'final_scored',
  'secrets_revealed',
  'campaign_finished',
  'llm_requested',
  'llm_exchange',
  'agent_fell_back',
)
_FOLDS = {kind: getattr(CampaignState, f'_{kind}') for kind in _KINDS}


def fold(records: Iterable[Record]) -> CampaignState:
  """Folds records into a new state.

  Args:
    records: of a ledger, from its first.
  """
  state = CampaignState()
  for record in records:
    state.apply(record)
  return state
