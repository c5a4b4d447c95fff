"""The client half of the servers' protocol: a server process with a queue of requests."""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

from aevo_jax import faults
from aevo_jax.runtime import child_environment, close_pipes

EVALUATOR = 'aevo_jax.evaluation.servers.evaluator'
ARBITER = 'aevo_jax.evaluation.servers.arbiter'

_WAIT_SECONDS = 0.005
# An inference server below takes up to ten seconds to end.
_CLOSE_SECONDS = 15


class ServerError(RuntimeError):
  """A trusted server refused a request, or keeps dying."""


class ServerDiedError(ServerError):
  """A server keeps dying, whatever it is asked."""


class Answer(NamedTuple):
  """A reply with the tag that its request was submitted with.

  `reply` is {"unavailable": message} where something below the server failed.
  """

  tag: object
  reply: dict


@dataclasses.dataclass(frozen=True)
class ServerArguments:
  """Command-line arguments that evaluator and arbiter share.

  Attributes:
    base: directory of the base checkpoint.
    constitution: the run's constitution.gin.
    cache: compilation cache, '' for none.
    threads: of the server's process.
  """

  base: pathlib.Path
  constitution: pathlib.Path
  cache: str
  threads: int = 1

  def command(self, module: str, **options: str) -> list[str]:
    """Builds the command of a server.

    Args:
      module: `EVALUATOR` or `ARBITER`.
      **options: the further ones of this server.
    """
    values = {
      'base': str(self.base),
      'constitution': str(self.constitution),
      'threads': str(self.threads),
      'cache': self.cache,
    } | options
    command = [sys.executable, '-m', module]
    for name, value in values.items():
      command += [f'--{name}', value]
    return command


class Server:
  """A server process with a queue of requests, restarted if it dies, and the request repeated.

  No method but `call` waits. The process starts with the first request.

  Args:
    command: the program and its arguments.
    log: file that takes what the process prints to standard error.
  """

  RESTARTS = 3

  def __init__(self, command: list[str], log: pathlib.Path):
    self._command = command
    self._log = log
    self._deaths = 0
    self._queue: collections.deque[tuple[object, dict]] = collections.deque()
    self._buffer = b''
    self._process: subprocess.Popen | None = None
    self.busy = False

  @property
  def pid(self) -> int | None:
    """The process, None if it does not run."""
    return None if self._process is None else self._process.pid

  def submit(self, tag: object, request: dict, *, first: bool = False) -> None:
    """Queues a request.

    Args:
      tag: comes back with the reply.
      request: JSON with its operation as "op".
      first: before all others that wait.
    """
    place = len(self._queue)
    if first:
      place = int(self.busy)  # the request in flight stays in front
    self._queue.insert(place, (tag, request))

  @property
  def waiting(self) -> bool:
    """Whether a request could be sent now."""
    return bool(self._queue) and not self.busy

  def send_next(self) -> None:
    """Sends the oldest request."""
    if self._process is None:
      self._start()
    self.busy = True
    try:
      _, request = self._queue[0]
      self._process.stdin.write(json.dumps(request).encode() + b'\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # it died; poll sees that and repeats the request

  def poll(self) -> Answer | None:
    """Reads a reply.

    Returns:
      The reply to the request that was sent, None while there is none.

    Raises:
      ServerError: the server answered with an error, or died too often (`ServerDiedError`).
      OSError: the machine refused the server something, such as room on the disk.
    """
    if not self.busy:
      return None
    self._buffer += self._process.stdout.read() or b''
    if b'\n' in self._buffer:
      line, self._buffer = self._buffer.split(b'\n', 1)
      tag, request = self._queue.popleft()
      self.busy = False
      reply = json.loads(line)
      if reply.get('errno') in faults.MACHINE:
        raise OSError(reply['errno'], os.strerror(reply['errno']), reply['path'])
      if 'error' in reply:
        raise ServerError(f'{request["op"]}: {reply["error"]}')
      return Answer(tag, reply)
    if self._process.poll() is not None:
      self._died()
    return None

  def call(self, request: dict) -> dict:
    """Sends a request and waits for its reply; nothing else may be queued.

    Args:
      request: JSON with its operation as "op".

    Raises:
      ServerError: as `poll`, and where something below the server failed.
    """
    self.submit(None, request)
    while True:
      if self.waiting:
        self.send_next()
      answer = self.poll()
      if answer is not None:
        if 'unavailable' in answer.reply:
          raise ServerError(f'{request["op"]}: {answer.reply["unavailable"]}')
        return answer.reply
      time.sleep(_WAIT_SECONDS)

  def close(self) -> None:
    """Ends the server; closing twice is fine."""
    if self._process is None:
      return
    if self._process.poll() is None:
      self._process.stdin.close()
      try:
        self._process.wait(timeout=_CLOSE_SECONDS)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
    close_pipes(self._process)
    self._process = None

  def _start(self) -> None:
    with self._log.open('ab') as log:
      self._process = subprocess.Popen(
        self._command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=child_environment(),
        start_new_session=True,
      )
    os.set_blocking(self._process.stdout.fileno(), False)
    self._buffer = b''

  def _died(self) -> None:
    self._deaths += 1
    status = self._process.returncode
    self.busy = False
    close_pipes(self._process)
    self._process = None
    if self._deaths > self.RESTARTS:
      raise ServerDiedError(
        f'{self._command[2]} ended {self._deaths} times, last with status {status}; see {self._log}'
      )
