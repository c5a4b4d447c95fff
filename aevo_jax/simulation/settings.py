"""What the simulated world is like: gin's section `simulation`."""

import dataclasses

from aevo_jax.config.configurables import configurable

SURFACES = ('drawn', 'rugged', 'flat', 'fitted')
PLANTS = ('none', 'shortcut', 'reversal')


@configurable('simulation')
@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes are in log-odds of a family's items.

  Attributes:
    seed: of everything but the plant; campaign i is drawn from (seed, i). plant_seed: of the plant,
      which no agent sees.
    surface: what settings do to accuracy. 'drawn': one optimum for each number, levels,
      interactions within an axis, what a change costs; 'rugged': thresholds and interactions across
      axes, heavy-tailed, so nothing the statistical agent assumes; 'flat': nothing, pure noise;
      'fitted': to real trials.
    trials: JSON file of 'fitted', as benchmarks/agent_comparison.py collects it.
    effect_sd: spread of the effect of a setting. change_cost: what changing an axis costs on
      average.
    base: accuracy of the starting recipe, around which those of families lie. base_sd: their
      spread.
    seed_sd: between training seeds, for each family, on dev and external alike. transfer_sd: by
      which the external set's difficulty differs from dev's, anew for each trial.
    plant_size: what the planted axis moves on dev, from one end of its range to the other.
      plant_harm: how far a 'reversal' moves the external set the other way, in plant_size.
    plant_round: of its onset; 0 is drawn from the plant seed. plant_axes: names of axes among which
      the planted one is drawn; all where there are none.
    anchors: trials a round of the unchanged recipe where designs are drawn without an agent; agents
      place their own.
    verdicts: whether every round is judged, which takes as long as an agent. replays: coupled
      campaigns behind each threshold of the verdicts, in place of reversal.replays.
  """

  seed: int = 0
  plant_seed: int = 0
  surface: str = 'drawn'
  trials: str = ''
  effect_sd: float = 0.1
  change_cost: float = 0.05
  base: float = 0.45
  base_sd: float = 0.7
  seed_sd: float = 0.085
  transfer_sd: float = 0.05
  plant_size: float = 2.0
  plant_harm: float = 1.0
  plant_round: int = 0
  plant_axes: tuple[str, ...] = ()
  anchors: int = 1
  replays: int = 200
  verdicts: bool = True

  def __post_init__(self):
    if self.surface not in SURFACES:
      raise ValueError(f'simulation.surface must be one of {SURFACES}, got {self.surface!r}')
    if (self.surface == 'fitted') != bool(self.trials):
      raise ValueError(
        "simulation.surface = 'fitted' needs simulation.trials, the JSON file of trials, "
        'and no other surface has use for it'
      )
    if not 0 < self.base < 1:
      raise ValueError(f'simulation.base is an accuracy between 0 and 1, got {self.base}')
    for field in (
      'effect_sd',
      'change_cost',
      'base_sd',
      'seed_sd',
      'transfer_sd',
      'plant_harm',
      'plant_round',
      'anchors',
    ):
      if getattr(self, field) < 0:
        raise ValueError(f'simulation.{field} must be >= 0, got {getattr(self, field)}')
