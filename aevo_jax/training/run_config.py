"""What a caller decides about a training run that changes none of its results."""

import dataclasses
from collections.abc import Callable

from aevo_jax.training.placement import Placement
from aevo_jax.training.run_control import RunControl

OnStep = Callable[[int, dict[str, float]], None]


def never() -> bool:
  """Lets a run go on to its last step."""
  return False


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """How a run is watched, saved and ended.

  Attributes:
    checkpoint_every: steps between checkpoints; 0 saves only the last state.
    control: how many checkpoints stay, and which steps are profiled.
    stop: called after each step; where it returns True, the run saves and returns.
    on_step: called after each step with its number and metrics, e.g. to evaluate.
    placement: where arrays lie on a mesh, in whose context (`placement.use()`) the loop is called;
      None is the default device. A run may continue on another.
  """

  checkpoint_every: int = 0
  control: RunControl = dataclasses.field(default_factory=RunControl)
  stop: Callable[[], bool] = never
  on_step: OnStep | None = None
  placement: Placement | None = None
