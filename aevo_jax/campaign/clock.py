"""The clock of a controller."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Clock:
  """How a controller measures deadlines and waits; the ledger has a clock for its records' times.

  Attributes:
    now: gives seconds from any origin.
    sleep: waits so many seconds.
  """

  now: Callable[[], float] = time.monotonic
  sleep: Callable[[float], None] = time.sleep


MONOTONIC = Clock()
