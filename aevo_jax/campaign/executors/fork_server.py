"""The fork server: forks a worker for each trial from a process that has imported their libraries.

  python -m aevo_jax.campaign.executors.fork_server

That saves each of them two to three seconds. It runs nothing of a trial itself, has one thread and
never touches a device; so what it forks is what a fresh process would be: nothing computed, nothing
open, free to confine itself. All trials start from the same image and none can change it.

Requests come a line each on standard input, {"directory", "file_size"}: bytes that a file of the
worker may have, 0 for any. On standard output {"directory", "pid"} says that the worker was started
there, {"directory", "status", "peak_memory"} that it ended. When the fork server ends, so do its
workers. `forked_workers.py` is the controller's side.
"""

import contextlib
import json
import os
import pathlib
import resource
import selectors
import sys
import traceback
from typing import NamedTuple, NoReturn

from aevo_jax.campaign.trial import worker
from aevo_jax.runtime import PARENT, die_with_parent, single_threaded_blas, tune_for_cpu

_REQUESTS = 0


class _Child(NamedTuple):
  """A forked worker."""

  directory: str
  pid: int


def _become_worker(directory: str, file_size: int) -> NoReturn:
  """Turns the forked process into a worker: keeps no file of the fork server, runs, ends."""
  status = 1
  try:
    os.setsid()
    _limit(file_size)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(os.path.join(directory, 'log.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    status = worker.main(directory)
  except BaseException as error:  # also SystemExit: the loop must never run in a worker
    status = worker.exit_status(error)
    traceback.print_exc()
  finally:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError):  # a full disk takes no last words
        stream.flush()
    os._exit(status)


def _limit(file_size: int) -> None:
  """Bounds the worker's files, and makes it the first that the kernel kills for want of memory."""
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  if file_size and (hard == resource.RLIM_INFINITY or file_size < hard):
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
  with contextlib.suppress(OSError):  # some containers forbid it
    pathlib.Path('/proc/self/oom_score_adj').write_text('1000')


class _Loop:
  """Reads requests and ends of workers, and forks; `replies` is a file descriptor."""

  def __init__(self, replies: int):
    self._replies = replies
    self._buffer = b''
    self._children: dict[int, _Child] = {}  # by file descriptor of the process
    self._selector = selectors.DefaultSelector()
    self._selector.register(_REQUESTS, selectors.EVENT_READ)

  def run(self) -> None:
    """Serves until the requests end."""
    while True:
      for key, _ in self._selector.select():
        if key.fd != _REQUESTS:
          self._report_end(key.fd)
        elif not self._read_requests():
          return

  def _read_requests(self) -> bool:
    data = os.read(_REQUESTS, 1 << 16)
    *lines, self._buffer = (self._buffer + data).split(b'\n')
    for line in lines:
      request = json.loads(line)
      self._fork(request['directory'], request['file_size'])
    return bool(data)

  def _fork(self, directory: str, file_size: int) -> None:
    pid = os.fork()
    if pid == 0:
      _become_worker(directory, file_size)
    descriptor = os.pidfd_open(pid)
    self._children[descriptor] = _Child(directory, pid)
    self._selector.register(descriptor, selectors.EVENT_READ)
    self._reply({'directory': directory, 'pid': pid})

  def _report_end(self, descriptor: int) -> None:
    child = self._children.pop(descriptor)
    self._selector.unregister(descriptor)
    os.close(descriptor)
    _, wait_status, usage = os.wait4(child.pid, 0)
    self._reply(
      {
        'directory': child.directory,
        'status': os.waitstatus_to_exitcode(wait_status),
        'peak_memory': usage.ru_maxrss * 1024,
      }
    )

  def _reply(self, message: dict) -> None:
    os.write(self._replies, json.dumps(message).encode() + b'\n')


def main() -> int:
  """Imports the libraries and serves; the exit status."""
  die_with_parent()
  os.environ[PARENT] = str(os.getpid())
  single_threaded_blas()
  tune_for_cpu()
  # What a worker imports. None of it may start a thread.
  from aevo_jax.campaign.trial import execution  # noqa: F401, PLC0415  threads are set first

  threads = len(os.listdir('/proc/self/task'))
  if threads != 1:
    sys.exit(
      f'importing the libraries started {threads - 1} threads; a worker forked from here '
      'could not confine itself'
    )
  replies = os.dup(1)
  os.dup2(2, 1)  # a stray print must not break the protocol
  _Loop(replies).run()
  return 0


if __name__ == '__main__':
  sys.exit(main())
