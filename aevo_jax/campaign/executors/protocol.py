"""The Executor protocol: what runs the attempts at trials, and the states of a job.

An executor gets a directory that holds the whole input of an attempt (`spec.json`) and sees to it
that a worker runs there, for example by `python -m aevo_jax.campaign.trial.worker DIRECTORY`. The
result lies in the directory; an executor reports only whether the worker runs, and how it ended.
The controller knows this protocol and no executor, so another one is a file beside `local.py` and
a row in tests/campaign/test_executors.py.
"""

import dataclasses
import pathlib
from typing import Protocol

# An executor's name for a job: a text that the ledger can hold and a later controller can use.
Handle = str


class ExecutorError(RuntimeError):
  """The executor cannot run jobs at all; the message says where to look."""


@dataclasses.dataclass(frozen=True)
class Allowance:
  """What one attempt may take of its machine, in bytes; 0 is as much as there is.

  Attributes:
    disk: of its directory, and so of each of its files.
    memory: resident, of all its processes together.
  """

  disk: int = 0
  memory: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
  """One attempt at a trial.

  Attributes:
    directory: absolute, with the attempt's input; the worker writes its output and `log.txt` there.
    deadline_s: seconds that it may run, from its start and not from its submission.
    allowance: the executor ends a job that takes more.
  """

  directory: pathlib.Path
  deadline_s: float
  allowance: Allowance = Allowance()


@dataclasses.dataclass(frozen=True)
class Queued:
  """The job waits for a slot."""


@dataclasses.dataclass(frozen=True)
class Running:
  """The job runs since this time of the executor's clock, in seconds."""

  since: float


@dataclasses.dataclass(frozen=True)
class Ended:
  """The job has ended.

  Attributes:
    exit_status: of the worker; -N where signal N ended it.
    timed_out: the executor ended it at its deadline.
    exceeded: 'disk' or 'memory' where it took more than its allowance, else ''.
    peak_memory: the worker's highest resident memory in bytes; 0 where nobody knows.
  """

  exit_status: int
  timed_out: bool = False
  exceeded: str = ''
  peak_memory: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True)
class Lost:
  """Nobody knows how the job ended or whether it ran; the reason is a sentence."""

  reason: str


Status = Queued | Running | Ended | Lost


class Executor(Protocol):
  """Runs jobs, at most `slots` at a time; none of its methods waits for a job to end.

  Attributes:
    slots: how many jobs run at a time. Further ones are queued.
    shares_machine: whether jobs run on the controller's machine, so that the servers and the
      precompiler take slots from them.
  """

  slots: int
  shares_machine: bool

  def prepare(self) -> None:
    """Starts what the first job would wait for; jobs may be submitted without it."""

  def submit(self, key: str, job: Job) -> Handle:
    """Submits a job; the same key twice is the same job.

    Args:
      key: a name that no other attempt of any campaign has.
      job: what to run.

    Raises:
      ExecutorError: no job can be run.
    """

  def find(self, key: str) -> Handle | None:
    """Finds a job by its key.

    Args:
      key: as given to `submit`, by this controller or by an earlier one.

    Returns:
      The job's handle, or None if there is no such job.
    """

  def poll(self, handle: Handle) -> Status:
    """Reads a job's state; ends one that is past its deadline or takes more than its allowance."""

  def cancel(self, handle: Handle) -> None:
    """Ends a job with all the processes of its group; one that has ended is left alone."""

  def close(self) -> None:
    """Releases what the executor holds on this machine; closing twice is fine."""
