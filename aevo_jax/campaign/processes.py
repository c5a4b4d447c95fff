"""Child processes of the controller: workers that run once, servers that stay. All non-blocking; the controller has one thread."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import time

from aevo_jax.runtime import PARENT


class ServerError(RuntimeError):
  """A trusted server refused a request, or keeps dying."""


def _environment() -> dict[str, str]:
  # Nothing of the caller's secrets reaches a child: only what Python and XLA need to start.
  kept = ('PATH', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'PYTHONPATH', 'VIRTUAL_ENV', 'TZ', 'JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES', 'XLA_FLAGS')
  return {name: os.environ[name] for name in kept if name in os.environ} | {
      'PYTHONUNBUFFERED': '1', 'TF_CPP_MIN_LOG_LEVEL': '2', PARENT: str(os.getpid())}


def start_child(module: list[str], log: pathlib.Path) -> subprocess.Popen:
  """Runs `python -m MODULE ARGUMENTS`, its output going to `log`."""
  with log.open('ab') as file:
    return subprocess.Popen([sys.executable, '-m', *module], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                            env=_environment() | {'HOME': os.environ.get('HOME', '/')}, start_new_session=True)


class Worker:
  """One attempt at a trial in its directory; output goes to log.txt."""

  def __init__(self, trial: str, directory: pathlib.Path, deadline_s: float):
    self.trial, self.directory = trial, directory
    with (directory / 'log.txt').open('ab') as log:
      self._process = subprocess.Popen([sys.executable, '-m', 'aevo_jax.campaign.worker', str(directory)], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT, env=_environment() | {'HOME': str(directory)}, cwd=directory, start_new_session=True)
    self._deadline = time.monotonic() + deadline_s
    self.timed_out = False

  @property
  def pid(self) -> int:
    return self._process.pid

  def poll(self) -> int | None:
    """Exit status once the process has ended; kills it past its deadline."""
    status = self._process.poll()
    if status is None and time.monotonic() > self._deadline and not self.timed_out:
      self.timed_out = True
      self._process.kill()
    return status

  def kill(self) -> None:
    """Ends the process now."""
    if self._process.poll() is None:
      self._process.kill()
      self._process.wait()


class Server:
  """A warm server process with a queue of requests; restarted, and the request repeated, if it dies."""

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
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                         env=_environment() | {'HOME': os.environ.get('HOME', '/')}, start_new_session=True)
      os.set_blocking(self._process.stdout.fileno(), False)
      self._buffer = b''
    self.busy = True
    try:
      self._process.stdin.write(json.dumps(self._queue[0][1]).encode() + b'\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # it died; poll sees that and repeats the request

  def poll(self) -> tuple[object, dict] | None:
    """(tag, reply) if one came.

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
      self._forget()
      if self._deaths > self.RESTARTS:
        raise ServerError(f'{self._command[2]} ended {self._deaths} times, last with status {status}; see {self._log}')
    return None

  def call(self, request: dict) -> dict:
    """Sends a request and waits for its reply, nothing else being queued."""
    self.submit(None, request)
    while True:
      if self.waiting:
        self.send_next()
      answer = self.poll()
      if answer is not None:
        return answer[1]
      time.sleep(0.005)

  def close(self) -> None:
    """Ends the server."""
    if self._process is not None and self._process.poll() is None:
      self._process.stdin.close()
      try:
        self._process.wait(timeout=5)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
    if self._process is not None:
      self._forget()

  def _forget(self) -> None:
    """Closes the pipes of a process that has ended."""
    try:
      self._process.stdin.close()
    except BrokenPipeError:
      pass  # a request that it never read
    self._process.stdout.close()
    self._process = None
