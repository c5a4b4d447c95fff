"""Response surfaces: what a recipe does to the log-odds of every family, as functions of whole
arrays of recipes.

A recipe is a row of codes (`meta_agent.encoding`). A surface says what changing the starting recipe
into another one does to each family; the starting recipe's own accuracies are its levels. How each
kind is drawn is in the function of its name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from aevo_jax.config.search_space import draw
from aevo_jax.meta_agent import effects as effects_lib
from aevo_jax.meta_agent.encoding import Encoder, levels, pairs
from aevo_jax.simulation.settings import Settings

OWN, FOREIGN = (
  4.0,
  0.1,
  # what a parameter named after a family does to that family and to the others, by what another
  # does
)
FITTED_DRAW = 0.7  # of the posterior's spread around its mean


@dataclasses.dataclass(frozen=True)
class Surface:
  """families: names. levels: [F] log-odds of the starting recipe. effect: codes [N, P] -> [N, F],
  what a recipe adds to them.
  """

  encoder: Encoder
  families: tuple[str, ...]
  levels: np.ndarray
  effect: Callable[[np.ndarray], np.ndarray]

  def accuracies(self, codes: np.ndarray, luck: np.ndarray | float = 0.0) -> np.ndarray:
    """[N, F]; `luck` is added to the log-odds."""
    return 1 / (1 + np.exp(-(self.levels + self.effect(codes) + luck)))

  def best(
    self, rng: np.random.Generator, *, starts: int = 4, settings: int = 40, sweeps: int = 3
  ) -> float:
    """The highest mean accuracy that a long search finds: from several recipes, axis by axis the
    best of many settings, several times over.
    """
    encoder = self.encoder
    found = float(self.accuracies(encoder.codes({})[None]).mean())
    menus = [
      [draw(axis, rng, encoder.defaults) for _ in range(settings)] for axis in encoder.space.axes
    ]
    codes = [np.asarray([encoder.codes(setting) for setting in menu]) for menu in menus]
    ends = np.cumsum([0, *(len(axis.parameters) for axis in encoder.space.axes)])
    for start in range(starts):
      recipe = encoder.codes({})
      order = rng.permutation(len(menus))
      if start:  # the first starts from the starting recipe
        for axis in order:
          recipe[ends[axis] : ends[axis + 1]] = codes[axis][
            rng.integers(settings), ends[axis] : ends[axis + 1]
          ]
      for _ in range(sweeps):
        for axis in order:
          tries = np.repeat(recipe[None], settings + 2, axis=0)
          tries[:settings, ends[axis] : ends[axis + 1]] = codes[axis][
            :, ends[axis] : ends[axis + 1]
          ]
          tries[settings, ends[axis] : ends[axis + 1]] = encoder.codes({})[
            ends[axis] : ends[axis + 1]
          ]
          recipe = tries[int(np.argmax(self.accuracies(tries).mean(axis=1)))]
      found = max(found, float(self.accuracies(recipe[None]).mean()))
    return found


def make(
  encoder: Encoder,
  families: Sequence[str],
  settings: Settings,
  rng: np.random.Generator,
  posterior: effects_lib.Effects | None = None,
) -> Surface:
  """The surface of one campaign; `posterior` is that of `fit_trials`, for 'fitted'."""
  if settings.surface == 'fitted':
    weights = posterior.means + FITTED_DRAW * (posterior.draws(rng, 1)[0] - posterior.means)
    start = encoder.codes({})
    return Surface(
      encoder,
      tuple(families),
      posterior.levels,
      lambda codes: encoder.differences(start, codes) @ weights.T,
    )
  levels_ = np.log(settings.base / (1 - settings.base)) + settings.base_sd * rng.standard_normal(
    len(families)
  )
  absolute = {'drawn': drawn, 'rugged': rugged, 'flat': flat}[settings.surface](
    encoder, families, settings, rng
  )
  start = encoder.codes({})[None]
  origin = absolute(start)
  costs = (
    settings.change_cost
    * rng.exponential(size=len(encoder.space.axes))
    * (settings.surface != 'flat')
  )
  return Surface(
    encoder,
    tuple(families),
    levels_,
    lambda codes: absolute(codes) - origin - (encoder.changed(start, codes) @ costs)[:, None],
  )


def flat(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
  """Nothing matters."""
  return lambda codes: np.zeros((len(codes), len(families)))


def _sensitivity(encoder: Encoder, families: Sequence[str], rng: np.random.Generator) -> np.ndarray:
  """[P, F]: about 1; of a parameter named after a family OWN for that family and FOREIGN for the
  others.
  """
  sensitivity = 1 + 0.3 * rng.standard_normal((len(encoder.parameters), len(families)))
  for i, parameter in enumerate(encoder.parameters):
    named = parameter.selector.rpartition('.')[2]
    if named in families:
      sensitivity[i] *= [OWN if family == named else FOREIGN for family in families]
  return sensitivity


def drawn(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
  """Of each number a parabola and a step for being in range; of each choice a level; of pairs
  within an axis a product.

  The starting recipe is a good one, as the best of a grid is: optima lie around it, and its choices
  are a standard deviation better than others are on average.
  """
  count, start = len(encoder.parameters), encoder.codes({})
  number = np.asarray([not levels(p) for p in encoder.parameters])
  near = np.where(
    (start >= 0) & (start <= 1) & number,
    start + 0.25 * rng.standard_normal(count),
    rng.random(count),
  )
  optimum, curvature, step = (
    np.clip(near, 0, 1),
    4 * np.abs(rng.standard_normal(count)),
    0.5 * rng.standard_normal(count),
  )
  table = rng.standard_normal((count, max([len(levels(p)) for p in encoder.parameters] + [1])))
  table[np.arange(count), np.where(number, 0, np.maximum(start, 0)).astype(int)] += 1
  sensitivity = settings.effect_sd * _sensitivity(encoder, families, rng)
  at = {p.selector: i for i, p in enumerate(encoder.parameters)}
  joint = np.asarray(
    [(at[a.selector], at[b.selector]) for axis in encoder.space.axes for a, b in pairs(axis)], int
  ).reshape(-1, 2)
  together = 0.5 * rng.standard_normal(len(joint))

  def effect(codes: np.ndarray) -> np.ndarray:
    live = encoder.active(codes)
    in_range = live & ((codes >= 0) & (codes <= 1) | ~number)
    position = (
      np.where(
        number,
        2 * codes - 1,
        table[np.arange(count), np.where(number, 0, np.maximum(codes, 0)).astype(int)],
      )
      * in_range
    )
    alone = np.where(number, step - curvature * (codes - optimum) ** 2, position) * in_range
    pair = position[:, joint[:, 0]] * position[:, joint[:, 1]] * together
    return alone @ sensitivity + pair @ sensitivity[joint].mean(axis=1)

  return effect


def rugged(
  encoder: Encoder, families: Sequence[str], settings: Settings, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
  """Terms that hold in a region of one parameter or of two of different axes, of Student's t with 2
  degrees of freedom in size, each for some families.
  """
  count = len(encoder.parameters)
  owner = np.asarray([a for a, axis in enumerate(encoder.space.axes) for _ in axis.parameters])
  place = rng.integers(count, size=(2 * count, 2))
  alone = (rng.random(2 * count) < 0.3) | (owner[place[:, 0]] == owner[place[:, 1]])
  side, threshold = rng.choice([-1.0, 1.0], size=place.shape), rng.random(place.shape)
  inside = rng.random((*place.shape, max([len(levels(p)) for p in encoder.parameters] + [1]))) < 0.5
  number = np.asarray([not levels(p) for p in encoder.parameters])[place]
  sizes = (
    settings.effect_sd
    * rng.standard_t(2, 2 * count)[:, None]
    * (rng.random((2 * count, len(families))) < 0.4)
  )
  terms, column = np.arange(2 * count)[:, None], np.arange(2)

  def effect(codes: np.ndarray) -> np.ndarray:
    values, live = codes[:, place], encoder.active(codes)[:, place]
    beyond = (side * (values - threshold) > 0) & (values >= 0) & (values <= 1)
    among = inside[terms, column, np.where(number, 0, np.maximum(values, 0)).astype(int)]
    holds = live & np.where(number, beyond, among)
    return (holds[..., 0] & (holds[..., 1] | alone)) @ sizes

  return effect


def fit_trials(
  path: pathlib.Path, encoder: Encoder, families: Sequence[str]
) -> effects_lib.Effects:
  """The statistical agent's posterior given real trials, each compared with all trials of the
  starting recipe.

  Raises:
    ValueError: the trials have other families, or none is of the starting recipe.
  """
  rows = json.loads(path.read_text())
  if any(row['correct'].keys() != set(families) for row in rows):
    raise ValueError(
      f'{path} has trials of other families than {", ".join(families)}; take trials of '
      'the same tasks, or another simulation.surface'
    )
  overlays = [
    encoder.prune({k: v for k, v in row['overlay'].items() if k in encoder.space.selectors})
    for row in rows
  ]
  counts = [
    {f: effects_lib.Count(row['correct'][f], row['total'][f]) for f in families} for row in rows
  ]
  starting = [c for overlay, c in zip(overlays, counts) if not overlay]
  if not starting:
    raise ValueError(
      f'{path} holds no trial of the starting recipe, with which the others are compared'
    )
  pooled = {
    f: effects_lib.Count(sum(c[f].correct for c in starting), sum(c[f].total for c in starting))
    for f in families
  }
  return effects_lib.fit(
    encoder,
    [effects_lib.Trial({}, o, c, pooled, len(starting)) for o, c in zip(overlays, counts) if o],
    pooled,
  )
