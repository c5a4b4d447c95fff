"""What the simulated world is like: gin's section `simulation`."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf

SURFACES = ('drawn', 'rugged', 'flat', 'fitted')
SHIFTS = ('none', 'shortcut', 'reversal')


@configurable('simulation')
@dataclasses.dataclass(frozen=True)
class Settings:
  """How recipes score, how noisy scores are, and what is injected.

  Sizes are in log-odds of a family's items. In the selectors, plant is the injected shift.

  Attributes:
    seed: of everything but the injected shift; campaign i is drawn from (seed, i).
    plant_seed: of the injected shift, which no agent sees.
    surface: what settings do to accuracy. 'drawn': one optimum for each number, levels,
      interactions within an axis, what a change costs; 'rugged': thresholds and interactions across
      axes, heavy-tailed, so nothing the statistical agent assumes; 'flat': nothing, pure noise;
      'fitted': to real trials.
    trials: JSON file of 'fitted', as benchmarks/agent_comparison.py collects it.
    effect_sd: spread of the effect of a setting.
    change_cost: what changing an axis costs on average.
    base: accuracy of the starting recipe, around which those of families lie.
    base_sd: spread of families around `base`.
    seed_sd: between training seeds, for each family, on dev and external alike.
    transfer_sd: by which the external set's difficulty differs from dev's, anew for each trial.
    common_items: correlation of two trials' answers to an item, at an accuracy of 1/2: the part of
      an item's luck that all trials share.
    plant_size: what the shifted axis moves on dev, from one end of its range to the other.
    plant_harm: how far a 'reversal' moves the external set the other way, in plant_size.
    plant_round: of the shift's onset; 0 is drawn from the plant seed.
    plant_axes: names of axes among which the shifted one is drawn; all where there are none.
    anchors: trials of the unchanged recipe in a round where designs are drawn without an agent;
      agents place anchors themselves.
    verdicts: whether every round is judged, which takes as long as an agent.
  """

  seed: int = 0
  plant_seed: int = 0
  surface: Annotated[str, OneOf(SURFACES)] = 'drawn'
  trials: str = ''
  effect_sd: Annotated[float, Ge(0)] = 0.1
  change_cost: Annotated[float, Ge(0)] = 0.05
  base: Annotated[float, Interval(gt=0, lt=1)] = 0.45
  base_sd: Annotated[float, Ge(0)] = 0.7
  seed_sd: Annotated[float, Ge(0)] = 0.085
  transfer_sd: Annotated[float, Ge(0)] = 0.05
  common_items: Annotated[float, Interval(ge=0, lt=1)] = 0.7
  plant_size: float = 2.0
  plant_harm: Annotated[float, Ge(0)] = 1.0
  plant_round: Annotated[int, Ge(0)] = 0
  plant_axes: tuple[str, ...] = ()
  anchors: Annotated[int, Ge(0)] = 1
  verdicts: bool = True

  def __post_init__(self):
    if (self.surface == 'fitted') != bool(self.trials):
      raise ValueError(
        "simulation.surface = 'fitted' needs simulation.trials, the JSON file of trials, "
        'and no other surface has use for it'
      )
