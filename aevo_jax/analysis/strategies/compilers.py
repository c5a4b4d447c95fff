"""Compilers: processes of `aevo shapes --compile`, a few at a time."""

import concurrent.futures
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Compilers:
  """A few processes at a time. Leaving the block ends those that still run."""

  def __init__(self, jobs: int):
    """Starts none yet.

    Args:
      jobs: processes at a time.
    """
    self._pool = concurrent.futures.ThreadPoolExecutor(jobs)
    self._running: set[subprocess.Popen] = set()
    self._lock = threading.Lock()
    self._closed = False

  def __enter__(self) -> 'Compilers':
    return self

  def __exit__(self, *unused: object) -> None:
    with self._lock:
      self._closed = True
      for process in self._running:
        process.kill()
    self._pool.shutdown(cancel_futures=True)

  def compile(self, arguments: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compiles, and yields each result when it is there.

    Args:
      arguments: of `aevo shapes`, by name.

    Yields:
      A name, and what `aevo shapes` found; `error` says why it could not.
    """
    names = {self._pool.submit(self._run, given): name for name, given in arguments.items()}
    for done in concurrent.futures.as_completed(names):
      yield names[done], done.result()

  def _run(self, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, '-m', 'aevo_jax.cli', 'shapes', *arguments]
    with self._lock:
      if self._closed:
        return {'error': 'interrupted'}
      process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
      self._running.add(process)
    try:
      out, err = process.communicate()
    finally:
      with self._lock:
        self._running.discard(process)
    if process.returncode == 0:
      return json.loads(out[out.index('{') :])
    # No refusal but a fault: all of it is wanted.
    if 'Traceback' in err and 'KeyboardInterrupt' not in err:
      sys.stderr.write(err)
    lines = err.strip().splitlines() or [f'ended with status {process.returncode}']
    return {'error': lines[-1].removeprefix('shapes: ')}
