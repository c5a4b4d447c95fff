"""Proposals for the explorers of a round: recipes that change several axes, chosen together.

Candidates are recipes that are best under effects sampled from the posterior (Thompson 1933): under
each sample the best setting of every axis, and of many random sets of axes the best. Beside them
stand all changes that were tried before. `promotion_value` decides which of them run.
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import Parameter
from aevo_jax.config.search_space import Axis, SearchSpace, draw, neighbour
from aevo_jax.meta_agent import promotion_value
from aevo_jax.meta_agent.effects import Effects
from aevo_jax.meta_agent.observations import Observation, by_axis, settings
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, render_overlay
from aevo_jax.meta_agent.promotion_rule import Candidate
from aevo_jax.meta_agent.promotion_value import Outlook, Tried

# In units of each parameter's range.
DEAD_END_DISTANCE = 0.2
REFINE_STEP = 0.2
# New and past settings of an axis to choose from in a round.
NEW = 15
PAST = 10
# Sets of axes, of which a candidate is the best.
SUBSETS = 60
# Samples of the effects, each with a candidate.
CANDIDATES = 32
# Samples of the candidates' gains, to see what they are worth.
SAMPLES = 128
# Range of the probability that a set has an axis, and that of a demoted axis.
CHANGED = (0.05, 0.2)
DEMOTED = 0.05


@dataclasses.dataclass(frozen=True)
class Situation:
  """What a round is planned on.

  Attributes:
    standing: the standing recipe's overlay.
    base: the same, pruned.
    demoted: names of axes.
    dead_ends: those that are live.
    effects: the posterior.
    protected: [F] bool, families that may not fall.
    outlook: what the promotion rule will ask for.
    constitution: holds that rule.
  """

  standing: dict[str, Any]
  base: dict[str, Any]
  demoted: Sequence[str]
  dead_ends: Sequence[DeadEnd]
  effects: Effects
  protected: np.ndarray
  outlook: Outlook
  constitution: Constitution

  @property
  def space(self) -> SearchSpace:
    """The search space."""
    return self.effects.encoder.space

  @property
  def values(self) -> dict[str, Any]:
    """Values of every parameter in the standing recipe."""
    return {**self.effects.encoder.defaults, **self.base}

  def overlay(self, changes: dict[str, Any]) -> dict[str, Any]:
    """Makes the overlay of the standing recipe with some changes.

    Args:
      changes: selector -> value.

    Returns:
      The overlay, pruned.
    """
    return self.effects.encoder.prune(self.base | changes)

  def excess(self, moves: np.ndarray) -> np.ndarray:
    """Computes by how much protected families fall below their floor.

    Args:
      moves: [..., F] by which the families' log-odds move.

    Returns:
      [...] sums over families, 0 where none falls too far.
    """
    levels = self.effects.levels
    falls = special.expit(levels) - special.expit(levels + moves)
    beyond = np.maximum(falls - self.constitution.promotion.family_floor, 0.0)
    return beyond @ self.protected

  def worth(self, moves: np.ndarray) -> np.ndarray:
    """Computes the gain in overall accuracy, less what protected families fall too far.

    Args:
      moves: [..., F] by which the families' log-odds move.

    Returns:
      [...] by which new changes are compared.
    """
    return self.effects.overall(moves) - self.excess(moves)

  def steps(self, overlays: Sequence[dict[str, Any]]) -> np.ndarray:
    """Computes what overlays have more of than the standing recipe.

    Args:
      overlays: N of them.

    Returns:
      [N, f] steps of features.
    """
    encoder = self.effects.encoder
    codes = np.asarray([encoder.codes(overlay) for overlay in overlays])
    return encoder.differences(encoder.codes(self.base), codes)


def explorers(
  situation: Situation,
  observations: Mapping[str, Observation],
  candidates: Sequence[Candidate],
  count: int,
  rng: np.random.Generator,
) -> list[Assignment]:
  """Assigns the explorers the changes, tried before or new, that are worth most together.

  Args:
    situation: of the round.
    observations: all looks at all changes.
    candidates: of the standing recipe.
    count: explorers.
    rng: seeded generator.

  Returns:
    Assignments, a change several times where that many looks at it are wanted; further anchors
    where there are too few changes.
  """
  effects = situation.effects
  past = []
  for observation in observations.values():
    if situation.overlay(observation.changes) != situation.base:
      past.append(observation)
  changes = [o.changes for o in past] + _new(situation, observations, rng)
  if not changes:
    return [_further_anchor(situation)] * count
  steps = situation.steps([situation.overlay(change) for change in changes])
  means, sds = effects.gains(steps)
  moves = effects.draw_steps(steps, rng, SAMPLES)
  gains = effects.overall(moves)
  # A change with which a protected family falls is not promoted, whatever it gains.
  gains = np.where(situation.excess(moves) > 0, np.minimum(gains, 0.0), gains)
  tried = _tried(len(changes), past, candidates, situation)
  gains[:, : len(past)] = _seen(gains[:, : len(past)], past, situation, rng)
  chosen: list[Assignment] = []
  overlays: set[str] = set()
  for block in promotion_value.choose(gains, tried, situation.outlook, count):
    at = block.change
    reason = f'expected {means[at]:+.3f} +- {sds[at]:.3f} on dev'
    if at < len(past):
      dev = past[at].dev
      reason = (
        f'retest: gained {np.mean(dev):+.3f} on dev in {len(dev)} trial(s), not promoted; {reason}'
      )
    assignment = _assignment(situation, changes[at], reason)
    overlay = render_overlay(assignment.overlay)
    if overlay not in overlays:
      overlays.add(overlay)
      chosen += [assignment] * block.trials
  return [*chosen, *[_further_anchor(situation)] * (count - len(chosen))]


def _tried(
  count: int, past: Sequence[Observation], candidates: Sequence[Candidate], situation: Situation
) -> Tried:
  """What the promotion rule knows of `count` changes, of which the past ones come first."""
  tried = Tried.none(count)
  by_changes = {
    render_overlay(c.changes): c for c in candidates if c.standing == situation.standing
  }
  for i, observation in enumerate(past):
    tried.known[i] = situation.standing in observation.standings
    candidate = by_changes.get(render_overlay(observation.changes))
    if candidate is None:
      continue
    tried.looks[i] = len(candidate.looks)
    tried.total[i] = len(candidate.looks) * candidate.gain
    tried.tests[i] = candidate.tests
    tried.barred[i] = candidate.number >= situation.constitution.promotion.candidates or bool(
      candidate.fallen(situation.constitution)
    )
  return tried


def _seen(
  gains: np.ndarray, past: Sequence[Observation], situation: Situation, rng: np.random.Generator
) -> np.ndarray:
  """Moves samples of gains towards the external ones that were seen, each change for itself.

  A normal posterior: g + k (mean seen + its error - g), with k = var g / (var g + var of the mean).
  """
  outlook = situation.outlook
  moved = gains.copy()
  for i, observation in enumerate(past):
    looks = len(observation.external)
    if not looks:
      continue
    error = np.hypot(outlook.change.sd / looks**0.5, outlook.anchor.sd / observation.anchors**0.5)
    variance = np.var(gains[:, i])
    weight = variance / (variance + error**2)
    seen = np.mean(observation.external) + error * rng.standard_normal(len(gains))
    moved[:, i] += weight * (seen - gains[:, i])
  return moved


def _new(
  situation: Situation, observations: Mapping[str, Observation], rng: np.random.Generator
) -> list[dict[str, Any]]:
  """Changes that were not tried: the best ones as expected, and under sampled effects."""
  menus = Menus.sample(situation, observations, rng)
  if not menus.names:
    return []
  seen = [situation.overlay(o.changes) for o in observations.values()]
  effects = situation.effects
  weights = np.concatenate([effects.means[None], effects.draws(rng, CANDIDATES)])
  candidates = []
  for changes in menus.best(weights, situation, rng):
    overlay = situation.overlay(changes)
    if changes and overlay not in seen:
      seen.append(overlay)
      candidates.append(changes)
  return candidates


def _assignment(situation: Situation, changes: dict[str, Any], reason: str) -> Assignment:
  """Leaves out of the changes what is dead or holds already."""
  overlay = situation.overlay(changes)
  values = situation.values
  live = {}
  for selector, value in changes.items():
    if selector in overlay and value != values.get(selector):
      live[selector] = value
  axes = list(by_axis(live, situation.space))
  name = ' + '.join(axes) if len(axes) <= 2 else f'{len(axes)} axes'
  return Assignment(name, live, overlay, reason)


def _further_anchor(situation: Situation) -> Assignment:
  return Assignment(ANCHOR, {}, dict(situation.base), 'a further anchor: no new setting was found')


@dataclasses.dataclass(frozen=True)
class Menus:
  """Settings of every axis to choose from.

  Attributes:
    names: of the A axes that have some.
    starts: [A + 1], where the settings of each axis begin and the last end.
    settings: [M] of all axes.
    steps: [M, f] of features.
    demoted: [A] bool.
  """

  names: tuple[str, ...]
  starts: np.ndarray
  settings: list[dict[str, Any]]
  steps: np.ndarray
  demoted: np.ndarray

  @classmethod
  def sample(
    cls, situation: Situation, observations: Mapping[str, Observation], rng: np.random.Generator
  ) -> 'Menus':
    """Samples settings, and moves the numbers of past ones a little; none is near a dead end.

    Args:
      situation: of the round.
      observations: all looks at all changes.
      rng: seeded generator.

    Returns:
      The settings that differ from the standing recipe.
    """
    past = defaultdict(list)
    for axis, setting in settings(observations.values(), situation.space):
      past[axis].append(setting)
    encoder = situation.effects.encoder
    base = encoder.codes(situation.base)
    names = []
    starts = [0]
    kept: list[dict[str, Any]] = []
    steps = [np.zeros((0, encoder.width + 1))]
    for axis in situation.space.axes:
      menu = _menu(axis, past[axis.name], situation, rng)
      if not menu:
        continue
      codes = np.asarray([encoder.codes(setting, base) for setting in menu])
      menu_steps = encoder.differences(base, codes)
      moved = menu_steps[:, 1:].any(axis=1)
      places = []
      for i, setting in enumerate(menu):
        if moved[i] and setting not in menu[:i]:
          places.append(i)
          kept.append(setting)
      if places:
        names.append(axis.name)
        starts.append(len(kept))
        steps.append(menu_steps[places])
    demoted = np.asarray([name in situation.demoted for name in names], bool)
    return cls(tuple(names), np.asarray(starts), kept, np.concatenate(steps), demoted)

  def best(
    self, weights: np.ndarray, situation: Situation, rng: np.random.Generator
  ) -> list[dict[str, Any]]:
    """Finds the changes that gain most under each of some weights.

    Args:
      weights: [D, F, f].
      situation: of the round, for levels and floors of families.
      rng: seeded generator.

    Returns:
      D changes: the best setting of each axis, of the best of SUBSETS random sets of axes.
    """
    moves = self.steps @ weights.transpose(0, 2, 1)  # [D, M, F]
    gains = situation.worth(moves)
    columns = []
    for start, end in itertools.pairwise(self.starts):
      columns.append(start + gains[:, start:end].argmax(axis=1))
    best = np.stack(columns, axis=1)
    subsets = np.stack([self._subsets(rng) for _ in weights])
    totals = situation.worth(subsets @ np.take_along_axis(moves, best[..., None], axis=1))
    worth = np.where(subsets.any(axis=2), totals, -np.inf)
    chosen = subsets[np.arange(len(weights)), worth.argmax(axis=1)]
    changes = []
    for places, axes in zip(best, chosen, strict=True):
      together: dict[str, Any] = {}
      for place in places[axes]:
        together |= self.settings[place]
      changes.append(together)
    return changes

  def _subsets(self, rng: np.random.Generator) -> np.ndarray:
    """[SUBSETS, A] bool: random sets of axes."""
    probability = np.where(self.demoted, DEMOTED, rng.uniform(*CHANGED, size=(SUBSETS, 1)))
    return probability > rng.random((SUBSETS, len(self.names)))


def _menu(
  axis: Axis, past: Sequence[dict[str, Any]], situation: Situation, rng: np.random.Generator
) -> list[dict[str, Any]]:
  """Settings of one axis to choose from."""
  space = situation.space
  values = situation.values
  sampled = [draw(axis, rng, values) for _ in range(NEW)]
  for index in rng.permutation(len(past))[:PAST]:
    moved = {}
    for selector, value in past[index].items():
      parameter = space.parameter(selector)
      if parameter.kind in ('float', 'int'):
        value = neighbour(value, parameter, rng, REFINE_STEP)
      moved[selector] = value
    sampled.append(moved)
  dead = [d.changes for d in situation.dead_ends if d.axis == axis.name]
  menu = []
  for setting in sampled:
    if not any(_distance(setting, d, space) < DEAD_END_DISTANCE for d in dead):
      menu.append(setting)
  return menu


def _distance(a: dict[str, Any], b: dict[str, Any], space: SearchSpace) -> float:
  """Largest difference over the parameters of two settings of one axis.

  Each is in units of its range; 1 where only one of the settings binds it.
  """
  largest = 0.0
  for selector in a.keys() | b.keys():
    if selector not in a or selector not in b:
      return 1.0
    difference = float(a[selector] != b[selector])
    parameter = space.parameter(selector)
    if parameter.kind in ('float', 'int'):
      span = _scaled(parameter, parameter.high) - _scaled(parameter, parameter.low)
      apart = _scaled(parameter, a[selector]) - _scaled(parameter, b[selector])
      difference = abs(apart) / span
    largest = max(largest, difference)
  return largest


def _scaled(parameter: Parameter, value: float) -> float:
  return math.log(value) if parameter.scale == 'log' else value
