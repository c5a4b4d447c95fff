"""A planted decoupling: from some round on, one axis moves one family on dev and not, or inversely, on the external set."""

import dataclasses

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.encoding import Encoder, levels
from aevo_jax.simulation.settings import Settings


@dataclasses.dataclass(frozen=True)
class Plant:
  """kind: 'shortcut' or 'reversal'. axis, family: names. onset: its first round. direction: which end of the axis' first parameter raises dev, or [levels] of a choice
  what each does. size: in log-odds."""

  kind: str
  axis: str
  family: int
  onset: int
  parameter: int
  direction: np.ndarray
  size: float

  def shifts(self, encoder: Encoder, codes: np.ndarray, families: int, round_: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What it adds to the log-odds of dev and external, [N, F] each. codes: [N, P]; round_: of all or [N] of each."""
    moved = np.zeros((len(codes), families))
    moved[:, self.family] = self.size * (round_ >= self.onset) * (self._strength(encoder, codes) - self._strength(encoder, encoder.codes({})[None]))
    return moved, -moved if self.kind == 'reversal' else np.zeros_like(moved)

  def _strength(self, encoder: Encoder, codes: np.ndarray) -> np.ndarray:
    """[N], 0 where the parameter has no effect, else at most 1/2 on either side."""
    code, live = codes[:, self.parameter], encoder.active(codes)[:, self.parameter]
    if levels(encoder.parameters[self.parameter]):
      return self.direction[np.maximum(code, 0).astype(int)] / 2 * live
    return self.direction[0] * (code - 0.5) * (live & (code >= 0) & (code <= 1))


def draw(kind: str, encoder: Encoder, families: int, constitution: Constitution, settings: Settings, index: int) -> Plant | None:
  """The plant of campaign `index`, from the plant seed alone; None for the kind 'none'. The onset lies after the calibration rounds and before the last."""
  if kind == 'none':
    return None
  rng = np.random.default_rng([settings.plant_seed, index, 77])
  axis = int(rng.integers(len(encoder.space.axes)))
  parameter = sum(len(a.parameters) for a in encoder.space.axes[:axis])
  first = constitution.reversal.calibration_rounds + 1
  drawn = int(rng.integers(first, max(first + 1, constitution.budget.rounds)))
  places = max(2, len(levels(encoder.parameters[parameter])))
  direction = rng.permutation(np.where(np.arange(places) < (places + 1) // 2, 1.0, -1.0))
  return Plant(kind, encoder.space.axes[axis].name, int(rng.integers(families)), settings.plant_round or drawn, parameter, direction, settings.plant_size)
