"""Response surfaces: what a recipe does to the log-odds of every family.

Surfaces are functions of whole arrays of recipes, and a recipe is a row of codes
(`meta_agent.encoding`). The starting recipe's accuracies are a surface's levels; what changing it
into another recipe does to each family is the surface's effect. How each kind is drawn is in the
function of its name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from aevo_jax.config.search_space import draw
from aevo_jax.meta_agent import effects as effects_lib
from aevo_jax.meta_agent.encoding import Encoder, levels, pairs
from aevo_jax.simulation.settings import Settings

# What a parameter named after a family does to that family and to the others, by what another does.
OWN = 4.0
FOREIGN = 0.1
FITTED_DRAW = 0.7  # of the posterior's spread around its mean

Effect = Callable[[np.ndarray], np.ndarray]  # codes [N, P] -> log-odds [N, F]


class Menu(NamedTuple):
  """Settings of one axis among which the long search chooses."""

  columns: slice  # of the axis' parameters among the codes
  codes: np.ndarray  # [settings, P]


@dataclasses.dataclass(frozen=True)
class Surface:
  """What recipes score.

  Attributes:
    encoder: of the search space.
    families: names.
    levels: [F] log-odds of the starting recipe.
    effect: codes [N, P] -> [N, F], what a recipe adds to the levels.
  """

  encoder: Encoder
  families: tuple[str, ...]
  levels: np.ndarray
  effect: Effect

  def accuracies(self, codes: np.ndarray, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Computes the accuracies of recipes.

    Args:
      codes: recipes, [N, P].
      noise: added to the log-odds, [N, F] or a number.

    Returns:
      [N, F].
    """
    return 1 / (1 + np.exp(-(self.levels + self.effect(codes) + noise)))

  def best(
    self, rng: np.random.Generator, *, starts: int = 4, settings: int = 40, sweeps: int = 3
  ) -> float:
    """Searches long for the recipe of the highest mean accuracy.

    Args:
      rng: of the settings, the starts and the order of axes.
      starts: recipes from which it searches. The first is the starting recipe.
      settings: tried of each axis, the best of which is kept.
      sweeps: over all axes, from each start.

    Returns:
      The highest mean accuracy.
    """
    encoder = self.encoder
    highest = float(self.accuracies(encoder.codes({})[None]).mean())
    menus = self._menus(rng, settings)
    for start in range(starts):
      recipe = encoder.codes({})
      order = rng.permutation(len(menus))
      if start:
        for axis in order:
          columns = menus[axis].columns
          recipe[columns] = menus[axis].codes[rng.integers(settings), columns]
      for _ in range(sweeps):
        for axis in order:
          recipe = self._best_setting(recipe, menus[axis])
      highest = max(highest, float(self.accuracies(recipe[None]).mean()))
    return highest

  def _menus(self, rng: np.random.Generator, settings: int) -> list[Menu]:
    """Draws settings of every axis."""
    encoder = self.encoder
    menus = []
    start = 0
    for axis in encoder.space.axes:
      codes = [encoder.codes(draw(axis, rng, encoder.defaults)) for _ in range(settings)]
      stop = start + len(axis.parameters)
      menus.append(Menu(slice(start, stop), np.asarray(codes)))
      start = stop
    return menus

  def _best_setting(self, recipe: np.ndarray, menu: Menu) -> np.ndarray:
    """Returns the recipe with the axis' best setting: of the menu, the starting one, or its own."""
    settings = len(menu.codes)
    tries = np.repeat(recipe[None], settings + 2, axis=0)
    tries[:settings, menu.columns] = menu.codes[:, menu.columns]
    tries[settings, menu.columns] = self.encoder.codes({})[menu.columns]
    return tries[int(np.argmax(self.accuracies(tries).mean(axis=1)))]


def make(
  encoder: Encoder,
  families: Sequence[str],
  settings: Settings,
  rng: np.random.Generator,
  posterior: effects_lib.Effects | None = None,
) -> Surface:
  """Draws the surface of one campaign.

  Args:
    encoder: of the search space.
    families: names.
    settings: kind of the surface and its sizes.
    rng: of the draw.
    posterior: of `fit_trials`, for the kind 'fitted'.

  Returns:
    A surface on which the starting recipe adds nothing.
  """
  if settings.surface == 'fitted':
    return _fitted(encoder, families, posterior, rng)
  noise = settings.base_sd * rng.standard_normal(len(families))
  family_levels = np.log(settings.base / (1 - settings.base)) + noise
  if settings.surface == 'single':
    return Surface(
      encoder, tuple(families), family_levels, single(encoder, family_levels, settings, rng)
    )
  kinds = {'drawn': drawn, 'rugged': rugged, 'flat': flat}
  absolute = kinds[settings.surface](encoder, families, settings, rng)
  start = encoder.codes({})[None]
  origin = absolute(start)
  costs = (
    settings.change_cost
    * rng.exponential(size=len(encoder.space.axes))
    * (settings.surface != 'flat')
  )

  def effect(codes: np.ndarray) -> np.ndarray:
    return absolute(codes) - origin - (encoder.changed(start, codes) @ costs)[:, None]

  return Surface(encoder, tuple(families), family_levels, effect)


def _fitted(
  encoder: Encoder,
  families: Sequence[str],
  posterior: effects_lib.Effects,
  rng: np.random.Generator,
) -> Surface:
  """Draws a surface from the posterior of real trials."""
  weights = posterior.means + FITTED_DRAW * (posterior.draws(rng, 1)[0] - posterior.means)
  start = encoder.codes({})

  def effect(codes: np.ndarray) -> np.ndarray:
    return encoder.differences(start, codes) @ weights.T

  return Surface(encoder, tuple(families), posterior.levels, effect)


def flat(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Effect:
  """Makes an effect of zero: nothing matters.

  Args:
    encoder: is not read.
    families: how many families there are.
    settings: are not read.
    rng: is not used.

  Returns:
    The effect, not yet relative to the starting recipe.
  """
  return lambda codes: np.zeros((len(codes), len(families)))


def single(
  encoder: Encoder, levels_of: np.ndarray, settings: Settings, rng: np.random.Generator
) -> Effect:
  """Draws one value of one choice that gains, while nothing else matters.

  Args:
    encoder: of the search space.
    levels_of: [F] log-odds of the starting recipe.
    settings: the gain in overall accuracy, and what the first family loses meanwhile.
    rng: of the draw.

  Returns:
    The effect, of which every family but the first has one size in log-odds.

  Raises:
    ValueError: the search space has no choice that always holds.
  """
  start = encoder.codes({})
  choices = []
  for i, parameter in enumerate(encoder.parameters):
    if levels(parameter) and not parameter.when:
      choices.append(i)
  if not choices:
    raise ValueError("simulation.surface = 'single' needs a choice without `when` in the space")
  column = choices[rng.integers(len(choices))]
  count = len(levels(encoder.parameters[column]))
  others = [value for value in range(count) if value != start[column]]
  value = others[rng.integers(len(others))]
  moves = _moves_of_gain(levels_of, settings)
  return lambda codes: np.where(codes[:, column] == value, 1.0, 0.0)[:, None] * moves


def _moves_of_gain(levels_of: np.ndarray, settings: Settings) -> np.ndarray:
  """[F] moves of log-odds that gain as much overall, by bisection."""
  before = special.expit(levels_of)
  moves = np.zeros(len(levels_of))
  if settings.slice_harm:
    moves[0] = special.logit(max(before[0] - settings.slice_harm, 1e-3)) - levels_of[0]
  low = 0.0
  high = 20.0
  for _ in range(60):
    middle = (low + high) / 2
    moves[settings.slice_harm > 0 :] = middle
    gain = (special.expit(levels_of + moves) - before).mean()
    low, high = (middle, high) if gain < settings.gain else (low, middle)
  return moves


def _sensitivity(encoder: Encoder, families: Sequence[str], rng: np.random.Generator) -> np.ndarray:
  """Draws how far each parameter moves each family, [P, F], about 1.

  A parameter named after a family has OWN times that for it and FOREIGN times that for the others.
  """
  sensitivity = 1 + 0.3 * rng.standard_normal((len(encoder.parameters), len(families)))
  for i, parameter in enumerate(encoder.parameters):
    named_after = parameter.selector.rpartition('.')[2]
    if named_after in families:
      sensitivity[i] *= np.where(np.asarray(families) == named_after, OWN, FOREIGN)
  return sensitivity


def _is_number(encoder: Encoder) -> np.ndarray:
  """Returns [P], whether a parameter is a number and no choice."""
  return np.asarray([not levels(p) for p in encoder.parameters])


def _most_levels(encoder: Encoder) -> int:
  """Returns how many values the largest choice has; 1 where there are no choices."""
  most = 1
  for parameter in encoder.parameters:
    most = max(most, len(levels(parameter)))
  return most


def _joint_parameters(encoder: Encoder) -> np.ndarray:
  """Returns the positions of pairs of parameters that act together, [pairs, 2]."""
  positions = {p.selector: i for i, p in enumerate(encoder.parameters)}
  joint = []
  for axis in encoder.space.axes:
    for one, other in pairs(axis):
      joint.append((positions[one.selector], positions[other.selector]))
  return np.asarray(joint, int).reshape(-1, 2)


def drawn(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Effect:
  """Draws a smooth effect, a sum over parameters and over pairs of them within an axis.

  A number has a parabola and a step for being in range, a choice has a level for each value, and a
  pair has a product. The starting recipe is a good one, as the best of a grid is: optima lie around
  it, and its choices are a standard deviation better than others are on average.

  Args:
    encoder: of the search space.
    families: names.
    settings: spread of the effects.
    rng: of the draw.

  Returns:
    The effect, not yet relative to the starting recipe.
  """
  count = len(encoder.parameters)
  start = encoder.codes({})
  number = _is_number(encoder)
  every = np.arange(count)
  around = start + 0.25 * rng.standard_normal(count)
  anywhere = rng.random(count)
  near = np.where((start >= 0) & (start <= 1) & number, around, anywhere)
  optimum = np.clip(near, 0, 1)
  curvature = 4 * np.abs(rng.standard_normal(count))
  step = 0.5 * rng.standard_normal(count)
  table = rng.standard_normal((count, _most_levels(encoder)))

  def level_of(codes: np.ndarray) -> np.ndarray:
    return np.where(number, 0, np.maximum(codes, 0)).astype(int)

  table[every, level_of(start)] += 1
  sensitivity = settings.effect_sd * _sensitivity(encoder, families, rng)
  joint = _joint_parameters(encoder)
  together = 0.5 * rng.standard_normal(len(joint))

  def effect(codes: np.ndarray) -> np.ndarray:
    live = encoder.active(codes)
    in_range = live & ((codes >= 0) & (codes <= 1) | ~number)
    position = np.where(number, 2 * codes - 1, table[every, level_of(codes)]) * in_range
    alone = np.where(number, step - curvature * (codes - optimum) ** 2, position) * in_range
    pair = position[:, joint[:, 0]] * position[:, joint[:, 1]] * together
    return alone @ sensitivity + pair @ sensitivity[joint].mean(axis=1)

  return effect


def rugged(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Effect:
  """Draws an effect of terms that each hold in a region of one parameter or of two.

  The two are of different axes. Sizes are of Student's t with 2 degrees of freedom, and each term
  moves some families.

  Args:
    encoder: of the search space.
    families: names.
    settings: spread of the effects.
    rng: of the draw.

  Returns:
    The effect, not yet relative to the starting recipe.
  """
  count = 2 * len(encoder.parameters)
  sizes_of_axes = [len(axis.parameters) for axis in encoder.space.axes]
  axis_of = np.repeat(np.arange(len(sizes_of_axes)), sizes_of_axes)
  position = rng.integers(len(encoder.parameters), size=(count, 2))
  chance = rng.random(count)
  alone = (chance < 0.3) | (axis_of[position[:, 0]] == axis_of[position[:, 1]])
  side = rng.choice([-1.0, 1.0], size=position.shape)
  threshold = rng.random(position.shape)
  inside = rng.random((*position.shape, _most_levels(encoder))) < 0.5
  number = _is_number(encoder)[position]
  sizes = (
    settings.effect_sd
    * rng.standard_t(2, count)[:, None]
    * (rng.random((count, len(families))) < 0.4)
  )
  terms = np.arange(count)[:, None]
  column = np.arange(2)

  def effect(codes: np.ndarray) -> np.ndarray:
    values = codes[:, position]
    live = encoder.active(codes)[:, position]
    beyond = (side * (values - threshold) > 0) & (values >= 0) & (values <= 1)
    among = inside[terms, column, np.where(number, 0, np.maximum(values, 0)).astype(int)]
    holds = live & np.where(number, beyond, among)
    return (holds[..., 0] & (holds[..., 1] | alone)) @ sizes

  return effect


def fit_trials(
  path: pathlib.Path, encoder: Encoder, families: Sequence[str]
) -> effects_lib.Effects:
  """Fits the statistical agent's posterior to real trials.

  Each trial is compared with all trials of the starting recipe.

  Args:
    path: JSON file of trials, as benchmarks/agent_comparison.py collects it.
    encoder: of the search space. Bindings outside of it are left out.
    families: names.

  Returns:
    The posterior of the effects.

  Raises:
    ValueError: the trials have other families, or none is of the starting recipe.
  """
  rows = json.loads(path.read_text())
  starting = []
  others = []
  for row in rows:
    if row['correct'].keys() != set(families):
      raise ValueError(
        f'{path} has trials of other families than {", ".join(families)}; take trials of '
        'the same tasks, or another simulation.surface'
      )
    overlay = {k: v for k, v in row['overlay'].items() if k in encoder.space.selectors}
    overlay = encoder.prune(overlay)
    counts = {f: effects_lib.Count(row['correct'][f], row['total'][f]) for f in families}
    if overlay:
      others.append((overlay, counts))
    else:
      starting.append(counts)
  if not starting:
    raise ValueError(
      f'{path} holds no trial of the starting recipe, with which the others are compared'
    )
  pooled = dict.fromkeys(families, effects_lib.Count(0, 0))
  for counts in starting:
    for family, count in counts.items():
      before = pooled[family]
      pooled[family] = effects_lib.Count(before.correct + count.correct, before.total + count.total)
  trials = [
    effects_lib.Trial({}, overlay, counts, pooled, len(starting)) for overlay, counts in others
  ]
  return effects_lib.fit(encoder, trials, pooled)
