"""What a long run needs besides its steps.

That is fewer checkpoints than it saved, a profile of some steps, and an end when the system asks
for one.
"""

import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Annotated

import jax
from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, other_than

_Steps = Annotated[int, Interval(ge=0, le=2**31)]


@configurable('upkeep')
@dataclasses.dataclass(frozen=True)
class RunControl:
  """Checkpoints to keep and steps to profile; changes no result.

  Attributes:
    keep_checkpoints: the latest so many stay; 0 keeps all.
    profile_first: first step of a trace for TensorBoard and Perfetto, which goes to the run's
      `profile`. The first step of a process compiles.
    profile_steps: length of the trace; 0 is none.
  """

  keep_checkpoints: _Steps = 0
  profile_first: Annotated[_Steps, ReadWhen(other_than('upkeep.profile_steps', 0))] = 2
  profile_steps: _Steps = 0


class Profiler:
  """Traces the steps that the settings name.

  Call `before(step)` ahead of each step. Use it as a context manager, which ends an open trace.
  """

  def __init__(self, directory: pathlib.Path, settings: RunControl):
    self._directory = directory / 'profile'
    self._settings = settings
    self._is_open = False

  def before(self, step: int) -> None:
    """Starts or ends the trace where this step is the first or the last of it."""
    first = self._settings.profile_first
    if self._is_open and step >= first + self._settings.profile_steps:
      self._end()
    elif not self._is_open and self._settings.profile_steps and step == first:
      jax.profiler.start_trace(str(self._directory))
      self._is_open = True

  def _end(self) -> None:
    self._is_open = False
    jax.profiler.stop_trace()

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *exc) -> None:
    if self._is_open:
      self._end()


@contextlib.contextmanager
def stop_at_sigterm() -> Iterator[Callable[[], bool]]:
  """Turns SIGTERM into a question that the training loop asks.

  Yields:
    A function that returns whether SIGTERM came; whoever runs the loop then saves and ends. A
    second SIGTERM ends the process.
  """
  came = False

  def note(number, frame):
    nonlocal came
    came = True
    signal.signal(signal.SIGTERM, before)

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield lambda: came
  finally:
    signal.signal(signal.SIGTERM, before)
