"""What a long run needs besides its steps: fewer checkpoints than it saved, a profile of some
steps, and an end when the system asks for one.
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

_Steps = Annotated[int, Interval(ge=0, le=2**31)]


@configurable('upkeep')
@dataclasses.dataclass(frozen=True)
class Upkeep:
  """Changes no result.

  Attributes:
    keep_checkpoints: the latest so many stay; 0 keeps all.
    profile_first, profile_steps: a trace of so many steps from that one on, for TensorBoard and
      Perfetto, in the run's `profile`; 0 steps is none. The first step of a process compiles.
  """

  keep_checkpoints: _Steps = 0
  profile_first: _Steps = 2
  profile_steps: _Steps = 0


class Profiler:
  """Traces the steps that the settings name. Call `before(step)` ahead of each; use as a context
  manager, which ends a trace that is still open.
  """

  def __init__(self, directory: pathlib.Path, settings: Upkeep):
    self._directory, self._s, self._open = directory / 'profile', settings, False

  def before(self, step: int) -> None:
    if self._open and step >= self._s.profile_first + self._s.profile_steps:
      self._end()
    elif not self._open and self._s.profile_steps and step == self._s.profile_first:
      jax.profiler.start_trace(str(self._directory))
      self._open = True

  def _end(self) -> None:
    self._open = False
    jax.profiler.stop_trace()

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *exc) -> None:
    if self._open:
      self._end()


@contextlib.contextmanager
def sigterm_asks() -> Iterator[Callable[[], bool]]:
  """Within, SIGTERM does not end the process: the function that is given says that it came, and
  whoever runs the loop saves and ends. A second one ends the process.
  """
  asked = False

  def ask(number, frame):
    nonlocal asked
    asked = True
    signal.signal(signal.SIGTERM, before)

  before = signal.signal(signal.SIGTERM, ask)
  try:
    yield lambda: asked
  finally:
    signal.signal(signal.SIGTERM, before)
