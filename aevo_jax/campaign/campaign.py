"""The controller: a state machine over the ledger.

Every step looks at the folded state, does what is missing, and appends what happened; so a killed
controller continues by folding the ledger and walking through the same steps again.

    start -> round 0 (noise floor) -> rounds 1..R -> final retraining and scoring -> reveal ->
    finished round:  policy -> admit and assign -> train, seal, dev score, external score -> rank
    and release -> evidence -> next policy
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

import aevo_jax
from aevo_jax.campaign import decisions, manual_arbiter
from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.executors.precompile import program
from aevo_jax.campaign.executors.processes import Nursery, Server, ServerError, Worker, start_child
from aevo_jax.campaign.llm_session import Desk
from aevo_jax.campaign.settings import CampaignSettings, Inputs
from aevo_jax.campaign.state import CampaignState, TrialState
from aevo_jax.campaign.trial.gate import RecipeRefusedError, admit, default_values, full_recipe
from aevo_jax.campaign.trial.seal import UnsealableError, read_claim, seal
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec, trial_seed
from aevo_jax.checkpoint.digest import ManifestError, file_digest, logical_digest
from aevo_jax.config.statements import render
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.ledger.append import Ledger
from aevo_jax.ledger.records import Record
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.chat_client import ChatClient
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate.build import load_base

POLL_SECONDS = 0.02


class FrozenInputsError(ValueError):
  """A campaign would go on under other rules, inputs or confinement than it began with."""


def compiled_marker(spec: TrialSpec, substrate: str) -> pathlib.Path:
  """The file in the cache that says that the trial's program was compiled, by this run or another;
  `substrate` is the digest of base, code and recipe.
  """
  key = [
    program(default_values(spec.recipe)),
    substrate,
    spec.threads,
    platform.machine(),
    importlib.metadata.version('jax'),
  ]
  return pathlib.Path(spec.cache) / 'programs' / _sha256(json.dumps(key))


class Campaign:
  """One campaign in its run directory.

  Args:
    run: the run directory, which exists. ledger: open, owned. observer: called with every new
      record, and with None while waiting.

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
    observer: Callable[[Record | None], None],
  ):
    self._run, self._ledger, self._settings, self._inputs, self._observer = (
      run,
      ledger,
      settings,
      inputs,
      observer,
    )
    self.state = CampaignState()
    for record in ledger.records:
      self.state.apply(record)
    self._locked = settings.locked()
    self._manual = settings.arbiter == 'manual'
    self._history: list[
      dict
      # evidence by round: read once, or hundreds of rounds would read it hundreds of times each
    ] = []
    self._slots = settings.parallel or max(1, len(os.sched_getaffinity(0)) // settings.threads)
    if self.state.started is not None:
      self._check_frozen()
    self._llm = (
      ChatClient(LlmSettings(**settings.llm))
      if settings.asks_llm and self.state.finished is None
      else None
    )
    base = str(pathlib.Path(inputs.store) / inputs.substrate_object)
    shared = [
      '--base',
      base,
      '--constitution',
      str(run / 'constitution.gin'),
      '--threads',
      str(settings.threads),
      '--cache',
      inputs.cache,
    ]
    logs = run / 'logs'
    logs.mkdir(exist_ok=True)
    self._evaluator = Server(
      [sys.executable, '-m', 'aevo_jax.evaluation.servers.evaluator', *shared],
      logs / 'evaluator.log',
    )
    self._arbiter = Server(
      [
        sys.executable,
        '-m',
        'aevo_jax.evaluation.servers.arbiter',
        *shared,
        '--home',
        inputs.arbiter_home,
        '--holdout',
        inputs.holdout,
        '--campaign',
        inputs.arbiter_campaign,
      ],
      logs / 'arbiter.log',
    )
    self._nursery = Nursery(logs / 'nursery.log')
    self._workers: list[Worker] = []
    self._compiler: subprocess.Popen | None = None

  # -- the state machine ---------------------------------------------------------------------------

  def run(self) -> CampaignState:
    """Runs to the end, from wherever the ledger stops."""
    try:
      if self.state.started is None:
        self._start()
      elif self.state.finished is None:
        self._append('controller_resumed', {})
      for round_ in range(self._inputs.constitution.budget.rounds + 1):
        if round_ not in self.state.finished_rounds:
          if self._out_of_time(round_):
            break
          self._round(round_)
      if self.state.final is None and self.state.finished is None:
        self._final()
      if self.state.revealed is None and not self._manual:
        self._reveal()
      if self.state.finished is None:
        self._append('campaign_finished', {})
      return self.state
    finally:
      for worker in self._workers:
        worker.kill()
      if self._compiler is not None:
        self._compiler.kill()
      for process in (self._nursery, self._evaluator, self._arbiter):
        process.close()

  def _append(self, kind: str, payload: dict[str, Any]) -> None:
    record = self._ledger.append(kind, payload)
    self.state.apply(record)
    self._observer(record)

  def _frozen(self) -> dict[str, Any]:
    """What the first record fixes for the whole campaign."""
    return {
      'constitution': self._inputs.constitution.digest(),
      'commitment': self._inputs.constitution.holdout.commitment,
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
    changed = [name for name, value in self._frozen().items() if self.state.started[name] != value]
    if changed == ['locked']:
      wanted = 'locked' if self.state.started['locked'] else 'open'
      raise FrozenInputsError(
        f'the campaign began with its workers {wanted}, and this machine would go on '
        'otherwise; finish it where it began, or start anew'
      )
    if changed:
      raise FrozenInputsError(
        f'{", ".join(changed)} of {self._run} is not what the campaign began with; put '
        'its files back, or start anew with --run'
      )

  def _start(self) -> None:
    self._append(
      'campaign_started',
      self._frozen()
      | {
        'slots': self._slots,
        'version': aevo_jax.__version__,
        'machine': f'{platform.machine()}, {platform.system()}, Python {platform.python_version()}',
      },
    )

  def _round(self, round_: int) -> None:
    policy = self._policy(round_)
    judged = round_ > 0 and self._inputs.constitution.objective.target == 'external'
    if judged and round_ not in self.state.thresholds:
      self._append(
        'thresholds_fixed',
        {
          'round': round_,
          'thresholds': decisions.fix_thresholds(
            self.state, round_, self._inputs.constitution, self._settings.seed
          ),
        },
      )
    chosen = decisions.with_choices(
      policy,
      self._inputs.constitution,
      recipe=self._inputs.recipe,
      workers_choose=self._settings.workers_choose,
      dialogue=self._dialogue,
    )
    for worker, assignment in enumerate(chosen.assignments):
      trial = f'r{round_}w{worker}'
      self._assign(trial, round_, worker, assignment.axis, chosen.overlay(worker))
    trials = self.state.of_round(round_)
    if round_ == 0 and self.state.base is None:
      self._evaluator.submit(
        ('base_scored', 'base'),
        {'op': 'score', 'out': str(self._run / 'scores' / 'base.dev.json'), **self._base_weights()},
      )
    # What the final needs whatever is promoted is trained where a round would leave a processor
    # idle.
    self._work(
      trials,
      spare=[]
      if self._manual
      else self._retrain(r for r in self._retrainings({}) if r.recipe == 'starting'),
    )
    self._release(round_, trials, policy)
    if judged:
      self._judge(round_, trials)
    text = decisions.evidence_text(
      decisions.round_evidence(self.state, round_, chosen, self._inputs.constitution)
    )
    path = self._run / 'evidence' / f'round_{round_:03d}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if round_ not in self.state.evidence:
      self._append('evidence_written', {'round': round_, 'digest': _sha256(text)})
    self._decide(round_, policy)
    self._append('round_finished', {'round': round_})

  def _out_of_time(self, round_: int) -> bool:
    """Whether the rounds end before this one, which is then recorded; one that was begun is
    finished.
    """
    if self.state.exhausted is None and not self.state.of_round(round_):
      if (
        payload := decisions.out_of_time(self.state, self._inputs.constitution, manual=self._manual)
      ) is not None:
        self._append('budget_exhausted', payload)
    return self.state.exhausted is not None

  def _policy(self, round_: int) -> Policy:
    """The round's policy: as written, or for round 0 the starting one."""
    if round_ in self.state.policies:
      return policy_lib.from_json(self.state.policies[round_]['policy'])
    policy = policy_lib.starting(self._inputs.constitution.budget.noise_seeds)
    self._write_policy(policy)
    return policy_lib.from_json(self.state.policies[round_]['policy'])

  def _dialogue(self, round_: int, purpose: str) -> Desk:
    """Whom a question to the language model is put to."""
    return Desk(
      self._llm,
      LlmSettings(**self._settings.llm),
      self._inputs.constitution.llm_rules,
      self.state,
      self._append,
      round_,
      purpose,
    )

  def _write_policy(self, policy: Policy) -> None:
    policy.write(self._run / 'policy' / f'round_{policy.round:03d}')
    self._append(
      'policy_written',
      {'round': policy.round, 'digest': policy.digest(), 'policy': policy.to_json()},
    )

  def _assign(
    self, trial: str, round_: int, worker: int, axis: str, overlay: str, seed_name: str = ''
  ) -> None:
    """Enters a trial and the gate's verdict on it; nothing if both are in the ledger."""
    known = self.state.trials.get(trial)
    if known is not None and (known.recipe or known.done):
      return
    seed = trial_seed(self._settings.seed, seed_name or trial)
    payload = {
      'trial': trial,
      'round': round_,
      'worker': worker,
      'axis': axis,
      'overlay': overlay,
      'recipe': '',
      'seed': seed,
    }
    try:
      bindings = admit(overlay, self._inputs.constitution.in_round(round_), self._inputs.recipe)
    except RecipeRefusedError as error:
      if known is None:  # else the controller ended between these two records
        self._append('trial_assigned', payload)
      self._append('trial_refused', {'trial': trial, 'cause': str(error)})
      return
    payload |= {
      'overlay': render(bindings),
      'recipe': _sha256(full_recipe(bindings, self._inputs.recipe)),
    }
    self._append('trial_assigned', payload)

  # -- trials --------------------------------------------------------------------------------------

  def spec(self, trial: TrialState) -> TrialSpec:
    """A trial's whole input."""
    return decisions.trial_spec(
      trial,
      self._inputs.constitution,
      recipe=self._inputs.recipe,
      store=self._inputs.store,
      substrate=self._inputs.substrate_object,
      base_digest=self._inputs.base_digest,
      threads=self._settings.threads,
      cache=self._inputs.cache,
      locked=self._locked,
    )

  def _work(self, trials: Sequence[TrialState], spare: Sequence[TrialState] = ()) -> None:
    """Trains, seals and scores trials until none is left, `slots` processes computing at a time;
    begins a `spare` one where a slot would be idle, and does not wait for it."""
    wanted, running = {t.trial for t in trials}, {worker.trial for worker in self._workers}
    to_train = collections.deque(
      t for t in (*trials, *spare) if not t.done and t.trial not in running
    )
    for trial in trials:
      if trial.status == 'sealed':
        self._submit_scores(trial)
    if to_train:
      self._nursery.open()
    markers = {
      t.trial: compiled_marker(self.spec(t), self._inputs.substrate_identity) for t in to_train
    }
    self._compiler = self._compile(to_train, markers)
    servers = (self._arbiter, self._evaluator)  # first the one that takes longer
    ready = lambda: next(
      (t for t in to_train if self._compiler is None or markers[t.trial].exists()), None
    )
    while (
      self._compiler
      or wanted & {x.trial for x in (*to_train, *self._workers)}
      or any(server.waiting or server.busy for server in servers)
    ):
      if self._compiler is not None and self._compiler.poll() is not None:
        self._compiler = None  # a failure costs time only: the workers compile for themselves
      busy = (
        len(self._workers)
        + self._evaluator.busy
        + self._arbiter.busy
        + (self._compiler is not None)
      )
      for server in servers:
        # One at a time while a trial of the round could start instead, which has the longer way to
        # go.
        alone = (
          not any(s.busy for s in servers)
          or (following := ready()) is None
          or following.trial not in wanted
        )
        if busy < self._slots and server.waiting and alone:
          server.send_next()
          busy += 1
      while busy < self._slots and (following := ready()):
        to_train.remove(following)
        busy += self._launch(following)
      self._collect_scores()
      for worker in list(self._workers):
        if (status := worker.poll()) is not None:
          self._workers.remove(worker)
          trial = self.state.trials[worker.trial]
          self._conclude(trial, status, worker.timed_out)
          if trial.status == 'sealed':
            self._submit_scores(trial)
          elif not trial.done:
            to_train.appendleft(trial)
      self._observer(None)
      time.sleep(POLL_SECONDS)

  def _compile(
    self, trials: Sequence[TrialState], markers: Mapping[str, pathlib.Path]
  ) -> subprocess.Popen | None:
    """Starts the compilation of every program of these trials that no run has compiled yet, those
    that most trials wait for first.
    """
    waiting: dict[pathlib.Path, list[TrialState]] = collections.defaultdict(list)
    for trial in trials:
      if not markers[trial.trial].exists():
        waiting[markers[trial.trial]].append(trial)
    if not waiting or not self._inputs.cache:
      return None
    paths = []
    for i, (marker, group) in enumerate(sorted(waiting.items(), key=lambda item: -len(item[1]))):
      paths.append(self._run / 'logs' / f'warm{i}.json')
      paths[-1].write_text(
        json.dumps({'marker': str(marker), 'spec': dataclasses.asdict(self.spec(group[0]))})
      )
    return start_child(
      ['aevo_jax.campaign.executors.precompile', *map(str, paths)], self._run / 'logs' / 'warm.log'
    )

  def _directory(self, trial: TrialState) -> pathlib.Path:
    return self._run / 'trials' / trial.trial

  def _launch(self, trial: TrialState) -> bool:
    """Starts a worker; False if a worker of an earlier controller had finished the trial, which is
    then only sealed.
    """
    directory, spec = self._directory(trial), self.spec(trial)
    if (directory / RESULT).exists() and TrialSpec.read(directory) == spec:
      self._conclude(trial, 0, timed_out=False)
      if trial.status == 'sealed':
        self._submit_scores(trial)
      if trial.done:
        return False
    if directory.exists():
      shutil.rmtree(directory)
    directory.mkdir(parents=True)
    spec.write(directory)
    (directory / 'substrate.fork.json').write_text(
      json.dumps({'schema': 1, 'digest': spec.substrate, 'store': spec.store}) + '\n'
    )
    self._append('trial_started', {'trial': trial.trial, 'attempt': trial.failures + 1})
    self._workers.append(
      self._nursery.start(trial.trial, directory, self._inputs.constitution.budget.trial_deadline_s)
    )
    return True

  def _conclude(self, trial: TrialState, status: int, timed_out: bool) -> None:
    """What a worker's end means: sealed, refused, failed for good, or to be tried again."""
    directory = self._directory(trial)
    if timed_out:
      self._append(
        'trial_failed',
        {
          'trial': trial.trial,
          'cause': 'deadline',
          'final': True,
          'message': f'killed after {self._inputs.constitution.budget.trial_deadline_s:g} s',
        },
      )
      return
    if status == 0 and (directory / RESULT).exists():
      try:
        claim = read_claim(directory)
        if claim['status'] == 'refused':
          self._append('trial_refused', {'trial': trial.trial, 'cause': claim['message']})
          return
        if claim['status'] == 'failed':
          self._append(
            'trial_failed',
            {
              'trial': trial.trial,
              'cause': claim['cause'],
              'final': True,
              'message': claim['message'],
            },
          )
          return
        sealed = seal(directory)
        self._append(
          'trial_sealed',
          {
            'trial': trial.trial,
            'digest': sealed.digest,
            'candidate': self._logical(directory),
            'export_file': sealed.export_file,
            'claim': sealed.claim,
          },
        )
        return
      except (UnsealableError, ManifestError, SafetensorError) as error:
        message = str(error)
    else:
      tail = (
        (directory / 'log.txt').read_text(errors='replace')[-2000:]
        if (directory / 'log.txt').exists()
        else ''
      )
      message = f'exit status {status}; end of log: {tail}'
    # Infrastructure: the machine's fault as far as anyone can tell, so it is tried again.
    (directory / RESULT).unlink(
      missing_ok=True
    )  # judged; the next attempt must not take it for one that was not
    cause = f'signal_{-status}' if status < 0 else 'crash'
    self._append(
      'trial_failed',
      {
        'trial': trial.trial,
        'cause': cause,
        'final': trial.failures >= self._inputs.constitution.budget.retries,
        'message': message,
      },
    )

  def _logical(self, directory: pathlib.Path) -> str:
    """The candidate's identity, computed here from the exported file and not taken from the
    worker's claim.

    Raises:
      UnsealableError: the weights are not of the base's model, so that no server could score them.
    """
    candidate, base = load_file(directory / EXPORT), load_file(self._base_weights()['weights'])
    differing = sorted(
      name
      for name in candidate.keys() | base.keys()
      if name not in candidate
      or name not in base
      or (candidate[name].shape, candidate[name].dtype) != (base[name].shape, base[name].dtype)
    )
    if differing:
      raise UnsealableError(
        f'the exported weights are not of the base model: {", ".join(differing[:5])}'
      )
    return logical_digest(candidate)

  def _submit_scores(self, trial: TrialState) -> None:
    request = {'weights': str(self._directory(trial) / EXPORT), 'file_digest': trial.export_file}
    if trial.round == FINAL:
      if (
        not (trial.final_scored or self._manual)
        and len(self.state.finished_rounds) > self._last_round()
      ):
        self._arbiter.submit(
          ('final_candidate_scored', trial.trial),
          request | {'op': 'final', 'candidate': trial.trial},
        )
      return
    if trial.dev is None:
      self._evaluator.submit(
        ('trial_scored', trial.trial),
        request | {'op': 'score', 'out': str(self._run / 'scores' / f'{trial.trial}.dev.json')},
      )
    if (
      not (trial.external_scored or self._manual)
      and self._inputs.constitution.objective.target == 'external'
    ):
      self._arbiter.submit(
        ('external_scored', trial.trial), request | {'op': 'score', 'trial': trial.trial}
      )

  def _collect_scores(self) -> None:
    for server in (self._evaluator, self._arbiter):
      if (answer := server.poll()) is not None:
        (kind, trial), reply = answer
        failed = trial in self.state.trials and self.state.trials[trial].status == 'failed'
        if 'unavailable' in reply:
          if trial == 'base':
            raise ServerError(f'the base cannot be scored: {reply["unavailable"]}')
          if not failed:
            self._append(
              'trial_failed',
              {'trial': trial, 'cause': 'scoring', 'final': True, 'message': reply['unavailable']},
            )
        elif kind is not None and not failed:
          self._append(
            kind,
            {'trial': trial}
            | ({'score': reply['summary']} if 'summary' in reply else {})
            | ({'probes': reply['probes']} if 'probes' in reply else {}),
          )

  # -- end of a round ------------------------------------------------------------------------------

  def _release(self, round_: int, trials: list[TrialState], policy: Policy) -> None:
    """Ranks for the detector; released scores for the anchors first, then for the best by dev,
    within the quota.
    """
    if self._manual:
      self._release_submitted(round_, trials, policy)
      return
    scored = [t for t in trials if t.external_scored]
    if not scored:
      return
    if round_ not in self.state.ranks:
      reply = self._arbiter.call(
        {
          'op': 'ranks',
          'trials': [t.trial for t in scored],
          'seed': decisions.tie_seed(self._settings.seed, round_),
        }
      )
      self._append('external_ranked', {'round': round_, 'ranks': reply['ranks']})
    chosen = decisions.to_release(
      scored, self._inputs.constitution.release.per_round, policy.objectives
    )
    if any(self.state.trials[t].released is None for t in chosen):
      reply = self._arbiter.call({'op': 'release', 'round': round_, 'trials': chosen})
      for trial in chosen:
        if self.state.trials[trial].released is None:
          self._append(
            'external_released',
            {
              'trial': trial,
              'round': round_,
              'score': reply['scores'][trial],
              'by_family': reply['families'][trial],
            },
          )

  def _judge(self, round_: int, trials: list[TrialState]) -> None:
    """How far external followed dev in this round, the verdicts on it, and the test of a revision
    that it may have been.
    """
    if round_ not in self.state.concordance:
      scored, seed = (
        [t.trial for t in trials if t.has_external],
        decisions.tie_seed(self._settings.seed, round_),
      )
      if self._manual:
        streams = decisions.submitted_concordance(trials, seed)
      else:
        request = {
          'op': 'concordance',
          'round': round_,
          'trials': scored,
          'dev': decisions.dev_streams(trials),
          'variance': decisions.dev_item_variance(trials),
          'seed': seed,
        }
        streams = self._arbiter.call(request)['streams'] if scored else {}
      self._append('concordance_measured', {'round': round_, 'streams': streams})
    if round_ not in self.state.verdicts:
      self._append(
        'verdicts_spoken',
        {
          'round': round_,
          'verdicts': decisions.verdicts(self.state, round_, self._inputs.constitution),
        },
      )
    if decisions.arms(self.state, round_) and round_ not in self.state.attributions:
      result = (
        decisions.submitted_control(self.state, round_)
        if self._manual
        else self._arbiter.call(
          {'op': 'control', 'round': round_, 'rounds': decisions.controlled(self.state, round_)}
        )['result']
      )
      self._append('control_tested', {'round': round_, 'result': result})

  def _release_submitted(self, round_: int, trials: list[TrialState], policy: Policy) -> None:
    """The same of a manual arbiter: what he is to score is exported and waited for, and the scores
    he gave are ranked and released.
    """
    chosen = decisions.to_release(
      trials, self._inputs.constitution.release.per_round, policy.objectives, manual=True
    )
    self._await(chosen)
    scores = {
      t: self.state.trials[t].submitted
      for t in chosen
      if self.state.trials[t].submitted is not None
    }
    if scores and round_ not in self.state.ranks:
      self._append(
        'external_ranked',
        {
          'round': round_,
          'ranks': arbiter.rank(scores, decisions.tie_seed(self._settings.seed, round_)),
        },
      )
    for trial, score in scores.items():
      if self.state.trials[trial].released is None:
        self._append(
          'external_released',
          {
            'trial': trial,
            'round': round_,
            'score': round(score, self._inputs.constitution.release.decimals),
          },
        )

  def _await(self, chosen: Sequence[str]) -> None:
    """Exports what has not been exported yet.

    Raises:
      WaitingForScoresError: scores of these trials have not been handed in.
    """
    for trial in map(self.state.trials.get, chosen):
      if trial.submission is None and not trial.waived:
        try:
          self._append('submission_exported', manual_arbiter.export(self._run, trial, self._inputs))
        except manual_arbiter.NoSubmissionError as error:
          self._append('scores_waived', {'trials': [trial.trial], 'cause': str(error)})
    missing = manual_arbiter.missing(self.state)
    if missing:
      self._append('campaign_waiting', {'trials': missing})
      raise manual_arbiter.WaitingForScoresError(self._run, missing)

  def _decide(self, round_: int, policy: Policy) -> None:
    self._history += [
      json.loads((self._run / 'evidence' / f'round_{k:03d}.json').read_text())
      for k in range(len(self._history), round_ + 1)
    ]
    if round_ + 1 not in self.state.policies:
      self._write_policy(
        decisions.next_policy(
          self._history,
          policy,
          self._inputs.constitution,
          recipe=self._inputs.recipe,
          agent=self._settings.agent,
          campaign_seed=self._settings.seed,
          dialogue=self._dialogue,
        )
      )
    following = policy_lib.from_json(self.state.policies[round_ + 1]['policy'])
    if round_ not in self.state.promotions:
      self._append('promotion_decided', decisions.promotion(policy, following))

  # -- the end -------------------------------------------------------------------------------------

  def _final(self) -> None:
    """Retrains the promoted and the starting recipe on fresh seeds and has them and the base
    scored, once, on the final set.
    """
    promoted = policy_lib.from_json(self.state.policies[self._last_round() + 1]['policy']).standing
    trials = self._retrain(self._retrainings(promoted))
    if self._manual:
      self._work(trials)
      self._await([t.trial for t in trials if t.status == 'sealed'][:1])
      return
    self._arbiter.submit(
      (None, 'base'), {'op': 'final', 'candidate': 'base', **self._base_weights()}
    )
    self._work(trials)
    self._append('final_scored', {'scores': self._arbiter.call({'op': 'final_scores'})['scores']})

  def _retrainings(self, promoted: dict[str, Any]) -> list[decisions.Retraining]:
    return decisions.retrainings(
      promoted, self._inputs.constitution.budget.final_seeds, manual=self._manual
    )

  def _last_round(self) -> int:
    return self.state.last_round(self._inputs.constitution.budget.rounds)

  def _retrain(self, retrainings: Iterable[decisions.Retraining]) -> list[TrialState]:
    """The trials of these retrainings, assigned."""
    trials = []
    for name, worker, recipe, overlay, seed_name in retrainings:
      self._assign(name, FINAL, worker, recipe, overlay, seed_name=seed_name)
      trials.append(self.state.trials[name])
    return trials

  def _base_weights(self) -> dict[str, str]:
    """The base as a file that evaluator and arbiter read like any candidate."""
    path = self._run / 'base.safetensors'
    if not path.exists():
      base = pathlib.Path(self._inputs.store) / self._inputs.substrate_object
      params = load_base(base, logical_digest=self._inputs.base_digest)
      partial = path.with_name(
        '.base.partial'
      )  # a controller killed while writing must not leave half a base under the real name
      checkpoint.save_weights(partial, params, checkpoint.read_config(base))
      partial.rename(path)
    return {'weights': str(path), 'file_digest': file_digest(path)}

  def _reveal(self) -> None:
    reply = self._arbiter.call({'op': 'reveal', 'out': str(self._run / 'scores')})
    self._append('secrets_revealed', {'secrets': {'holdout': reply['secret']}})


def _sha256(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()
