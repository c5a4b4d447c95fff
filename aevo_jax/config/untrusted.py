"""The statement parser in a child process, for text that an agent wrote."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gin

from aevo_jax.config import statements
from aevo_jax.config.statements import (
  MAX_BYTES,
  MAX_DEPTH,
  Binding,
  Code,
  StatementError,
  check_text,
)

# Reads an agent's text; raises StatementError for what is not a list of literal bindings.
Parser = Callable[[str], tuple[Binding, ...]]


class ParserProcessError(RuntimeError):
  """The parsing child did not run: a fault of the machine or installation, never of the text."""


def parse_untrusted(
  text: str,
  *,
  max_bytes: int = MAX_BYTES,
  max_depth: int = MAX_DEPTH,
  cpu_seconds: int = 1,
  wall_seconds: float = 20.0,
  executable: str = sys.executable,
) -> tuple[Binding, ...]:
  """Parses as `statements.parse_statements` does, in a child process that the kernel stops.

  Args:
    text: gin text that an agent wrote.
    max_bytes: limit on the UTF-8 length.
    max_depth: limit on the nesting of brackets.
    cpu_seconds: CPU time granted to the parsing itself (RLIMIT_CPU, set after the child's imports).
    wall_seconds: elapsed time granted to the whole child.
    executable: the Python interpreter of the child.

  Returns:
    The bindings in the order written.

  Raises:
    StatementError: as `parse_statements`, and with code `timeout` when a limit ends the child.
    ParserProcessError: the child could not run.
  """
  encoded = check_text(text, max_bytes)
  gin_root = os.path.dirname(os.path.dirname(os.path.abspath(gin.__file__)))
  command = [
    executable,
    '-I',
    os.path.abspath(statements.__file__),
    str(cpu_seconds),
    str(max_bytes),
    str(max_depth),
    gin_root,
  ]
  try:
    child = subprocess.run(
      command, input=encoded, capture_output=True, timeout=wall_seconds, check=False
    )
  except subprocess.TimeoutExpired:
    child = None
  if child is None or child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
    raise StatementError(
      Code.TIMEOUT, f'parsing took more than {cpu_seconds} s of CPU or {wall_seconds:g} s'
    )
  if child.returncode != 0:
    raise ParserProcessError(
      f'the statement parser exited with status {child.returncode}; to see why, run: '
      f'{" ".join(command)} < /dev/null'
    )
  reply = json.loads(child.stdout)
  if 'code' in reply:
    raise StatementError(Code(reply['code']), reply['message'])
  return tuple(Binding(selector, _from_json(value)) for selector, value in reply['bindings'])


def _from_json(value: Any) -> Any:
  """Reads what `statements` writes: containers are tagged, since JSON has no tuples."""
  if not isinstance(value, list):
    return value
  kind, items = value
  if kind == 'dict':
    return {key: _from_json(item) for key, item in items}
  decoded = [_from_json(item) for item in items]
  return tuple(decoded) if kind == 'tuple' else decoded
