"""A supervisor that keeps a server and its processes from outliving the caller.

It uses the standard library alone, since it is run as a file:

  python supervisor.py [--remove=DIRECTORY ...] COMMAND ...

Its standard input is a pipe from the caller. vLLM's server starts an engine and workers as
processes of their own, which stay when it is killed; and when one of those is killed, the server
waits for requests that nobody answers any more. The supervisor gives them one session, and ends
that session when the server ends, when one of its engines or workers does, when standard input
ends, or on SIGTERM. Its exit status is the server's. A caller that needs the server no more writes
a byte before it ends the input. Where that byte is missing the caller has died, however that
happened, and the supervisor removes its directories, which may hold weights in memory.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

PATIENCE = 5.0  # seconds between asking to end and killing
LOOK = 1.0  # seconds between looks at the session
# Looks that have to find a process before its end counts as the server's: a passing child has its
# parent's title between fork and exec.
SETTLED = 5
TITLE = b'VLLM::'  # with which the titles of engines and workers begin
_PR_SET_PDEATHSIG = 1


class Arguments(NamedTuple):
  """The command line: directories to remove if the caller dies, and the server's command."""

  directories: list[str]
  command: list[str]


def parse(arguments: list[str]) -> Arguments:
  """Divides the command line.

  Args:
    arguments: any number of --remove=DIRECTORY, then the server's command.

  Returns:
    Both parts.
  """
  command = list(arguments)
  directories = []
  while command[0].startswith('--remove='):
    directories.append(command.pop(0).removeprefix('--remove='))
  return Arguments(directories, command)


def _end_with_parent() -> None:
  """Asks Linux for SIGTERM should the supervisor itself be killed."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def engines(session: int) -> set[int]:
  """Finds engines and workers of a session that have not ended.

  Args:
    session: id of the session, which is that of its first process.

  Returns:
    Their process ids.
  """
  pids = set()
  for name in os.listdir('/proc'):
    if not name.isdigit():
      continue
    try:
      with open(f'/proc/{name}/stat', 'rb') as stat, open(f'/proc/{name}/cmdline', 'rb') as command:
        state, _, _, own_session = stat.read().rpartition(b')')[2].split()[:4]
        if int(own_session) == session and state != b'Z' and command.read(len(TITLE)) == TITLE:
          pids.add(int(name))
    except OSError:  # it has ended since
      continue
  return pids


class Watch:
  """Counts looks at a session, to tell lost engines from children that pass."""

  def __init__(self, session: int):
    """Begins to watch; the first look comes at once."""
    self._session = session
    self._looks: dict[int, int] = {}
    self._last = 0.0

  def lost(self) -> list[int]:
    """Looks at the session, at most every LOOK seconds.

    Returns:
      Engines and workers that SETTLED looks have found, and this one has not.
    """
    if time.monotonic() - self._last < LOOK:
      return []
    found = engines(self._session)
    self._last = time.monotonic()
    lost = [pid for pid, looks in self._looks.items() if looks >= SETTLED and pid not in found]
    self._looks = {pid: self._looks.get(pid, 0) + 1 for pid in found}
    return lost


def end(process: subprocess.Popen, patience: float) -> None:
  """Ends every process of a session.

  Args:
    process: its first.
    patience: seconds that it has between SIGTERM and SIGKILL.
  """
  for signal_number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 0.0)):
    try:
      os.killpg(process.pid, signal_number)
    except ProcessLookupError:
      return
    until = time.monotonic() + wait
    while time.monotonic() < until and process.poll() is None:
      time.sleep(0.05)


def main() -> int:
  """Runs a server until it, one of its engines or the caller ends; returns its exit status."""
  stop = []
  died = False
  lost = []
  directories, command = parse(sys.argv[1:])
  signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
  process = subprocess.Popen(
    command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent
  )
  watch = Watch(process.pid)
  while process.poll() is None and not stop and not lost:
    if select.select([0], [], [], 0.1)[0]:
      died = not os.read(0, 1)
      break
    lost = watch.lost()
  if lost and process.poll() is None:
    print(f'supervisor: process {min(lost)} of vLLM has ended, and so has its server', flush=True)
  status = process.poll()
  end(process, 0.0 if lost or status is not None else PATIENCE)
  process.wait()
  if died:
    for directory in directories:
      shutil.rmtree(directory, ignore_errors=True)
  return int(bool(lost)) if status is None else status


if __name__ == '__main__':
  sys.exit(main())
