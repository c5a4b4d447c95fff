"""The examiner: whether an attempt ended by a fault of the machine, from what the controller sees.

A worker that says that the disk or the memory gave out may lie, to be tried again for nothing. So
its word counts only where a probe finds that the machine cannot give a trial its allowance.
"""

import errno
import functools
import pathlib
import signal
from collections.abc import Callable
from typing import NamedTuple

from aevo_jax import faults
from aevo_jax.campaign.executors.protocol import Allowance, Ended, Lost
from aevo_jax.campaign.machine.fault import MachineFaultError, resume_command
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.trial.worker import DISK_STATUS

# A mapped file on a full disk ends its reader by SIGBUS.
_DISK_SIGNS = (DISK_STATUS, -signal.SIGBUS)
# A failed allocation outside of Python ends in abort().
_MEMORY_SIGNS = (-signal.SIGABRT,)
OUT_OF_MEMORY = 'out_of_memory'
_PROBE_BYTES = 2**16


class Signs(NamedTuple):
  """What points at the machine in the end of an attempt; none of it is proof.

  Attributes:
    disk: the worker met an error of the disk, or says so.
    memory: likewise of memory.
    killed: nobody of ours sent the signal that ended it.
  """

  disk: bool
  memory: bool
  killed: bool


def signs_of(status: Ended | Lost, claimed: str = '') -> Signs:
  """Reads the signs in the end of an attempt.

  Args:
    status: how it ended.
    claimed: the cause in the worker's own words, where it left some.
  """
  if isinstance(status, Lost):
    return Signs(disk=False, memory=False, killed=True)
  return Signs(
    disk=status.exit_status in _DISK_SIGNS,
    memory=status.exit_status in _MEMORY_SIGNS or claimed == OUT_OF_MEMORY,
    killed=status.exit_status == -signal.SIGKILL,
  )


class Examiner:
  """Examines ends of attempts.

  Args:
    machine: the controller's probes.
    run: the run directory.
    allowance: gives that of each trial; called once, before the first one starts.
  """

  def __init__(self, machine: Machine, run: pathlib.Path, allowance: Callable[[], Allowance]):
    self._allowance = allowance
    self._machine = machine
    self._run = run
    self._accelerators = machine.accelerators()

  @functools.cached_property
  def allowance(self) -> Allowance:
    """What each trial may take."""
    return self._allowance()

  def kills(self) -> int:
    """Counts the kernel's kills so far; `check` wants the number at the attempt's start."""
    return self._machine.oom_kills()

  def check(
    self,
    signs: Signs,
    *,
    disk_used: int,
    memory_used: int,
    kills_before: int,
    interrupted_before: bool = False,
  ) -> None:
    """Raises the machine's fault, where there is one.

    Args:
      signs: of the attempt, which took no more than its allowance.
      disk_used: bytes of its directory.
      memory_used: its highest resident memory; 0 where nobody knows.
      kills_before: `kills` when it began.
      interrupted_before: an earlier attempt of the trial was not counted. Then that little memory
        is free is no excuse: a trial that always asks for too much would pause for ever.

    Raises:
      MachineFaultError: the machine could not give it its allowance.
    """
    self._check_disk(signs.disk, disk_used)
    if signs.killed and self._machine.oom_kills() > kills_before:
      raise self._fault(OUT_OF_MEMORY, 'the machine ran out of memory; free some')
    if signs.memory:
      self._check_memory(memory_used, interrupted_before)
    if self._accelerators:
      self._check_devices()

  def _check_disk(self, claimed: bool, used: int) -> None:
    needed = _PROBE_BYTES
    if claimed:
      needed = max(needed, self.allowance.disk - used)
    error = self._machine.disk_error(self._run, needed)
    if error is None or error.errno not in faults.MACHINE:
      return
    message = faults.explain(error, resume_command(self._run))
    if error.errno == errno.ENOSPC and needed > _PROBE_BYTES:
      free = self._machine.disk_free(self._run)
      message = faults.explain(OSError(error.errno, ''), resume_command(self._run))
      message = (
        f'{self._run} has {free / 1e6:,.0f} MB free, and a trial may take '
        f'{self.allowance.disk / 1e6:,.0f} MB: {message}'
      )
    raise MachineFaultError(faults.MACHINE[error.errno], message)

  def _check_memory(self, used: int, interrupted_before: bool) -> None:
    limit = self._machine.memory_limit()
    if limit is not None and limit < self.allowance.memory:
      raise self._fault(
        'memory_limit', f'memory is limited to {limit / 1e9:.1f} GB (ulimit -v, -d); raise that'
      )
    short = self._machine.memory_free() < self.allowance.memory - used
    if short and not interrupted_before:
      raise self._fault(OUT_OF_MEMORY, 'the machine has too little memory; free some')

  def _check_devices(self) -> None:
    lost = sorted(set(self._accelerators) - set(self._machine.accelerators()))
    if lost:
      raise self._fault('device_lost', f'{lost[0]} is gone; bring it back')
    error = self._machine.device_error()
    if error is not None:
      raise self._fault('device_lost', f'the accelerator does not compute ({error}); mend it')

  def _fault(self, cause: str, what: str) -> MachineFaultError:
    return MachineFaultError(cause, f'{what}, then {resume_command(self._run)}')
