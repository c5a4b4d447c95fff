"""What the simulated world is like: gin's section `simulation`."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf

SURFACES = ('drawn', 'rugged', 'flat', 'fitted', 'single')
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
      'fitted': to real trials; 'single': one value of one choice gains `gain`, all else nothing.
    trials: JSON file of 'fitted', as benchmarks/agent_comparison.py collects it.
    effect_sd: spread of the effect of a setting.
    change_cost: what changing an axis costs on average.
    base: accuracy of the starting recipe, around which those of families lie.
    base_sd: spread of families around `base`.
    seed_sd: between training seeds, for each family, on dev and external alike.
    transfer_sd: by which the external set's difficulty differs from dev's, anew for each trial.
    gain: overall accuracy that 'single' gains.
    slice_harm: accuracy that its first family loses meanwhile; the others make up for it.
    shared_sd: of a trial's luck that all families share, on dev and external alike.
    external_sd: of a trial's luck that all families share on the external set alone.
    round_sd: of a round's luck that all its trials share on the external set.
    changed_noise: what the noise of recipes other than the starting one is multiplied by.
    wild_share: share of those recipes whose noise is five times as large.
    noise_growth: by which every noise of a trial grows from round to round.
    tail: degrees of freedom of Student's t, scaled to its sd, for all of these; 0 = normal.
    plant_size: what the shifted axis moves on dev, from one end of its range to the other.
    plant_harm: how far a 'reversal' moves the external set the other way, in plant_size.
    plant_round: of the shift's onset; 0 is drawn from the plant seed.
    plant_axes: names of axes among which the shifted one is drawn; all where there are none.
    anchors: trials of the unchanged recipe in a round where designs are drawn without an agent;
      agents place anchors themselves.
    replays: coupled campaigns behind each threshold of the verdicts, in place of reversal.replays.
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
  gain: Annotated[float, Interval(ge=0, lt=0.5)] = 0.04
  slice_harm: Annotated[float, Interval(ge=0, lt=1)] = 0.0
  shared_sd: Annotated[float, Ge(0)] = 0.0
  external_sd: Annotated[float, Ge(0)] = 0.0
  round_sd: Annotated[float, Ge(0)] = 0.0
  changed_noise: Annotated[float, Ge(0)] = 1.0
  wild_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
  noise_growth: Annotated[float, Ge(0)] = 0.0
  tail: Annotated[int, Ge(0)] = 0
  plant_size: float = 2.0
  plant_harm: Annotated[float, Ge(0)] = 1.0
  plant_round: Annotated[int, Ge(0)] = 0
  plant_axes: tuple[str, ...] = ()
  anchors: Annotated[int, Ge(0)] = 1
  replays: int = 200
  verdicts: bool = True

  def __post_init__(self):
    if (self.surface == 'fitted') != bool(self.trials):
      raise ValueError(
        "simulation.surface = 'fitted' needs simulation.trials, the JSON file of trials, "
        'and no other surface has use for it'
      )
    if self.tail in (1, 2):
      raise ValueError(f'simulation.tail must be 0 or at least 3, got {self.tail}: no sd is finite')
