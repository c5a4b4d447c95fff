"""The attempts at trials: started as jobs of an executor, concluded from their files."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.executors.protocol import (
  Ended,
  Executor,
  Handle,
  Job,
  Lost,
)
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.trial.seal import UnsealableError, candidate_digest, read_claim, seal
from aevo_jax.campaign.trial.spec import RESULT, TrialSpec
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.constitution import Budget

_LOG_CHARACTERS = 2000


class Attempts:
  """Starts attempts and enters into the journal how they end.

  Args:
    trials: directory of the trials' directories.
    journal: of the campaign.
    executor: what runs the attempts.
    budget: deadline and number of retries.
    campaign: a name that no other campaign has; part of the jobs' keys.
    spec_of: gives a trial's spec.
    base_file: gives the base's weights as a file, for comparison.
  """

  def __init__(
    self,
    trials: pathlib.Path,
    journal: Journal,
    executor: Executor,
    budget: Budget,
    campaign: str,
    spec_of: Callable[[TrialState], TrialSpec],
    base_file: Callable[[], pathlib.Path],
  ):
    self._trials = trials
    self._journal = journal
    self._executor = executor
    self._budget = budget
    self._campaign = campaign
    self._spec_of = spec_of
    self._base_file = base_file
    self._jobs: dict[str, Handle] = {}

  @property
  def running(self) -> set[str]:
    """The trials whose attempt has not been concluded."""
    return set(self._jobs)

  def directory(self, trial: TrialState) -> pathlib.Path:
    """Names the directory of a trial's latest attempt."""
    return self._trials / trial.trial

  def conclude_leftover(self, trial: TrialState) -> None:
    """Concludes an attempt that ended while no controller ran.

    Args:
      trial: without a running attempt. Nothing happens unless its directory holds the result of
        the spec that it would be started with.
    """
    directory = self.directory(trial)
    if (directory / RESULT).exists() and TrialSpec.read(directory) == self._spec_of(trial):
      self._conclude(trial, Ended(0))

  def start(self, trial: TrialState) -> None:
    """Starts the next attempt in a new directory, or takes over one that still runs.

    Args:
      trial: without a running attempt of this controller.

    Raises:
      ExecutorError: no job can be run.
    """
    attempt = trial.failures + 1
    key = f'{self._campaign}-{trial.trial}-{attempt}'
    handle = self._executor.find(key)
    if handle is None:
      directory = self.directory(trial)
      self._write_input(directory, self._spec_of(trial))
      self._journal.append('trial_started', {'trial': trial.trial, 'attempt': attempt})
      handle = self._executor.submit(key, Job(directory, self._budget.trial_deadline_s))
    self._jobs[trial.trial] = handle

  def collect(self) -> list[TrialState]:
    """Concludes the attempts that have ended.

    Returns:
      Their trials: sealed, refused, failed, or assigned, which means that they are to be started
      again.
    """
    concluded = []
    for name, handle in list(self._jobs.items()):
      status = self._executor.poll(handle)
      if isinstance(status, Ended | Lost):
        del self._jobs[name]
        trial = self._journal.state.trials[name]
        self._conclude(trial, status)
        concluded.append(trial)
    return concluded

  def cancel_all(self) -> None:
    """Ends all running attempts without a record."""
    for handle in self._jobs.values():
      self._executor.cancel(handle)
    self._jobs.clear()

  def _write_input(self, directory: pathlib.Path, spec: TrialSpec) -> None:
    if directory.exists():
      shutil.rmtree(directory)
    directory.mkdir(parents=True)
    spec.write(directory)
    fork = {'schema': 1, 'digest': spec.substrate, 'store': spec.store}
    (directory / 'substrate.fork.json').write_text(json.dumps(fork) + '\n')

  def _conclude(self, trial: TrialState, status: Ended | Lost) -> None:
    """Enters what an end means: sealed, refused, failed for good, or failed and tried again."""
    if isinstance(status, Lost):
      self._fail_attempt(trial, 'lost', status.reason)
    elif status.timed_out:
      self._fail(trial, 'deadline', f'killed after {self._budget.trial_deadline_s:g} s', final=True)
    elif status.exit_status == 0 and (self.directory(trial) / RESULT).exists():
      try:
        self._conclude_claim(trial)
      except (UnsealableError, ManifestError, SafetensorError) as error:
        self._fail_attempt(trial, 'crash', str(error))
    else:
      cause = f'signal_{-status.exit_status}' if status.exit_status < 0 else 'crash'
      tail = _end_of_log(self.directory(trial))
      self._fail_attempt(trial, cause, f'exit status {status.exit_status}; end of log: {tail}')

  def _conclude_claim(self, trial: TrialState) -> None:
    directory = self.directory(trial)
    claim = read_claim(directory)
    if claim['status'] == 'refused':
      self._append('trial_refused', trial, cause=claim['message'])
    elif claim['status'] == 'failed':
      self._fail(trial, claim['cause'], claim['message'], final=True)
    else:
      sealed = seal(directory)
      self._append(
        'trial_sealed',
        trial,
        digest=sealed.digest,
        candidate=candidate_digest(directory, self._base_file()),
        export_file=sealed.export_file,
        claim=sealed.claim,
      )

  def _fail_attempt(self, trial: TrialState, cause: str, message: str) -> None:
    """Enters a failure that is the machine's as far as anyone can tell, so it is tried again."""
    # The result is judged; the next attempt must not take it for one that was not.
    (self.directory(trial) / RESULT).unlink(missing_ok=True)
    self._fail(trial, cause, message, final=trial.failures >= self._budget.retries)

  def _fail(self, trial: TrialState, cause: str, message: str, *, final: bool) -> None:
    self._append('trial_failed', trial, cause=cause, final=final, message=message)

  def _append(self, kind: str, trial: TrialState, **payload: Any) -> None:
    self._journal.append(kind, {'trial': trial.trial, **payload})


def _end_of_log(directory: pathlib.Path) -> str:
  log = directory / 'log.txt'
  if not log.exists():
    return ''
  return log.read_text(errors='replace')[-_LOG_CHARACTERS:]
