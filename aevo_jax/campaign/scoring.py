"""The scoring of sealed weights: requests to evaluator and arbiter, and records of scores."""

import pathlib
from typing import Any

from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.machine.fault import MachineFaultError, resume_command
from aevo_jax.campaign.setup.settings import Inputs
from aevo_jax.campaign.trial.spec import EXPORT
from aevo_jax.checkpoint.digest import file_digest
from aevo_jax.evaluation.servers.client import Answer, Server
from aevo_jax.models.hf import checkpoint
from aevo_jax.substrate.build import load_base

BASE = 'base'
ENGINE_CHECKED = 'engine_checked'


class Scoring:
  """Submits weights to the two servers and enters their answers into the journal.

  Args:
    run: the run directory.
    journal: of the campaign.
    inputs: of the campaign.
    evaluator: gives dev scores and probes.
    arbiter: gives external and final scores.
    manual: whether somebody else gives external scores, so that the arbiter is not asked.
  """

  def __init__(
    self,
    run: pathlib.Path,
    journal: Journal,
    inputs: Inputs,
    evaluator: Server,
    arbiter: Server,
    *,
    manual: bool,
  ):
    self._run = run
    self._journal = journal
    self._inputs = inputs
    self._evaluator = evaluator
    self._arbiter = arbiter
    self._manual = manual

  def base_file(self) -> pathlib.Path:
    """Returns the base as a file that the servers read like any candidate; writes it once."""
    path = self._run / 'base.safetensors'
    if not path.exists():
      base = pathlib.Path(self._inputs.store) / self._inputs.substrate_object
      params = load_base(base, logical_digest=self._inputs.base_digest)
      # A controller killed while writing must not leave half a base under the real name.
      partial = path.with_name('.base.partial')
      checkpoint.save_weights(partial, params, checkpoint.read_config(base))
      partial.rename(path)
    return path

  def submit_base(self) -> None:
    """Submits the base for its dev score."""
    out = self._run / 'scores' / f'{BASE}.dev.json'
    request = {'op': 'score', 'out': str(out), **self._base_weights()}
    self._evaluator.submit(('base_scored', BASE), request)

  def submit_final_base(self) -> None:
    """Submits the base for the final set; its answer is no record."""
    self._arbiter.submit((None, BASE), {'op': 'final', 'candidate': BASE, **self._base_weights()})

  def submit(self, trial: TrialState) -> None:
    """Submits a sealed trial for every score that it lacks.

    Args:
      trial: one of the final is scored once all rounds have finished.
    """
    if trial.round == FINAL:
      self._submit_final(trial)
      return
    if trial.dev is None:
      out = self._run / 'scores' / f'{trial.trial}.dev.json'
      request = {'op': 'score', 'out': str(out), **self._weights(trial)}
      self._evaluator.submit(('trial_scored', trial.trial), request)
    external = self._inputs.constitution.objective.target == 'external'
    if external and not self._manual and not trial.external_scored:
      request = {'op': 'score', 'trial': trial.trial, **self._weights(trial)}
      self._arbiter.submit(('external_scored', trial.trial), request)

  def collect(self) -> None:
    """Enters the answers that came.

    Raises:
      ServerError, OSError: a server fails (see `Server.poll`).
      MachineFaultError: what a server scores with does not work, whatever it is given.
    """
    for server in (self._evaluator, self._arbiter):
      answer = server.poll()
      if answer is not None and 'unavailable' in answer.reply:
        self._examine(server, answer)
      elif answer is not None:
        self._enter(answer)

  def _submit_final(self, trial: TrialState) -> None:
    state = self._journal.state
    last_round = state.last_round(self._inputs.constitution.budget.rounds)
    rounds_are_over = len(state.finished_rounds) > last_round
    if rounds_are_over and not self._manual and not trial.final_scored:
      request = {'op': 'final', 'candidate': trial.trial, **self._weights(trial)}
      self._arbiter.submit(('final_candidate_scored', trial.trial), request)

  def _examine(self, server: Server, answer: Answer) -> None:
    """Finds out whether the engine below a server fails with the base as well."""
    kind, name = answer.tag
    message = answer.reply['unavailable']
    if name == BASE or kind == ENGINE_CHECKED:
      again = resume_command(self._run)
      raise MachineFaultError(
        'engine', f'the evaluation engine fails: {message}; mend it, then {again}'
      )
    # Asked before anything else, which would only meet the same engine.
    tag = (ENGINE_CHECKED, (name, message))
    server.submit(tag, {'op': 'check', **self._base_weights()}, first=True)

  def _enter(self, answer: Answer) -> None:
    kind, name = answer.tag
    reply = answer.reply
    if kind == ENGINE_CHECKED:
      trial, message = name
      self._fail_scoring(trial, message)
    elif kind is not None and not self._has_failed(name):
      payload: dict[str, Any] = {'trial': name}
      if 'summary' in reply:
        payload['score'] = reply['summary']
      if 'probes' in reply:
        payload['probes'] = reply['probes']
      self._journal.append(kind, payload)

  def _has_failed(self, name: str) -> bool:
    trials = self._journal.state.trials
    return name in trials and trials[name].status == 'failed'

  def _fail_scoring(self, trial: str, message: str) -> None:
    """Enters that a trial's weights bring down an engine that works with the base."""
    if not self._has_failed(trial):
      self._journal.append(
        'trial_failed', {'trial': trial, 'cause': 'scoring', 'final': True, 'message': message}
      )

  def _weights(self, trial: TrialState) -> dict[str, str]:
    path = self._run / 'trials' / trial.trial / EXPORT
    return {'weights': str(path), 'file_digest': trial.export_file}

  def _base_weights(self) -> dict[str, str]:
    path = self.base_file()
    return {'weights': str(path), 'file_digest': file_digest(path)}
