"""What simulated campaigns have in common: constitution, search space as arrays, families, kind of
surface and plant.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated

import numpy as np

from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.constraints import OneOf, checked
from aevo_jax.config.nearest import suggestion
from aevo_jax.config.search_space import draw
from aevo_jax.meta_agent.effects import Effects
from aevo_jax.meta_agent.encoding import Encoder
from aevo_jax.simulation import surface
from aevo_jax.simulation.settings import PLANTS, Settings

POOL = 512


@checked('scenario')
@dataclasses.dataclass(frozen=True)
class Scenario:
  """What campaigns are drawn from.

  Attributes:
    recipe: text of the substrate's default recipe. families: names. plant: a kind of
      settings.PLANTS.
  """

  constitution: Constitution
  settings: Settings
  recipe: str
  families: tuple[str, ...]
  plant: Annotated[str, OneOf(PLANTS)] = 'none'

  def __post_init__(self):
    for name in self.settings.plant_axes:
      if name not in self.constitution.search_space.axes:
        raise ValueError(
          f'simulation.plant_axes names no axis {name!r}'
          + suggestion(name, self.constitution.search_space.axes)
        )
    for name in ('dev_set', 'external_set'):
      if getattr(self.constitution, name).items < len(self.families):
        raise ValueError(
          f'{name}.items = {getattr(self.constitution, name).items} leaves some of the '
          f'{len(self.families)} families out; raise it'
        )

  @functools.cached_property
  def encoder(self) -> Encoder:
    return Encoder(self.constitution.space(), default_values(self.recipe))

  @functools.cached_property
  def posterior(self) -> Effects | None:
    """Of real trials, for the fitted surface."""
    return (
      surface.fit_trials(pathlib.Path(self.settings.trials), self.encoder, self.families)
      if self.settings.surface == 'fitted'
      else None
    )

  @functools.cached_property
  def pool(self) -> np.ndarray:
    """[POOL, P] codes of random recipes, each axis changed with probability 1/2."""
    rng, recipes = np.random.default_rng([self.settings.seed, 5]), []
    for _ in range(POOL):
      overlay: dict = {}
      for axis in self.encoder.space.axes:
        if rng.random() < 0.5:
          overlay |= draw(axis, rng, {**self.encoder.defaults, **overlay})
      recipes.append(self.encoder.codes(self.encoder.prune(overlay)))
    return np.asarray(recipes)
