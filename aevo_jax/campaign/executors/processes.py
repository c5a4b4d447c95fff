"""Child processes of the controller: workers that run once, the nursery that forks them, servers
that stay. All non-blocking; the controller has one thread.
"""

import collections
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

from aevo_jax.runtime import PARENT


class ServerError(RuntimeError):
  """A trusted server refused a request, or keeps dying."""


def _environment() -> dict[str, str]:
  # Nothing of the caller's secrets reaches a child: only what Python and XLA need to start.
  kept = (
    'PATH',
    'LANG',
    'LC_ALL',
    'LD_LIBRARY_PATH',
    'PYTHONPATH',
    'VIRTUAL_ENV',
    'TZ',
    'JAX_PLATFORMS',
    'CUDA_VISIBLE_DEVICES',
    'XLA_FLAGS',
  )
  return {name: os.environ[name] for name in kept if name in os.environ} | {
    'PYTHONUNBUFFERED': '1',
    'TF_CPP_MIN_LOG_LEVEL': '2',
    PARENT: str(os.getpid()),
  }


def start_child(module: list[str], log: pathlib.Path) -> subprocess.Popen:
  """Runs `python -m MODULE ARGUMENTS`, its output going to `log`."""
  with log.open('ab') as file:
    return subprocess.Popen(
      [sys.executable, '-m', *module],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      env=_environment() | {'HOME': os.environ.get('HOME', '/')},
      start_new_session=True,
    )


def _close_pipes(process: subprocess.Popen) -> None:
  with contextlib.suppress(BrokenPipeError):  # a request that it never read
    process.stdin.close()
  process.stdout.close()


class Nursery:
  """The process that forks workers (`campaign.nursery`); started by the first worker or `open`, and
  again if it dies.
  """

  def __init__(self, log: pathlib.Path):
    self._log = log
    self._pids: dict[str, int] = {}
    self._statuses: dict[str, int] = {}
    self._process: subprocess.Popen | None = None
    self._buffer = b''

  def open(self) -> None:
    """Starts the process ahead of the first worker: it takes seconds to import what they need."""
    if self._process is not None:
      return
    self._buffer = b''
    with self._log.open('ab') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'aevo_jax.campaign.executors.fork_server'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=_environment() | {'HOME': os.environ.get('HOME', '/')},
        cwd=self._log.parent,
        start_new_session=True,
      )

  def start(self, trial: str, directory: pathlib.Path, deadline_s: float) -> 'Worker':
    """A worker on the trial whose spec lies in `directory`; its output goes to log.txt there.

    Raises:
      ServerError: no process could be had.
    """
    name = str(directory.absolute())
    self._listen(0)
    self._pids.pop(name, None)
    self._statuses.pop(name, None)
    for _ in range(2):
      self.open()
      try:
        self._process.stdin.write(json.dumps({'directory': name}).encode() + b'\n')
        self._process.stdin.flush()
      except BrokenPipeError:
        pass  # it died; listening finds that out
      while self._process is not None and name not in self._pids:
        self._listen(1)
      if name in self._pids:
        return Worker(trial, directory, self._pids[name], deadline_s, self)
    raise ServerError(f'the process that starts workers ended twice; see {self._log}')

  def status(self, directory: pathlib.Path) -> int | None:
    """Exit status of the last worker started in `directory`, None while it runs."""
    self._listen(0)
    return self._statuses.get(str(directory.absolute()))

  def close(self) -> None:
    """Ends the nursery, and every worker of it."""
    if self._process is not None:
      self._process.kill()
      self._lost()

  def _listen(self, seconds: float) -> None:
    """Takes in what the nursery has said, waiting so long for a first word."""
    while self._process is not None and select.select([self._process.stdout], [], [], seconds)[0]:
      data = os.read(self._process.stdout.fileno(), 1 << 16)
      if not data:
        self._lost()
        return
      *lines, self._buffer = (self._buffer + data).split(b'\n')
      for message in map(json.loads, lines):
        if 'pid' in message:
          self._pids[message['directory']] = message['pid']
        else:
          self._statuses[message['directory']] = message['status']
      seconds = 0

  def _lost(self) -> None:
    # The kernel kills workers whose nursery ends.
    self._process.wait()
    _close_pipes(self._process)
    self._process = None
    self._statuses |= {name: -signal.SIGKILL for name in self._pids if name not in self._statuses}


class Worker:
  """One attempt at a trial in its directory. Made by `Nursery.start`."""

  def __init__(
    self, trial: str, directory: pathlib.Path, pid: int, deadline_s: float, nursery: Nursery
  ):
    self.trial, self.directory, self.pid = trial, directory, pid
    self._nursery = nursery
    self._deadline = time.monotonic() + deadline_s
    self.timed_out = False

  def poll(self) -> int | None:
    """Exit status once the process has ended; kills it past its deadline."""
    status = self._nursery.status(self.directory)
    if status is None and time.monotonic() > self._deadline and not self.timed_out:
      self.timed_out = True
      self._signal()
    return status

  def kill(self) -> None:
    """Ends the process now."""
    if self._nursery.status(self.directory) is None:
      self._signal()
      while self._nursery.status(self.directory) is None:
        time.sleep(0.005)

  def _signal(self) -> None:
    with contextlib.suppress(
      ProcessLookupError
    ):  # it ended by itself, and the nursery is about to say so
      os.kill(self.pid, signal.SIGKILL)


class Server:
  """A warm server process with a queue of requests; restarted, and the request repeated, if it
  dies.
  """

  RESTARTS = 3

  def __init__(self, command: list[str], log: pathlib.Path):
    self._command, self._log, self._deaths = command, log, 0
    self._queue: collections.deque[tuple[object, dict]] = collections.deque()
    self._buffer = b''
    self._process: subprocess.Popen | None = None
    self.busy = False

  def submit(self, tag: object, request: dict) -> None:
    """Queues a request; its reply comes from `poll` with this tag."""
    self._queue.append((tag, request))

  @property
  def waiting(self) -> bool:
    """A request could be sent now."""
    return bool(self._queue) and not self.busy

  def send_next(self) -> None:
    """Sends the oldest request."""
    if self._process is None:
      with self._log.open('ab') as log:
        self._process = subprocess.Popen(
          self._command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=log,
          env=_environment() | {'HOME': os.environ.get('HOME', '/')},
          start_new_session=True,
        )
      os.set_blocking(self._process.stdout.fileno(), False)
      self._buffer = b''
    self.busy = True
    try:
      self._process.stdin.write(json.dumps(self._queue[0][1]).encode() + b'\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # it died; poll sees that and repeats the request

  def poll(self) -> tuple[object, dict] | None:
    """(tag, reply) if one came; a reply {"unavailable": message} says that something below the
    server failed.

    Raises:
      ServerError: the server answered with an error, or died too often.
    """
    if not self.busy:
      return None
    self._buffer += self._process.stdout.read() or b''
    if b'\n' in self._buffer:
      line, self._buffer = self._buffer.split(b'\n', 1)
      tag, request = self._queue.popleft()
      self.busy = False
      reply = json.loads(line)
      if 'error' in reply:
        raise ServerError(f'{request["op"]}: {reply["error"]}')
      return tag, reply
    if self._process.poll() is not None:
      self._deaths += 1
      status, self.busy = self._process.returncode, False
      _close_pipes(self._process)
      self._process = None
      if self._deaths > self.RESTARTS:
        raise ServerError(
          f'{self._command[2]} ended {self._deaths} times, last with status {status}; see '
          f'{self._log}'
        )
    return None

  def call(self, request: dict) -> dict:
    """Sends a request and waits for its reply, nothing else being queued."""
    self.submit(None, request)
    while True:
      if self.waiting:
        self.send_next()
      answer = self.poll()
      if answer is not None:
        if 'unavailable' in answer[1]:
          raise ServerError(f'{request["op"]}: {answer[1]["unavailable"]}')
        return answer[1]
      time.sleep(0.005)

  def close(self) -> None:
    """Ends the server."""
    if self._process is not None and self._process.poll() is None:
      self._process.stdin.close()
      try:
        self._process.wait(timeout=15)  # an inference server of its own takes up to ten to end
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
    if self._process is not None:
      _close_pipes(self._process)
      self._process = None
