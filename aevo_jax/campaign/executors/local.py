"""The local executor: jobs are workers that the fork server forks on this machine."""

import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable

from aevo_jax.campaign.executors import usage
from aevo_jax.campaign.executors.forked_workers import ForkedWorker, ForkServer
from aevo_jax.campaign.executors.protocol import (
  Ended,
  Handle,
  Job,
  Lost,
  Queued,
  Running,
  Status,
)

_WAIT_SECONDS = 0.005
_MEASURE_SECONDS = 0.25


@dataclasses.dataclass
class _Entry:
  """A job so far; `status` as it was read last."""

  job: Job
  status: Status = dataclasses.field(default_factory=Queued)
  worker: ForkedWorker | None = None
  timed_out: bool = False
  exceeded: str = ''
  measured: float = 0.0


class LocalExecutor:
  """Runs jobs as forked workers. Its jobs end with it, so a later controller finds none.

  Args:
    slots: jobs that run at a time.
    log: file that takes what the fork server prints.
    clock: seconds, from any origin; deadlines are measured with it.
    fork_server: what starts the workers.
  """

  shares_machine = True

  def __init__(
    self,
    slots: int,
    log: pathlib.Path,
    clock: Callable[[], float] = time.monotonic,
    fork_server: ForkServer | None = None,
  ):
    self.slots = slots
    self._clock = clock
    self._fork_server = fork_server or ForkServer(log)
    self._entries: dict[str, _Entry] = {}

  def prepare(self) -> None:
    """Starts the fork server."""
    self._fork_server.open()

  def submit(self, key: str, job: Job) -> Handle:
    """Starts the job, or queues it while all slots are taken. See `Executor.submit`."""
    if key not in self._entries:
      self._entries[key] = _Entry(job)
      self._refresh()
    return key

  def find(self, key: str) -> Handle | None:
    """Finds a job of this executor by its key. See `Executor.find`."""
    return key if key in self._entries else None

  def poll(self, handle: Handle) -> Status:
    """Reads the job's state; kills its group past the deadline. See `Executor.poll`."""
    if handle not in self._entries:
      return Lost(f'the executor of this controller has no job {handle}')
    self._refresh()
    return self._entries[handle].status

  def cancel(self, handle: Handle) -> None:
    """Ends the job's process group and waits until it is gone. See `Executor.cancel`."""
    entry = self._entries.get(handle)
    if entry is None:
      return
    if isinstance(entry.status, Queued):
      entry.status = Ended(-signal.SIGKILL)
    self._read(entry)
    if isinstance(entry.status, Running):
      entry.worker.signal()
      while isinstance(entry.status, Running):
        time.sleep(_WAIT_SECONDS)
        self._read(entry)

  def close(self) -> None:
    """Ends the fork server and with it every job."""
    self._fork_server.close()

  def _refresh(self) -> None:
    """Reads the running jobs, then starts queued ones while slots are free."""
    running = 0
    for entry in self._entries.values():
      self._read(entry)
      running += isinstance(entry.status, Running)
    for entry in self._entries.values():
      if running == self.slots:
        break
      if isinstance(entry.status, Queued):
        file_size = entry.job.allowance.disk
        entry.worker = self._fork_server.start(entry.job.directory, file_size)
        entry.status = Running(self._clock())
        running += 1

  def _read(self, entry: _Entry) -> None:
    """Reads one running job's state and applies its deadline and its allowance."""
    if not isinstance(entry.status, Running):
      return
    exit_status = entry.worker.status()
    if exit_status is not None:
      peak = entry.worker.peak_memory()
      exceeded = entry.exceeded or _exceeded(entry.job, peak)
      entry.status = Ended(exit_status, entry.timed_out, exceeded, peak)
    elif self._clock() - entry.status.since > entry.job.deadline_s and not entry.timed_out:
      entry.timed_out = True
      entry.worker.signal()
    elif not entry.exceeded and self._clock() - entry.measured >= _MEASURE_SECONDS:
      entry.measured = self._clock()
      entry.exceeded = _exceeded(entry.job, usage.memory_bytes(entry.worker.pid))
      if entry.exceeded:
        entry.worker.signal()


def _exceeded(job: Job, memory: int) -> str:
  """Names what a job took too much of, '' if nothing.

  Args:
    job: its directory is measured.
    memory: that it has or had, in bytes.
  """
  allowance = job.allowance
  if allowance.memory and memory > allowance.memory:
    return 'memory'
  if allowance.disk and usage.disk_bytes(job.directory) > allowance.disk:
    return 'disk'
  return ''
