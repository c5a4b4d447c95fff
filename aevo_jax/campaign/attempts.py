"""The attempts at trials: started as jobs of an executor, concluded from their files."""

import json
import pathlib
import shutil
import signal
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from safetensors import SafetensorError

from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.executors import usage
from aevo_jax.campaign.executors.protocol import (
  Ended,
  Executor,
  Handle,
  Job,
  Lost,
)
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.machine.examiner import OUT_OF_MEMORY, Examiner, signs_of
from aevo_jax.campaign.machine.fault import MachineFaultError
from aevo_jax.campaign.trial.seal import UnsealableError, candidate_digest, read_claim, seal
from aevo_jax.campaign.trial.spec import RESULT, TrialSpec
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.config.constitution import Budget

_LOG_CHARACTERS = 2000


class _Exceeded(NamedTuple):
  """A trial that took more than its allowance, and of what: 'disk' or 'memory'."""

  trial: str
  kind: str


class _Began(NamedTuple):
  """What had happened when an attempt began: the kernel's kills, and trials that took too much."""

  kills: int
  exceeded: int


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
    examiner: tells the machine's faults from a trial's, and knows each trial's allowance.
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
    examiner: Examiner,
  ):
    self._trials = trials
    self._journal = journal
    self._executor = executor
    self._budget = budget
    self._campaign = campaign
    self._spec_of = spec_of
    self._base_file = base_file
    self._examiner = examiner
    self._jobs: dict[str, Handle] = {}
    # Trials that took more than their allowance, in order.
    self._exceeded: list[_Exceeded] = []
    self._began: dict[str, _Began] = {}

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
        the spec that it would be started with; that it lacked memory is no result, since nobody
        knows any more whose fault it was.
    """
    directory = self.directory(trial)
    if not (directory / RESULT).exists() or _lacked_memory(directory):
      return
    if TrialSpec.read(directory) == self._spec_of(trial):
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
    if trial.interruptions:
      key += f'-{trial.interruptions}'
    self._began[trial.trial] = _Began(self._examiner.kills(), len(self._exceeded))
    handle = self._executor.find(key)
    if handle is None:
      directory = self.directory(trial)
      self._write_input(directory, self._spec_of(trial))
      self._journal.append('trial_started', {'trial': trial.trial, 'attempt': attempt})
      job = Job(directory, self._budget.trial_deadline_s, self._examiner.allowance)
      handle = self._executor.submit(key, job)
    self._jobs[trial.trial] = handle

  def collect(self) -> list[TrialState]:
    """Concludes the attempts that have ended.

    Returns:
      Their trials: sealed, refused, failed, or assigned, which means that they are to be started
      again.

    Raises:
      MachineFaultError: one of them ended by a fault of the machine; no attempt is spent.
    """
    ended = {}
    for name, handle in self._jobs.items():
      status = self._executor.poll(handle)
      if isinstance(status, Ended | Lost):
        ended[name] = status
    if any(signs_of(status).disk for status in ended.values()):
      ended |= self._end_oversized(ended)
    concluded = []
    # Those first that took too much: others may have failed for it.
    for name in sorted(ended, key=lambda name: not _exceeded(ended[name])):
      trial = self._journal.state.trials[name]
      self._conclude(trial, ended[name])
      del self._jobs[name]
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

  def _end_oversized(self, ended: Container[str]) -> dict[str, Ended]:
    """Ends the attempts that hold more of the disk than they may, and says so of each."""
    oversized = {}
    for name, handle in self._jobs.items():
      allowed = self._examiner.allowance.disk
      if name not in ended and usage.disk_bytes(self._trials / name) > allowed:
        self._executor.cancel(handle)
        oversized[name] = Ended(-signal.SIGKILL, exceeded='disk')
    return oversized

  def _conclude(self, trial: TrialState, status: Ended | Lost) -> None:
    """Enters what an end means: sealed, refused, failed for good, or failed and tried again."""
    if isinstance(status, Lost):
      self._fail_attempt(trial, status, 'lost', status.reason)
    elif status.exceeded:
      self._fail_exceeded(trial, status.exceeded)
    elif status.timed_out:
      self._fail(trial, 'deadline', f'killed after {self._budget.trial_deadline_s:g} s', final=True)
    elif status.exit_status == 0 and (self.directory(trial) / RESULT).exists():
      try:
        self._conclude_claim(trial, status)
      except (UnsealableError, ManifestError, SafetensorError) as error:
        self._fail_attempt(trial, status, 'crash', str(error))
    else:
      cause = f'signal_{-status.exit_status}' if status.exit_status < 0 else 'crash'
      tail = _end_of_log(self.directory(trial))
      message = f'exit status {status.exit_status}; end of log: {tail}'
      self._fail_attempt(trial, status, cause, message)

  def _conclude_claim(self, trial: TrialState, status: Ended) -> None:
    directory = self.directory(trial)
    claim = read_claim(directory)
    if claim['status'] == 'refused':
      self._append('trial_refused', trial, cause=claim['message'])
    elif claim['status'] == 'failed':
      if claim['cause'] == OUT_OF_MEMORY and self._is_excused(trial, status, OUT_OF_MEMORY):
        return
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

  def _is_excused(self, trial: TrialState, status: Ended | Lost, claimed: str = '') -> bool:
    """Whether another trial took what this attempt lacked; then it is tried again for nothing.

    Raises:
      MachineFaultError: the machine lacked it.
    """
    signs = signs_of(status, claimed)
    began = self._began.get(trial.trial, _Began(self._examiner.kills(), len(self._exceeded)))
    peak = status.peak_memory if isinstance(status, Ended) else 0
    directory = self.directory(trial)
    for other in self._exceeded[began.exceeded :]:
      if (other.kind == 'disk' and signs.disk) or (other.kind == 'memory' and signs.killed):
        message = f'{other.trial} took more than its allowance of {other.kind}'
        self._append('trial_interrupted', trial, cause=f'{other.kind}_allowance', message=message)
        return True
    try:
      self._examiner.check(
        signs,
        disk_used=usage.disk_bytes(directory),
        memory_used=peak,
        kills_before=began.kills,
        interrupted_before=trial.interruptions > 0,
      )
    except MachineFaultError:
      (directory / RESULT).unlink(missing_ok=True)  # its word counts for nothing, as if unsaid
      raise
    return False

  def _fail_exceeded(self, trial: TrialState, kind: str) -> None:
    """Enters that a trial took more than its allowance, and gives its disk back."""
    self._exceeded.append(_Exceeded(trial.trial, kind))
    limit = getattr(self._examiner.allowance, kind)
    tail = _end_of_log(self.directory(trial))
    shutil.rmtree(self.directory(trial), ignore_errors=True)
    message = (
      f'took more than the {limit / 1e9:.3g} GB of {kind} that a trial may have '
      f'(campaign.trial_{kind}_gb); end of log: {tail}'
    )
    self._fail(trial, f'{kind}_allowance', message, final=True)

  def _fail_attempt(
    self, trial: TrialState, status: Ended | Lost, cause: str, message: str
  ) -> None:
    """Enters a failure that may be an accident, so it is tried again.

    Raises:
      MachineFaultError: see `_is_excused`.
    """
    if self._is_excused(trial, status):
      return
    # The result is judged; the next attempt must not take it for one that was not.
    (self.directory(trial) / RESULT).unlink(missing_ok=True)
    self._fail(trial, cause, message, final=trial.failures >= self._budget.retries)

  def _fail(self, trial: TrialState, cause: str, message: str, *, final: bool) -> None:
    self._append('trial_failed', trial, cause=cause, final=final, message=message)

  def _append(self, kind: str, trial: TrialState, **payload: Any) -> None:
    self._journal.append(kind, {'trial': trial.trial, **payload})


def _end_of_log(directory: pathlib.Path) -> str:
  log = directory / 'log.txt'
  if not log.is_file():
    return ''
  with log.open('rb') as file:  # which may be longer than the memory
    file.seek(max(0, log.stat().st_size - _LOG_CHARACTERS))
    return file.read(_LOG_CHARACTERS).decode(errors='replace')


def _lacked_memory(directory: pathlib.Path) -> bool:
  """Whether a worker says that it ended for want of memory."""
  try:
    claim = read_claim(directory)
  except UnsealableError:
    return False
  return claim['status'] == 'failed' and claim['cause'] == OUT_OF_MEMORY


def _exceeded(status: Ended | Lost) -> str:
  """Names what an attempt took too much of, '' if nothing."""
  return status.exceeded if isinstance(status, Ended) else ''
