"""Worlds in which verdicts are given: what recipes, seeds and items do to dev and external.

A world is sampled as answers item by item. Accuracies are in log-odds: a family's level, what the
trial's recipe adds, its seed, what is the external set's alone, and the flaw if one is planted.
Recipes have a part that all families share. benchmarks/verdict_rates.py judges the campaigns.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aevo_jax.simulation.item_set import ItemSet

# Accuracies of six families under the starting recipe.
LEVELS = {
  'micro': (0.10, 0.30, 0.15, 0.90, 0.97, 0.20),
  'mid': (0.30, 0.40, 0.35, 0.60, 0.70, 0.45),
  'nemotron-like': (0.72, 0.65, 0.985, 0.995, 0.97, 0.99),
}
PLANTED = 1  # the family whose dev has the flaw
FLAW = 0.95  # log-odds that it adds to dev
ONSET = 3


@dataclasses.dataclass(frozen=True)
class World:
  """A law of campaigns.

  Attributes:
    levels: accuracies of the families.
    pattern: how the flaw enters from round `ONSET` on: 'none'; 'standing', with the standing
      recipe, in all trials; 'creeping', likewise, and half of it more every round; 'explorers', in
      all explorers by N(1, 1/4) times its size; 'half', in half of them by U(0, 2) times; 'turned',
      external follows the recipes of all families the other way.
    rounds: of the campaign.
    workers: trials a round, one of them an anchor of the standing recipe.
    replicates: of the starting recipe in round 0.
    dev_items: of each family; one number, or one for each.
    external_items: of each family.
    spread: of recipes, sd.
    spread_late: from round `ONSET` on, times `spread`.
    common: share of a recipe's variance that all families have.
    seed_sd: of seeds, on dev and external alike.
    dev_sd: of seeds, on dev alone.
    transfer_sd: of trials, on external alone.
    slope: of external on what recipes do to dev.
    drift: of all trials, in every round.
    external_shift: of external for all trials, or its spread over families if `scattered`.
    scattered: whether `external_shift` is a standard deviation between families.
    round_sd: of external in a round, all trials alike.
    tails: degrees of freedom of Student's t for recipes and seeds; 0 for normal ones.
    unequal: whether a trial's own noise grows with what its recipe does.
    common_items: correlation of two trials' answers to an item, at an accuracy of 1/2.
    selected: explorers of a round that are tried for each one that is kept, by dev on its items.
    following: whether the standing recipe becomes the best of the round by dev.
  """

  levels: tuple[float, ...] = LEVELS['mid']
  pattern: str = 'none'
  rounds: int = 4
  workers: int = 8
  replicates: int = 3
  dev_items: int | tuple[int, ...] = 200
  external_items: int = 500
  spread: float = 0.5
  spread_late: float = 1.0
  common: float = 0.3
  seed_sd: float = 0.085
  dev_sd: float = 0.0
  transfer_sd: float = 0.05
  slope: float = 1.0
  drift: float = 0.0
  external_shift: float = 0.0
  scattered: bool = False
  round_sd: float = 0.0
  tails: int = 0
  unequal: bool = False
  common_items: float = 0.7
  selected: int = 1
  following: bool = False


class Round(NamedTuple):
  """Answers of a round's trials: family -> booleans [trials, items], on dev and on external."""

  dev: list[np.ndarray]
  external: list[np.ndarray]


class Campaign:
  """Samples one campaign of a world, round after round.

  Args:
    world: its law.
    rng: of everything.
  """

  def __init__(self, world: World, rng: np.random.Generator):
    self._world = world
    self._rng = rng
    families = len(world.levels)
    accuracies = np.array(world.levels)
    self._level = np.log(accuracies / (1 - accuracies))
    sizes = world.dev_items
    sizes = (sizes,) * families if isinstance(sizes, int) else sizes
    self._dev = [ItemSet.sample(1, n, world.common_items, rng) for n in sizes]
    self._external = [
      ItemSet.sample(1, world.external_items, world.common_items, rng) for _ in range(families)
    ]
    shift = np.full(families, world.external_shift)
    if world.scattered:
      shift = world.external_shift * rng.standard_normal(families)
    self._shift = shift
    self._standing = np.zeros(families)

  def start(self) -> Round:
    """Samples the replicates of the starting recipe."""
    recipes = np.zeros((self._world.replicates, len(self._level)))
    return self._answers(recipes, np.zeros_like(recipes), 0)

  def round(self, number: int) -> Round:
    """Samples a round, its anchor first.

    Args:
      number: of the round, counted from 1.

    Returns:
      Its answers.
    """
    world = self._world
    recipes = self._recipes(number, world.workers * world.selected)
    flaw = self._flaw(number, len(recipes))
    made = self._answers(recipes, flaw, number)
    if world.selected == 1 and not world.following:
      return made
    accuracy = np.mean([family.mean(axis=1) for family in made.dev], axis=0)
    kept = np.r_[0, 1 + np.argsort(-accuracy[1:])[: world.workers - 1]]
    if world.following:
      self._standing = recipes[kept[np.argmax(accuracy[kept])]]
    return Round([f[kept] for f in made.dev], [f[kept] for f in made.external])

  def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
    """Unit noise, heavy-tailed where the world is."""
    if not self._world.tails:
      return self._rng.standard_normal(shape)
    tails = self._world.tails
    return self._rng.standard_t(tails, shape) / np.sqrt(tails / (tails - 2))

  def _recipes(self, number: int, count: int) -> np.ndarray:
    """[trials, F] what recipes add, the standing one first."""
    world = self._world
    spread = world.spread * (world.spread_late if number >= ONSET else 1.0)
    shared = np.sqrt(world.common) * self._draw((count, 1))
    own = np.sqrt(1 - world.common) * self._draw((count, len(self._level)))
    added = spread * (shared + own)
    added[0] = 0
    return self._standing + added + world.drift * number

  def _flaw(self, number: int, count: int) -> np.ndarray:
    """[trials, F] what the flaw adds to dev."""
    flaw = np.zeros((count, len(self._level)))
    if number < ONSET:
      return flaw
    size = FLAW * np.ones(count)
    pattern = self._world.pattern
    if pattern == 'creeping':
      size *= 0.5 * (number - ONSET + 1)
    elif pattern == 'explorers':
      size *= self._rng.normal(1.0, 0.5, count)
    elif pattern == 'half':
      size *= self._rng.uniform(0, 2, count) * (self._rng.random(count) < 0.5)
    elif pattern != 'standing':
      return flaw
    if pattern in ('explorers', 'half'):
      size[0] = 0  # the anchor
    flaw[:, PLANTED] = size
    return flaw

  def _answers(self, recipes: np.ndarray, flaw: np.ndarray, number: int) -> Round:
    world = self._world
    grows = 1 + np.abs(recipes) / 0.5 if world.unequal else 1.0
    seeds = world.seed_sd * grows * self._draw(recipes.shape)
    dev = recipes + flaw + seeds + world.dev_sd * self._draw(recipes.shape)
    slope = world.slope
    if world.pattern == 'turned' and number >= ONSET:
      slope = -slope
    external = slope * recipes + seeds + world.transfer_sd * grows * self._draw(recipes.shape)
    external = external + self._shift
    if number:
      external = external + world.round_sd * self._rng.standard_normal()
    return Round(self._asked(self._dev, dev), self._asked(self._external, external))

  def _asked(self, sets: list[ItemSet], log_odds: np.ndarray) -> list[np.ndarray]:
    answers = []
    for family, items in enumerate(sets):
      chance = 1 / (1 + np.exp(-(self._level[family] + log_odds[:, [family]])))
      answers.append(items.answers(chance, self._rng)[:, 0])
    return answers


def _of_levels(make: Callable[[str], World], name: str) -> dict[str, World]:
  return {f'{name}, {level}': make(level) for level in LEVELS}


def _at(level: str, **changes) -> World:
  spread = 0.3 if level == 'nemotron-like' else 0.5
  return World(levels=LEVELS[level], **{'spread': spread} | changes)


def planted() -> dict[str, World]:
  """Returns worlds with a flaw, by name."""
  worlds = {}
  for pattern in ('standing', 'creeping', 'explorers', 'half'):
    worlds |= _of_levels(lambda level, p=pattern: _at(level, pattern=p), pattern)
  return worlds | {
    'turned, mid, 6 rounds': World(pattern='turned', rounds=6),
    'standing, mid, 8 replicates': World(pattern='standing', replicates=8),
    'standing, mid, 6 rounds x 4 workers': World(pattern='standing', rounds=6, workers=4),
  }


def nulls() -> dict[str, World]:
  """Returns worlds without a flaw, by name: those of the test's design, and others."""
  worlds = {}
  for name, changes in {
    'coupled': {},
    'spread x .3 from round 3': {'spread_late': 0.3},
    'drift +.4 a round': {'drift': 0.4},
    'drift, external 1 easier': {'drift': 0.4, 'external_shift': 1.0},
    'drift, external 1 harder': {'drift': 0.4, 'external_shift': -1.0},
    'transfer .2': {'transfer_sd': 0.2},
    'slope .7': {'slope': 0.7},
  }.items():
    worlds |= _of_levels(lambda level, c=changes: _at(level, **c), name)
  # This one alarmed in .072 [.054, .095] before a gain was expected in log-odds as well.
  worlds['external differs between families'] = World(drift=0.3, external_shift=0.8, scattered=True)
  return worlds | unlike()


def unlike() -> dict[str, World]:
  """Returns nulls whose mechanism is none of the design's; no rule was chosen by them."""
  return {
    'heavy tails, t(3)': World(tails=3),
    'noise grows with the recipe': World(unequal=True, tails=4),
    'seeds .25': World(seed_sd=0.25),
    'seeds .15 on dev alone': World(dev_sd=0.15),
    'items independent between trials': World(common_items=0.0),
    'best 7 of 28 by dev': World(selected=4),
    'standing recipe follows dev': World(following=True, spread=0.3),
    'external differs, heavy tails, best 7 of 14': World(
      drift=0.2, external_shift=0.6, scattered=True, tails=4, selected=2
    ),
    'external moves .1 with the round': World(round_sd=0.1),
    'two families': World(levels=(0.4, 0.6)),
    'twelve families': World(levels=LEVELS['mid'] * 2),
    'families of 40 to 600 items': World(dev_items=(40, 80, 150, 200, 330, 600)),
    'ceiling': World(levels=(0.97, 0.98, 0.985, 0.99, 0.99, 0.995), spread=0.3, drift=0.2),
    'four workers, six rounds': World(workers=4, rounds=6),
    'two replicates': World(replicates=2),
    'no recipe does anything': World(spread=0.0),
  }
