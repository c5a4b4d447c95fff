"""A shift between dev and the external set that a simulated campaign injects from some round on.

One axis moves one family on dev. On the external set it moves nothing ('shortcut') or the same
family the other way ('reversal').
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.encoding import Encoder, levels
from aevo_jax.simulation.settings import Settings


class Onset(NamedTuple):
  """The family that a shift moves, by name, and the first round in which it does."""

  family: str
  round: int


class LogOdds(NamedTuple):
  """What is added to the log-odds of each set, [N, F] each."""

  dev: np.ndarray
  external: np.ndarray


@dataclasses.dataclass(frozen=True)
class InjectedShift:
  """What is shifted, by what and how far.

  Attributes:
    kind: 'shortcut' or 'reversal'.
    axis: name of the axis that moves scores.
    family: position of the moved family among the families.
    onset: first round of the shift.
    parameter: position of the axis' first parameter among all parameters.
    direction: which end of that parameter raises dev; of a choice, [levels] what each does.
    size: on dev, in log-odds.
    harm: how far the external set moves the other way, in sizes.
  """

  kind: str
  axis: str
  family: int
  onset: int
  parameter: int
  direction: np.ndarray
  size: float
  harm: float

  def log_odds(
    self, encoder: Encoder, codes: np.ndarray, families: int, round_: int | np.ndarray
  ) -> LogOdds:
    """Computes what the shift adds to recipes.

    Args:
      encoder: of the search space.
      codes: recipes, [N, P].
      families: F, how many there are.
      round_: in which all recipes are trained, or [N] of each.

    Returns:
      Additions to the log-odds; those of the starting recipe are 0.
    """
    start = encoder.codes({})[None]
    dev = np.zeros((len(codes), families))
    dev[:, self.family] = (
      self.size
      * (round_ >= self.onset)
      * (self._strength(encoder, codes) - self._strength(encoder, start))
    )
    if self.kind == 'reversal':
      return LogOdds(dev, -self.harm * dev)
    return LogOdds(dev, np.zeros_like(dev))

  def _strength(self, encoder: Encoder, codes: np.ndarray) -> np.ndarray:
    """Returns [N], 0 where the parameter has no effect, else at most 1/2 on either side."""
    code = codes[:, self.parameter]
    live = encoder.active(codes)[:, self.parameter]
    if levels(encoder.parameters[self.parameter]):
      return self.direction[np.maximum(code, 0).astype(int)] / 2 * live
    return self.direction[0] * (code - 0.5) * (live & (code >= 0) & (code <= 1))


def sample(
  kind: str,
  encoder: Encoder,
  families: Sequence[str],
  constitution: Constitution,
  settings: Settings,
  index: int,
) -> InjectedShift | None:
  """Draws the shift of a campaign from `settings.plant_seed` and the index alone.

  Args:
    kind: one of settings.SHIFTS.
    encoder: of the search space.
    families: names. A parameter that is named after a family moves that one.
    constitution: says when the axis may be bound, when calibration ends and how many rounds follow.
    settings: size, harm, and a fixed onset or axes if there are any.
    index: of the campaign.

  Returns:
    None for the kind 'none'. Else the onset lies after the calibration rounds and before the last,
    and not before the axis may be bound.
  """
  if kind == 'none':
    return None
  rng = np.random.default_rng([settings.plant_seed, index, 77])
  axis = _sample_axis(encoder, settings, rng)
  axis_name = encoder.space.axes[axis].name
  parameter = sum([len(a.parameters) for a in encoder.space.axes[:axis]])
  first = constitution.reversal.calibration_rounds + 1
  onset = int(rng.integers(first, max(first + 1, constitution.budget.rounds)))
  direction = _sample_direction(encoder, parameter, rng)
  family = int(rng.integers(len(families)))
  named_after = encoder.parameters[parameter].selector.rpartition('.')[2]
  if named_after in families:
    family = families.index(named_after)
  return InjectedShift(
    kind=kind,
    axis=axis_name,
    family=family,
    onset=max(
      settings.plant_round or onset, constitution.search_space.from_round.get(axis_name, 1)
    ),
    parameter=parameter,
    direction=direction,
    size=settings.plant_size,
    harm=settings.plant_harm,
  )


def _sample_axis(encoder: Encoder, settings: Settings, rng: np.random.Generator) -> int:
  """Draws the position of an axis, among all or among those that the settings name."""
  candidates = []
  for position, axis in enumerate(encoder.space.axes):
    if not settings.plant_axes or axis.name in settings.plant_axes:
      candidates.append(position)
  return candidates[int(rng.integers(len(candidates)))]


def _sample_direction(encoder: Encoder, parameter: int, rng: np.random.Generator) -> np.ndarray:
  """Draws what each level of a choice does to dev, or which end of a number raises it.

  If a number stands at an end of its range, the other end raises dev.
  """
  choices = levels(encoder.parameters[parameter])
  count = max(2, len(choices))
  direction = rng.permutation(np.where(np.arange(count) < (count + 1) // 2, 1.0, -1.0))
  standing = encoder.codes({})[parameter]
  if not choices and standing == 0.0:
    return np.array([1.0, -1.0])
  if not choices and standing == 1.0:
    return np.array([-1.0, 1.0])
  return direction
