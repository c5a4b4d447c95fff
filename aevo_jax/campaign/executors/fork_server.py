"""Forks a worker for each trial from a process that has imported what workers need, and so saves
each of them two to three seconds.

  python -m aevo_jax.campaign.executors.fork_server

It runs nothing of a trial itself, has one thread and never touches a device; so what it forks is
what a fresh process would be: nothing computed, nothing open, free to confine itself. All trials
start from the same image and none can change it.

Requests come a line each on standard input, {"directory": ...}; on standard output {"directory",
"pid"} says that the worker was started there, {"directory", "status"} that it ended. When the
fork server ends, so do its workers.
"""

import json
import os
import selectors
import sys
import traceback
from typing import NoReturn

from aevo_jax.campaign.trial import worker
from aevo_jax.runtime import PARENT, die_with_parent, single_threaded_blas, tune_for_cpu


def _import_libraries() -> None:
  # What a worker imports. None of it may start a thread.
  from aevo_jax.campaign.trial import execution  # noqa: F401, PLC0415 threads are set first


def _become_worker(directory: str) -> NoReturn:
  """The forked process: keeps no file of the fork server's, runs the trial, ends."""
  status = 1
  try:
    os.setsid()
    log = os.open(os.path.join(directory, 'log.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
      os.dup2(source, target)
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    status = worker.main(directory)
  except BaseException:  # also SystemExit: the fork server's loop must never run in a worker
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> int:
  die_with_parent()
  os.environ[PARENT] = str(os.getpid())
  single_threaded_blas()
  tune_for_cpu()
  _import_libraries()
  if (threads := len(os.listdir('/proc/self/task'))) != 1:
    sys.exit(
      f'importing the libraries started {threads - 1} threads; a worker forked from here '
      'could not confine itself'
    )

  replies, buffer = os.dup(1), b''
  os.dup2(2, 1)  # a stray print must not break the protocol
  workers: dict[int, tuple[str, int]] = {}  # by file descriptor of the process
  selector = selectors.DefaultSelector()
  selector.register(0, selectors.EVENT_READ)
  say = lambda message: os.write(replies, json.dumps(message).encode() + b'\n')
  while True:
    for key, _ in selector.select():
      if key.fd != 0:
        directory, pid = workers.pop(key.fd)
        selector.unregister(key.fd)
        os.close(key.fd)
        say({'directory': directory, 'status': os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
        continue
      data = os.read(0, 1 << 16)
      if not data:
        return 0
      *lines, buffer = (buffer + data).split(b'\n')
      for line in lines:
        directory = json.loads(line)['directory']
        pid = os.fork()
        if pid == 0:
          _become_worker(directory)
        descriptor = os.pidfd_open(pid)
        workers[descriptor] = (directory, pid)
        selector.register(descriptor, selectors.EVENT_READ)
        say({'directory': directory, 'pid': pid})


if __name__ == '__main__':
  sys.exit(main())
