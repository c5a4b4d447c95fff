"""A planted decoupling: from some round on, one axis moves one family on dev and not, or inversely,
on the external set.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.encoding import Encoder, levels
from aevo_jax.simulation.settings import Settings


@dataclasses.dataclass(frozen=True)
class Plant:
  """kind: 'shortcut' or 'reversal'. axis, family: names. onset: its first round. direction: which
  end of the axis' first parameter raises dev, or [levels] of a choice what each does. size: on dev,
  in log-odds. harm: how far the external set moves the other way, in sizes.
  """

  kind: str
  axis: str
  family: int
  onset: int
  parameter: int
  direction: np.ndarray
  size: float
  harm: float

  def shifts(
    self, encoder: Encoder, codes: np.ndarray, families: int, round_: int | np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """What it adds to the log-odds of dev and external, [N, F] each. codes: [N, P]; round_: of all
    or [N] of each.
    """
    moved = np.zeros((len(codes), families))
    moved[:, self.family] = (
      self.size
      * (round_ >= self.onset)
      * (self._strength(encoder, codes) - self._strength(encoder, encoder.codes({})[None]))
    )
    return moved, -self.harm * moved if self.kind == 'reversal' else np.zeros_like(moved)

  def _strength(self, encoder: Encoder, codes: np.ndarray) -> np.ndarray:
    """[N], 0 where the parameter has no effect, else at most 1/2 on either side."""
    code, live = codes[:, self.parameter], encoder.active(codes)[:, self.parameter]
    if levels(encoder.parameters[self.parameter]):
      return self.direction[np.maximum(code, 0).astype(int)] / 2 * live
    return self.direction[0] * (code - 0.5) * (live & (code >= 0) & (code <= 1))


def draw(
  kind: str,
  encoder: Encoder,
  families: Sequence[str],
  constitution: Constitution,
  settings: Settings,
  index: int,
) -> Plant | None:
  """The plant of campaign `index`, from the plant seed alone; None for the kind 'none'.

  The onset lies after the calibration rounds and before the last, and not before the axis may be
  bound. A parameter that is named after a family moves that one, and of a number whose standing
  value is an end of its range, the other end raises dev.
  """
  if kind == 'none':
    return None
  rng = np.random.default_rng([settings.plant_seed, index, 77])
  among = [
    i
    for i, axis in enumerate(encoder.space.axes)
    if not settings.plant_axes or axis.name in settings.plant_axes
  ]
  axis = among[int(rng.integers(len(among)))]
  parameter = sum(len(a.parameters) for a in encoder.space.axes[:axis])
  first = constitution.reversal.calibration_rounds + 1
  drawn = int(rng.integers(first, max(first + 1, constitution.budget.rounds)))
  places = max(2, len(levels(encoder.parameters[parameter])))
  direction = rng.permutation(np.where(np.arange(places) < (places + 1) // 2, 1.0, -1.0))
  if not levels(encoder.parameters[parameter]) and (standing := encoder.codes({})[parameter]) in (
    0.0,
    1.0,
  ):
    direction = np.array([1.0, -1.0] if standing == 0 else [-1.0, 1.0])
  name, named = (
    encoder.space.axes[axis].name,
    encoder.parameters[parameter].selector.rpartition('.')[2],
  )
  family = int(rng.integers(len(families)))
  return Plant(
    kind,
    name,
    families.index(named) if named in families else family,
    max(settings.plant_round or drawn, constitution.search_space.from_round.get(name, 1)),
    parameter,
    direction,
    settings.plant_size,
    settings.plant_harm,
  )
