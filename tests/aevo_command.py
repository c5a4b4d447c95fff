"""Runs `aevo` commands in the test's own process, or in one of their own."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import traceback

from aevo_jax import cli, layout

REPOSITORY = pathlib.Path(layout.__file__).resolve().parent.parent


def aevo(*arguments: str | pathlib.Path) -> subprocess.CompletedProcess:
  """Calls the command in this process, which has imported JAX already.

  Args:
    *arguments: the command and its flags.

  Returns:
    What `subprocess.run` would: exit status, standard output and standard error. An exception that
    leaves the command stands in standard error as a traceback, with status 1.
  """
  command = list(map(str, arguments))
  out = io.StringIO()
  err = io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      status = cli.main(command)
    except Exception:
      traceback.print_exc()
      status = 1
  return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
  """The suite's environment, with this code to import."""
  path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get('PYTHONPATH')])])
  return os.environ | {'PYTHONPATH': path}


def aevo_process(
  *arguments: str | pathlib.Path,
  program: tuple[str, ...] = ('-m', 'aevo_jax.cli'),
  prefix: tuple[str, ...] = (),
  timeout: int = 300,
) -> subprocess.CompletedProcess:
  """Runs the command in a process of its own.

  Args:
    *arguments: the command and its flags.
    program: what Python runs.
    prefix: a program that starts Python, such as taskset.
    timeout: seconds.

  Returns:
    The ended process, with text output.
  """
  return subprocess.run(
    [*prefix, sys.executable, *program, *map(str, arguments)],
    capture_output=True,
    text=True,
    env=environment(),
    timeout=timeout,
  )
