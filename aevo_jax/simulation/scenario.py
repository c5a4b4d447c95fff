"""What simulated campaigns have in common.

That is the constitution, the search space as arrays, the families, and the kinds of surface and
injected shift.
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
from aevo_jax.simulation.settings import SHIFTS, Settings

POOL = 512


@checked('scenario')
@dataclasses.dataclass(frozen=True)
class Scenario:
  """What campaigns are drawn from.

  Attributes:
    constitution: rules, sets and budget.
    settings: of the simulation.
    recipe: text of the substrate's default recipe.
    families: names.
    shift: kind of the injected shift, one of settings.SHIFTS.
  """

  constitution: Constitution
  settings: Settings
  recipe: str
  families: tuple[str, ...]
  shift: Annotated[str, OneOf(SHIFTS)] = 'none'

  def __post_init__(self):
    for name in self.settings.plant_axes:
      if name not in self.constitution.search_space.axes:
        raise ValueError(
          f'simulation.plant_axes names no axis {name!r}'
          + suggestion(name, self.constitution.search_space.axes)
        )
    for name in ('dev_set', 'external_set'):
      items = getattr(self.constitution, name).items
      if items < len(self.families):
        raise ValueError(
          f'{name}.items = {items} leaves some of the {len(self.families)} families out; raise it'
        )

  @functools.cached_property
  def encoder(self) -> Encoder:
    """Turns recipes into rows of codes."""
    return Encoder(self.constitution.space(), default_values(self.recipe))

  @functools.cached_property
  def posterior(self) -> Effects | None:
    """The effects that real trials show, for the fitted surface; None for the others."""
    if self.settings.surface != 'fitted':
      return None
    return surface.fit_trials(pathlib.Path(self.settings.trials), self.encoder, self.families)

  @functools.cached_property
  def pool(self) -> np.ndarray:
    """Codes of random recipes, [POOL, P], each axis changed with probability 1/2."""
    rng = np.random.default_rng([self.settings.seed, 5])
    recipes = []
    for _ in range(POOL):
      overlay: dict = {}
      for axis in self.encoder.space.axes:
        if rng.random() < 0.5:
          overlay |= draw(axis, rng, {**self.encoder.defaults, **overlay})
      recipes.append(self.encoder.codes(self.encoder.prune(overlay)))
    return np.asarray(recipes)
