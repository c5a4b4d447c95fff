"""The precompiler: a process that compiles training steps before the trials that run them start."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from aevo_jax.campaign.trial.spec import TrialSpec
from aevo_jax.config.configurables import LoadError
from aevo_jax.config.statements import parse_statements
from aevo_jax.runtime import child_environment
from aevo_jax.training.recipe.program_key import program_key
from aevo_jax.training.recipe.recipe import Recipe

PROGRAM = 'aevo_jax.campaign.executors.precompile'


class Request(NamedTuple):
  """One program to compile: of this spec, after which the marker is made."""

  spec: TrialSpec
  marker: pathlib.Path


def compiled_marker(spec: TrialSpec, substrate: str) -> pathlib.Path:
  """Names the file in the cache that says that a trial's program was compiled, by whichever run.

  Args:
    spec: the trial's.
    substrate: the digest of base, code and recipe.
  """
  try:
    program = program_key(Recipe.from_bindings(parse_statements(spec.recipe)))
  except LoadError:
    # A worker refuses the recipe, so it shares its program with no other.
    program = spec.recipe
  key = [
    program,
    substrate,
    spec.threads,
    platform.machine(),
    importlib.metadata.version('jax'),
  ]
  name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
  return pathlib.Path(spec.cache) / 'programs' / name


class Precompiler:
  """Runs the compiling process, one at a time.

  Args:
    logs: directory of its requests and of what it prints.
  """

  def __init__(self, logs: pathlib.Path):
    self._logs = logs
    self._process: subprocess.Popen | None = None

  @property
  def running(self) -> bool:
    """Whether it compiled at the last `poll`."""
    return self._process is not None

  def start(self, requests: Sequence[Request]) -> None:
    """Starts to compile these programs, in this order.

    Args:
      requests: at least one; the process before has ended.
    """
    paths = []
    for i, request in enumerate(requests):
      path = self._logs / f'precompile{i}.json'
      content = {'marker': str(request.marker), 'spec': dataclasses.asdict(request.spec)}
      path.write_text(json.dumps(content))
      paths.append(str(path))
    with (self._logs / 'precompile.log').open('ab') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-m', PROGRAM, *paths],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=child_environment(),
        start_new_session=True,
      )

  def poll(self) -> None:
    """Notices the process' end. A failure costs time only: workers compile for themselves."""
    if self._process is not None and self._process.poll() is not None:
      self._process = None

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._process = None
