"""Keeps a server and everything it starts from outliving whoever wanted it. Standard library alone:
it is run as a file.

  python supervisor.py [--remove=DIRECTORY ...] COMMAND ...        its standard input is a pipe from
  whoever wants the server

vLLM's server starts an engine and workers as processes of their own, which stay when it is killed;
and when one of those is killed, the server waits for requests that nobody answers any more. The
supervisor gives them one session, and ends the whole of it when the server ends, when one of its
engines or workers does, when its own standard input ends, or when it is asked to (SIGTERM). Its
exit status is the server's. Whoever wants no more of the server writes a byte before it ends the
input; where that byte is missing it has died, however that happened, and the supervisor removes its
directories, which may hold weights in memory.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

PATIENCE = 5.0  # seconds between asking to end and killing
LOOK, SETTLED = (
  1.0,
  5,
  # seconds between looks at the session; looks that have found a process before its end is the
  # server's: a passing child has its parent's title between fork and exec
)
TITLE = b'VLLM::'  # with which engines and workers begin


def _end_with_parent() -> None:
  ctypes.CDLL(None).prctl(
    1, signal.SIGTERM
  )  # PR_SET_PDEATHSIG: should the supervisor itself be killed


def engines(session: int) -> set[int]:
  """Engines and workers of the session that have not ended."""
  found = set()
  for name in filter(str.isdigit, os.listdir('/proc')):
    try:
      with open(f'/proc/{name}/stat', 'rb') as stat, open(f'/proc/{name}/cmdline', 'rb') as command:
        state, _, _, own = stat.read().rpartition(b')')[2].split()[:4]
        if int(own) == session and state != b'Z' and command.read(len(TITLE)) == TITLE:
          found.add(int(name))
    except OSError:  # it has ended since
      continue
  return found


def end(process: subprocess.Popen, patience: float) -> None:
  """Ends every process of the session."""
  for what, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 0.0)):
    try:
      os.killpg(process.pid, what)
    except ProcessLookupError:
      return
    until = time.monotonic() + wait
    while time.monotonic() < until and process.poll() is None:
      time.sleep(0.05)


def main() -> int:
  stop, wanted, died = [], sys.argv[1:], False
  directories = []
  while wanted[0].startswith('--remove='):
    directories.append(wanted.pop(0).removeprefix('--remove='))
  signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
  process = subprocess.Popen(
    wanted, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent
  )
  looks, looked, lost = {}, 0.0, []
  while process.poll() is None and not stop and not lost:
    if select.select([0], [], [], 0.1)[0]:
      died = not os.read(0, 1)
      break
    if time.monotonic() - looked >= LOOK:
      now, looked = engines(process.pid), time.monotonic()
      lost = [pid for pid, times in looks.items() if times >= SETTLED and pid not in now]
      looks = {pid: looks.get(pid, 0) + 1 for pid in now}
  if lost and process.poll() is None:
    print(f'supervisor: process {min(lost)} of vLLM has ended, and so has its server', flush=True)
  ended = process.poll()
  end(process, 0.0 if lost or ended is not None else PATIENCE)
  process.wait()
  if died:
    for directory in directories:
      shutil.rmtree(directory, ignore_errors=True)
  return ended if ended is not None else int(bool(lost))


if __name__ == '__main__':
  sys.exit(main())
