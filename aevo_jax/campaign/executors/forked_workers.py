"""The controller's side of the fork server: workers as processes that it forked."""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

from aevo_jax.campaign.executors.protocol import ExecutorError
from aevo_jax.runtime import child_environment, close_pipes

PROGRAM = 'aevo_jax.campaign.executors.fork_server'


class ForkServer:
  """The process that forks workers; the first worker or `open` starts it, again if it dies.

  Args:
    log: file that takes what the process prints; it runs in the file's directory.
    python: the interpreter.
  """

  def __init__(self, log: pathlib.Path, python: str = sys.executable):
    self._log = log
    self._python = python
    self._pids: dict[str, int] = {}
    self._statuses: dict[str, int] = {}
    self._peaks: dict[str, int] = {}
    self._process: subprocess.Popen | None = None
    self._buffer = b''

  @property
  def pid(self) -> int | None:
    """The process, None if it does not run."""
    return None if self._process is None else self._process.pid

  def open(self) -> None:
    """Starts the process ahead of the first worker: it imports what they need for seconds."""
    if self._process is not None:
      return
    self._buffer = b''
    with self._log.open('ab') as log:
      self._process = subprocess.Popen(
        [self._python, '-m', PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=child_environment(),
        cwd=self._log.parent,
        start_new_session=True,
      )

  def start(self, directory: pathlib.Path, file_size: int = 0) -> 'ForkedWorker':
    """Starts a worker on the spec in `directory`.

    Args:
      directory: its log.txt takes what the worker prints. An earlier worker there has ended.
      file_size: bytes that a file of the worker may have; 0 for any number.

    Raises:
      ExecutorError: the process that forks ended twice.
    """
    name = str(directory.absolute())
    self._listen(0)
    self._pids.pop(name, None)
    self._statuses.pop(name, None)
    self._peaks.pop(name, None)
    for _ in range(2):
      self.open()
      # A broken pipe means that it died, which listening finds out.
      with contextlib.suppress(BrokenPipeError):
        request = {'directory': name, 'file_size': file_size}
        self._process.stdin.write(json.dumps(request).encode() + b'\n')
        self._process.stdin.flush()
      while self._process is not None and name not in self._pids:
        self._listen(1)
      if name in self._pids:
        return ForkedWorker(directory, self._pids[name], self)
    raise ExecutorError(f'the process that starts workers ended twice; see {self._log}')

  def status(self, directory: pathlib.Path) -> int | None:
    """Reads the exit status of the last worker in `directory`.

    Returns:
      The status, -N for signal N; None while the worker runs.
    """
    self._listen(0)
    return self._statuses.get(str(directory.absolute()))

  def peak_memory(self, directory: pathlib.Path) -> int:
    """Returns the highest resident memory of the last worker in `directory`; 0 if not known."""
    return self._peaks.get(str(directory.absolute()), 0)

  def close(self) -> None:
    """Ends the process and with it every worker."""
    if self._process is not None:
      self._process.kill()
      self._lost()

  def _listen(self, seconds: float) -> None:
    """Reads the process' messages and waits up to `seconds` for the first one."""
    while self._process is not None and select.select([self._process.stdout], [], [], seconds)[0]:
      data = os.read(self._process.stdout.fileno(), 1 << 16)
      if not data:
        self._lost()
        return
      *lines, self._buffer = (self._buffer + data).split(b'\n')
      for line in lines:
        self._take(json.loads(line))
      seconds = 0

  def _take(self, message: dict) -> None:
    if 'pid' in message:
      self._pids[message['directory']] = message['pid']
    else:
      self._statuses[message['directory']] = message['status']
      self._peaks[message['directory']] = message['peak_memory']

  def _lost(self) -> None:
    # The kernel kills workers whose fork server ends.
    self._process.wait()
    close_pipes(self._process)
    self._process = None
    for name in self._pids:
      self._statuses.setdefault(name, -signal.SIGKILL)


class ForkedWorker:
  """One worker process. Made by `ForkServer.start`.

  Attributes:
    directory: where it runs.
    pid: its process, which leads a process group.
  """

  def __init__(self, directory: pathlib.Path, pid: int, server: ForkServer):
    self.directory = directory
    self.pid = pid
    self._server = server

  def status(self) -> int | None:
    """Reads the exit status; None while the worker runs."""
    return self._server.status(self.directory)

  def peak_memory(self) -> int:
    """Returns the highest resident memory in bytes, once it has ended; 0 if nobody knows."""
    return self._server.peak_memory(self.directory)

  def signal(self) -> None:
    """Kills the worker and every process of its group, without waiting for their end."""
    try:
      os.killpg(self.pid, signal.SIGKILL)
    except ProcessLookupError:
      # A worker that has just been forked does not lead a group yet. One that has ended by itself
      # is about to be reported by the fork server.
      with contextlib.suppress(ProcessLookupError):
        os.kill(self.pid, signal.SIGKILL)
