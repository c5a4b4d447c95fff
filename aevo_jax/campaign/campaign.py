"""The controller of a campaign: a state machine over the ledger.

Every step looks at the folded state, does what is missing, and appends what happened; so a killed
controller continues by folding the ledger and walking through the same steps again.

    start -> round 0 (noise floor) -> rounds 1..R -> final retraining and scoring -> reveal ->
    finished
    round:  policy -> admit and assign -> train, seal, dev score, external score -> rank and
    release -> evidence -> next policy
"""

import dataclasses
import hashlib
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

import aevo_jax
from aevo_jax.campaign import collaborators as collaborators_lib
from aevo_jax.campaign import pausing
from aevo_jax.campaign.attempts import Attempts
from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.decisions import FINAL, Retraining, TrialConditions
from aevo_jax.campaign.decisions.next_policy import with_choices
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.campaign.executors.precompiler import Request, compiled_marker
from aevo_jax.campaign.executors.protocol import Allowance
from aevo_jax.campaign.journal import Journal, Observer
from aevo_jax.campaign.llm_session import LlmSession
from aevo_jax.campaign.machine import allowance as allowance_lib
from aevo_jax.campaign.machine import fault as fault_lib
from aevo_jax.campaign.machine.examiner import Examiner
from aevo_jax.campaign.scheduler import Scheduler
from aevo_jax.campaign.scoring import Scoring
from aevo_jax.campaign.setup import preflight
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.campaign.target import ArbiterTarget, ManualTarget
from aevo_jax.campaign.trial.gate import RecipeRefusedError, admit, full_recipe
from aevo_jax.campaign.trial.spec import TrialSpec, trial_seed
from aevo_jax.config.statements import render
from aevo_jax.ledger.append import Ledger
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm.chat_client import ChatClient
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.meta_agent.policy import Policy


class FrozenInputsError(ValueError):
  """A campaign would go on under other rules, inputs or confinement than it began with."""


class Campaign:
  """One campaign in its run directory.

  Args:
    run: the run directory, which exists.
    ledger: open and owned.
    settings: of the campaign.
    inputs: of the campaign.
    observer: called with every new record, and with None while waiting.
    **collaborators: fields of `Collaborators`, in place of those of this machine.

  Raises:
    FrozenInputsError: the ledger was begun with another constitution, substrate or settings, or
      with workers confined otherwise.
    LlmSetupError: a language model is to be asked and cannot be from here.
  """

  def __init__(
    self,
    run: pathlib.Path,
    ledger: Ledger,
    settings: CampaignSettings,
    inputs: Inputs,
    observer: Observer,
    **collaborators: Any,
  ):
    self._run = run
    self._settings = settings
    self._inputs = inputs
    self._constitution = inputs.constitution
    self._journal = Journal(ledger, observer)
    outside = dataclasses.replace(collaborators_lib.local(run, settings, inputs), **collaborators)
    self._locked = settings.locked(outside.can_confine)
    self._manual = settings.arbiter == 'manual'
    # Evidence by round, read once: hundreds of rounds would read it hundreds of times each.
    self._history: list[Evidence] = []
    if self.state.started is not None:
      self._check_frozen()
    self._llm = None
    if settings.asks_llm and self.state.finished is None:
      self._llm = ChatClient(LlmSettings(**settings.llm))
    self._connect(outside)

  def _connect(self, collaborators: collaborators_lib.Collaborators) -> None:
    """Builds the parts of the controller from its collaborators."""
    self._collaborators = collaborators
    notes = pathlib.Path(self._inputs.arbiter_home) / pausing.NOTES
    note = notes / f'{self._inputs.arbiter_campaign}.json'
    self._pausing = pausing.Pausing(self._run, self._journal, note)
    executor = collaborators.executor
    evaluator = collaborators.evaluator
    arbiter = collaborators.arbiter
    self._scoring = Scoring(
      self._run, self._journal, self._inputs, evaluator, arbiter, manual=self._manual
    )
    examiner = Examiner(collaborators.machine, self._run, self._allowance)
    self._attempts = Attempts(
      self._run / 'trials',
      self._journal,
      executor,
      self._constitution.budget,
      campaign=self._inputs.arbiter_campaign,
      spec_of=self.spec,
      base_file=self._scoring.base_file,
      examiner=examiner,
    )
    self._scheduler = Scheduler(
      self._journal,
      executor,
      self._attempts,
      self._scoring,
      # The arbiter takes longer.
      servers=(arbiter, evaluator),
      precompiler=collaborators.precompiler,
      request_of=self._program,
      clock=collaborators.clock,
    )
    if self._manual:
      self._target = ManualTarget(
        self._run, self._journal, self._settings, self._inputs, collaborators.write_submission
      )
    else:
      self._target = ArbiterTarget(self._run, self._journal, self._settings, self._inputs, arbiter)

  @property
  def state(self) -> CampaignState:
    """Everything that the ledger says so far."""
    return self._journal.state

  # -- the state machine ---------------------------------------------------------------------------

  def run(self) -> CampaignState:
    """Runs to the end, from wherever the ledger stops.

    Returns:
      The state at the end.

    Raises:
      WaitingForScoresError: somebody else has to score submissions first.
      ServerError: a server refuses a request.
      MachineFaultError: the machine failed, and the campaign has paused.
    """
    try:
      self._to_the_end()
      return self.state
    except Exception as error:
      fault = fault_lib.of_error(error, self._run)
      if fault is None:
        raise
      interrupted = sorted(self._attempts.running)
      self._attempts.cancel_all()
      self._pausing.pause(fault, interrupted)
      raise fault from error
    finally:
      self._close()

  def _to_the_end(self) -> None:
    if self.state.finished is None:
      self._pausing.prepare()
    if self.state.started is None:
      self._start()
    elif self.state.finished is None:
      self._append('controller_resumed', {})
    if self.state.finished is None:
      self._check_engine()
    self._rounds()
    if self.state.final is None and self.state.finished is None:
      self._final()
    if self.state.revealed is None and not self._manual:
      self._reveal()
    if self.state.finished is None:
      self._append('campaign_finished', {})
    self._pausing.end()

  def _check_engine(self) -> None:
    """Raises MachineFaultError where the engine was removed since the campaign was prepared."""
    problem = preflight.missing_engine(self._constitution)
    if problem:
      again = fault_lib.resume_command(self._run)
      raise fault_lib.MachineFaultError('engine', f'{problem}; put it back, then {again}')

  def _close(self) -> None:
    self._attempts.cancel_all()
    self._collaborators.precompiler.close()
    self._collaborators.executor.close()
    self._collaborators.evaluator.close()
    self._collaborators.arbiter.close()

  def _append(self, kind: str, payload: dict[str, Any]) -> None:
    self._journal.append(kind, payload)

  def _allowance(self) -> Allowance:
    base_bytes = allowance_lib.float32_bytes(self._scoring.base_file())
    free = self._collaborators.machine.memory_free()
    default = allowance_lib.default(base_bytes, free, self._settings.slots)
    return Allowance(
      disk=int(self._settings.trial_disk_gb * allowance_lib.GB) or default.disk,
      memory=int(self._settings.trial_memory_gb * allowance_lib.GB) or default.memory,
    )

  def _frozen(self) -> dict[str, Any]:
    """What the first record fixes for the whole campaign."""
    return {
      'constitution': self._constitution.digest(),
      'commitment': self._constitution.holdout.commitment,
      'holdout': self._inputs.holdout,
      'substrate': self._inputs.substrate_identity,
      'substrate_object': self._inputs.substrate_object,
      'base_digest': self._inputs.base_digest,
      'seed': self._settings.seed,
      'settings': dataclasses.asdict(self._settings),
      'locked': self._locked,
      'recipe': self._inputs.recipe,
    }

  def _check_frozen(self) -> None:
    started = self.state.started
    changed = [name for name, value in self._frozen().items() if started[name] != value]
    if changed == ['locked']:
      before = 'locked' if started['locked'] else 'open'
      raise FrozenInputsError(
        f'the campaign began with its workers {before}, and this machine would go on '
        'otherwise; finish it where it began, or start anew'
      )
    if changed:
      raise FrozenInputsError(
        f'{", ".join(changed)} of {self._run} is not what the campaign began with; put '
        'its files back, or start anew with --run'
      )

  def _start(self) -> None:
    machine = f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}'
    self._append(
      'campaign_started',
      self._frozen()
      | {
        'slots': self._collaborators.executor.slots,
        'version': aevo_jax.__version__,
        'machine': machine,
      },
    )

  # -- rounds --------------------------------------------------------------------------------------

  def _rounds(self) -> None:
    for round_ in range(self._constitution.budget.rounds + 1):
      if round_ not in self.state.finished_rounds:
        if self._out_of_time(round_):
          break
        self._round(round_)

  def _round(self, round_: int) -> None:
    policy = self._policy(round_)
    judged = round_ > 0 and self._constitution.objective.target == 'external'
    if judged and round_ not in self.state.thresholds:
      self._fix_thresholds(round_)
    chosen = with_choices(
      policy,
      self._constitution,
      recipe=self._inputs.recipe,
      workers_choose=self._settings.workers_choose,
      dialogue=self._dialogue,
      parse=self._collaborators.parser,
    )
    for worker, assignment in enumerate(chosen.assignments):
      trial = f'r{round_}w{worker}'
      self._assign(trial, round_, worker, assignment.axis, chosen.overlay(worker))
    trials = self.state.of_round(round_)
    if round_ == 0 and self.state.base is None:
      self._scoring.submit_base()
    self._scheduler.run(trials, spare=self._spare_trials())
    self._target.release(round_, trials, policy)
    if judged:
      self._judge(round_, trials)
    self._write_evidence(round_, chosen)
    self._decide(round_, policy)
    self._append('round_finished', {'round': round_})

  def _out_of_time(self, round_: int) -> bool:
    """Whether the rounds end before this one; records that. A round that was begun is finished."""
    if self.state.exhausted is None and not self.state.of_round(round_):
      payload = decisions.out_of_time(self.state, self._constitution, manual=self._manual)
      if payload is not None:
        self._append('budget_exhausted', payload)
    return self.state.exhausted is not None

  def _policy(self, round_: int) -> Policy:
    """The round's policy: as written, or for round 0 the starting one."""
    if round_ not in self.state.policies:
      self._write_policy(policy_lib.starting(self._constitution.budget.noise_seeds))
    return self._written_policy(round_)

  def _written_policy(self, round_: int) -> Policy:
    return policy_lib.from_json(self.state.policies[round_]['policy'])

  def _write_policy(self, policy: Policy) -> None:
    policy.write(self._run / 'policy' / f'round_{policy.round:03d}')
    self._append(
      'policy_written',
      {'round': policy.round, 'digest': policy.digest(), 'policy': policy.to_json()},
    )

  def _dialogue(self, round_: int, purpose: str) -> LlmSession:
    """The session in which the language model answers one question."""
    return LlmSession(
      self._llm,
      LlmSettings(**self._settings.llm),
      self._constitution.llm_rules,
      self._journal,
      round_,
      purpose,
      self._collaborators.clock,
    )

  def _fix_thresholds(self, round_: int) -> None:
    thresholds = decisions.fix_levels(self.state, round_, self._constitution)
    self._append('thresholds_fixed', {'round': round_, 'thresholds': thresholds})

  def _judge(self, round_: int, trials: list[TrialState]) -> None:
    """Measures how far external followed dev, and speaks the verdicts on that and on a revision."""
    if round_ not in self.state.concordance:
      streams = self._target.concordance(round_, trials)
      self._append('concordance_measured', {'round': round_, 'streams': streams})
    if round_ not in self.state.verdicts:
      verdicts = decisions.verdicts(self.state, round_, self._constitution)
      self._append('verdicts_spoken', {'round': round_, 'verdicts': verdicts})
    if decisions.arms(self.state, round_) and round_ not in self.state.attributions:
      result = self._target.control(round_)
      self._append('control_tested', {'round': round_, 'result': result})

  def _evidence_path(self, round_: int) -> pathlib.Path:
    return self._run / 'evidence' / f'round_{round_:03d}.json'

  def _write_evidence(self, round_: int, policy: Policy) -> None:
    text = round_evidence(self.state, round_, policy, self._constitution).to_text()
    path = self._evidence_path(round_)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if round_ not in self.state.evidence:
      self._append('evidence_written', {'round': round_, 'digest': _sha256(text)})

  def _decide(self, round_: int, policy: Policy) -> None:
    """Has the agent decide the next policy from all evidence, and what it promotes."""
    for k in range(len(self._history), round_ + 1):
      self._history.append(Evidence.from_json(self._evidence_path(k).read_text()))
    if round_ + 1 not in self.state.policies:
      following = self._collaborators.next_policy(
        self._history,
        policy,
        self._constitution,
        recipe=self._inputs.recipe,
        agent=self._settings.agent,
        campaign_seed=self._settings.seed,
        dialogue=self._dialogue,
        parse=self._collaborators.parser,
      )
      self._write_policy(following)
    if round_ not in self.state.promotions:
      following = self._written_policy(round_ + 1)
      self._append('promotion_decided', decisions.promotion(policy, following))

  # -- trials --------------------------------------------------------------------------------------

  def _assign(
    self, trial: str, round_: int, worker: int, axis: str, overlay: str, seed_name: str = ''
  ) -> None:
    """Enters a trial and the gate's verdict on it; nothing if both are in the ledger."""
    known = self.state.trials.get(trial)
    if known is not None and (known.recipe or known.done):
      return
    payload = {
      'trial': trial,
      'round': round_,
      'worker': worker,
      'axis': axis,
      'overlay': overlay,
      'recipe': '',
      'seed': trial_seed(self._settings.seed, seed_name or trial),
    }
    rules = self._constitution.in_round(round_)
    try:
      bindings = admit(overlay, rules, self._inputs.recipe, parse=self._collaborators.parser)
    except RecipeRefusedError as error:
      # A known trial means that the controller ended between these two records.
      if known is None:
        self._append('trial_assigned', payload)
      self._append('trial_refused', {'trial': trial, 'cause': str(error)})
      return
    payload['overlay'] = render(bindings)
    payload['recipe'] = _sha256(full_recipe(bindings, self._inputs.recipe))
    self._append('trial_assigned', payload)

  def spec(self, trial: TrialState) -> TrialSpec:
    """Builds a trial's whole input.

    Args:
      trial: as assigned.
    """
    conditions = TrialConditions(
      recipe=self._inputs.recipe,
      store=self._inputs.store,
      substrate=self._inputs.substrate_object,
      base_digest=self._inputs.base_digest,
      threads=self._settings.threads,
      cache=self._inputs.cache,
      locked=self._locked,
    )
    return decisions.trial_spec(trial, self._constitution, conditions)

  def _program(self, trial: TrialState) -> Request:
    spec = self.spec(trial)
    return Request(spec, compiled_marker(spec, self._inputs.substrate_identity))

  # -- the end -------------------------------------------------------------------------------------

  def _final(self) -> None:
    """Retrains promoted and starting recipe on fresh seeds, and scores them and the base, once."""
    last_round = self.state.last_round(self._constitution.budget.rounds)
    promoted = self._written_policy(last_round + 1).standing
    trials = self._retrain(self._retrainings(promoted))
    if self._manual:
      self._scheduler.run(trials)
      sealed = [t.trial for t in trials if t.status == 'sealed']
      self._target.wait_for(sealed[:1])
      return
    self._scoring.submit_final_base()
    self._scheduler.run(trials)
    reply = self._collaborators.arbiter.call({'op': 'final_scores'})
    self._append('final_scored', {'scores': reply['scores']})

  def _spare_trials(self) -> list[TrialState]:
    """What the final needs whatever is promoted: trained where a round would leave a slot idle."""
    if self._manual:
      return []
    return self._retrain(r for r in self._retrainings({}) if r.recipe == 'starting')

  def _retrainings(self, promoted: dict[str, Any]) -> list[Retraining]:
    seeds = self._constitution.budget.final_seeds
    return decisions.retrainings(promoted, seeds, manual=self._manual)

  def _retrain(self, retrainings: Iterable[Retraining]) -> list[TrialState]:
    """The trials of these retrainings, assigned."""
    trials = []
    for retraining in retrainings:
      self._assign(
        retraining.trial,
        FINAL,
        retraining.worker,
        retraining.recipe,
        retraining.overlay,
        seed_name=retraining.seed_name,
      )
      trials.append(self.state.trials[retraining.trial])
    return trials

  def _reveal(self) -> None:
    reply = self._collaborators.arbiter.call({'op': 'reveal', 'out': str(self._run / 'scores')})
    self._append('secrets_revealed', {'secrets': {'holdout': reply['secret']}})


def _sha256(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()
