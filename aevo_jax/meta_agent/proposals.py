"""What the explorers of a round run: recipes that change several axes at once, chosen together.

Candidates are recipes that are best under effects drawn from the posterior (Thompson 1933): under
each draw the best setting of every axis, and of many random sets of axes the best. Beside them
stand all changes that were tried before. Which of them run is what `promotion_value` says.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.search_space import Axis, SearchSpace, draw, neighbour
from aevo_jax.meta_agent import promotion_value
from aevo_jax.meta_agent.effects import Effects
from aevo_jax.meta_agent.observations import Observation, by_axis, settings
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, render_overlay
from aevo_jax.meta_agent.promotion_value import Outlook

DEAD_END_DISTANCE = 0.2  # in units of each parameter's range
REFINE_STEP = 0.2
NEW, PAST = 15, 10  # random and past settings of an axis to choose from in a round
SUBSETS = 60  # sets of axes, of which a candidate is the best
CANDIDATES = 32  # draws of the effects, each with a candidate
DRAWS = 128  # of the candidates' gains, to see what they are worth
CHANGED = (0.05, 0.2)  # range of the probability that a set has an axis
DEMOTED = 0.05  # the same of a demoted axis


@dataclasses.dataclass(frozen=True)
class Situation:
  """What a round is planned on: the standing recipe's overlay `base`, pruned; demoted axes and live
  dead ends; the posterior of the effects.
  """

  base: dict[str, Any]
  demoted: Sequence[str]
  dead_ends: Sequence[DeadEnd]
  effects: Effects
  outlook: Outlook

  @property
  def space(self) -> SearchSpace:
    return self.effects.encoder.space

  @property
  def values(self) -> dict[str, Any]:
    """Of every parameter of the standing recipe."""
    return {**self.effects.encoder.defaults, **self.base}

  def overlay(self, changes: dict[str, Any]) -> dict[str, Any]:
    """The standing recipe with some changes."""
    return self.effects.encoder.prune(self.base | changes)

  def steps(self, overlays: Sequence[dict[str, Any]]) -> np.ndarray:
    """[N, f]: what the overlays have more of than the standing recipe."""
    encoder = self.effects.encoder
    return encoder.differences(
      encoder.codes(self.base), np.asarray([encoder.codes(o) for o in overlays])
    )


def explorers(
  situation: Situation,
  observations: Mapping[str, Observation],
  count: int,
  rng: np.random.Generator,
) -> list[Assignment]:
  """What the explorers run: of the changes that were tried before and of new ones, those that are
  worth most together.
  """
  effects = situation.effects
  tried = [o for o in observations.values() if situation.overlay(o.changes) != situation.base]
  changes = [o.changes for o in tried] + _new(situation, observations, rng)
  if not changes:
    return [_further_anchor(situation)] * count
  steps = situation.steps([situation.overlay(c) for c in changes])
  looks = np.zeros((2, len(changes)))
  looks[:, : len(tried)] = [[len(o.external) for o in tried], [sum(o.external) for o in tried]]
  means, sds = effects.gains(steps)
  chosen: dict[str, Assignment] = {}
  for at in promotion_value.choose(
    effects.overall(effects.draw_steps(steps, rng, DRAWS)), looks[0], looks[1], situation.outlook
  ):
    reason = f'expected {means[at]:+.3f} +- {sds[at]:.3f} on dev'
    if at < len(tried):
      reason = (
        f'retest: gained {np.mean(tried[at].dev):+.3f} on dev in {len(tried[at].dev)} '
        f'trial(s), not promoted; {reason}'
      )
    assignment = _assignment(situation, changes[at], reason)
    chosen.setdefault(render_overlay(assignment.overlay), assignment)
    if len(chosen) == count:
      break
  return [*chosen.values(), *[_further_anchor(situation)] * (count - len(chosen))]


def _new(
  situation: Situation, observations: Mapping[str, Observation], rng: np.random.Generator
) -> list[dict[str, Any]]:
  """Changes that were not tried before: the best ones as expected, and under effects drawn from the
  posterior.
  """
  menus = Menus.draw(situation, observations, rng)
  if not menus.names:
    return []
  seen, found = [situation.overlay(o.changes) for o in observations.values()], []
  weights = np.concatenate(
    [situation.effects.means[None], situation.effects.draws(rng, CANDIDATES)]
  )
  for changes in menus.best(weights, situation.effects, rng):
    if changes and (overlay := situation.overlay(changes)) not in seen:
      seen.append(overlay)
      found.append(changes)
  return found


def _assignment(situation: Situation, changes: dict[str, Any], reason: str) -> Assignment:
  """Leaves out of the changes what is dead or holds already."""
  overlay = situation.overlay(changes)
  changes = {k: v for k, v in changes.items() if k in overlay and v != situation.values.get(k)}
  axes = list(by_axis(changes, situation.space))
  return Assignment(
    ' + '.join(axes) if len(axes) <= 2 else f'{len(axes)} axes', changes, overlay, reason
  )


def _further_anchor(situation: Situation) -> Assignment:
  return Assignment(ANCHOR, {}, dict(situation.base), 'a further anchor: no new setting was found')


@dataclasses.dataclass(frozen=True)
class Menus:
  """Settings of every axis to choose from. names: the A axes that have some; starts: [A + 1], where
  each begins and the last ends; settings: [M] of all axes; steps: [M, f]; demoted: [A] bool."""

  names: tuple[str, ...]
  starts: np.ndarray
  settings: list[dict[str, Any]]
  steps: np.ndarray
  demoted: np.ndarray

  @classmethod
  def draw(
    cls, situation: Situation, observations: Mapping[str, Observation], rng: np.random.Generator
  ) -> 'Menus':
    """Random settings, and those of past trials with their numbers moved a little; none of them
    near a dead end.
    """
    past = defaultdict(list)
    for axis, setting in settings(observations.values(), situation.space):
      past[axis].append(setting)
    encoder, base = situation.effects.encoder, situation.effects.encoder.codes(situation.base)
    drawn = [_menu(axis, past[axis.name], situation, rng) for axis in situation.space.axes]
    every = [setting for menu in drawn for setting in menu]
    if not every:
      return cls((), np.zeros(1, int), [], np.zeros((0, encoder.width + 1)), np.zeros(0, bool))
    steps = encoder.differences(
      base, np.asarray([encoder.codes(setting, base) for setting in every])
    )
    moved, starts = steps[:, 1:].any(axis=1), np.cumsum([0, *map(len, drawn)])
    kept = [
      [
        start + at
        for at, setting in enumerate(menu)
        if moved[start + at] and setting not in menu[:at]
      ]
      for start, menu in zip(starts, drawn)
    ]
    names = [axis.name for axis, places in zip(situation.space.axes, kept) if places]
    chosen = [at for places in kept for at in places]
    return cls(
      tuple(names),
      np.cumsum([0, *(len(places) for places in kept if places)]),
      [every[at] for at in chosen],
      steps[chosen],
      np.asarray([name in situation.demoted for name in names], bool),
    )

  def best(
    self, weights: np.ndarray, effects: Effects, rng: np.random.Generator
  ) -> list[dict[str, Any]]:
    """For each of some draws of the weights [D, F, f] the changes that gain most: the best setting
    of each axis, and of SUBSETS random sets of axes the best.
    """
    moves = self.steps @ weights.transpose(0, 2, 1)  # [D, M, F]
    gains = effects.overall(moves)
    best = np.stack(
      [
        start + gains[:, start:end].argmax(axis=1)
        for start, end in zip(self.starts, self.starts[1:])
      ],
      axis=1,
    )
    subsets = np.stack(
      [
        np.where(self.demoted, DEMOTED, rng.uniform(*CHANGED, size=(SUBSETS, 1)))
        > rng.random((SUBSETS, len(self.names)))
        for _ in weights
      ]
    )
    worth = np.where(
      subsets.any(axis=2),
      effects.overall(subsets @ np.take_along_axis(moves, best[..., None], axis=1)),
      -np.inf,
    )
    chosen = subsets[np.arange(len(weights)), worth.argmax(axis=1)]
    return [
      {k: v for at in settings[axes] for k, v in self.settings[at].items()}
      for settings, axes in zip(best, chosen)
    ]


def _menu(
  axis: Axis, past: Sequence[dict[str, Any]], situation: Situation, rng: np.random.Generator
) -> list[dict[str, Any]]:
  """Settings of one axis to choose from."""
  space, values = situation.space, situation.values
  found = [draw(axis, rng, values) for _ in range(NEW)]
  for index in rng.permutation(len(past))[:PAST]:
    found.append(
      {
        k: neighbour(v, space.parameter(k), rng, REFINE_STEP)
        if space.parameter(k).kind in ('float', 'int')
        else v
        for k, v in past[index].items()
      }
    )
  dead = [d.changes for d in situation.dead_ends if d.axis == axis.name]
  return [s for s in found if not any(_distance(s, d, space) < DEAD_END_DISTANCE for d in dead)]


def _distance(a: dict[str, Any], b: dict[str, Any], space: SearchSpace) -> float:
  """Largest difference over the parameters of two settings of one axis, each in units of its range;
  1 where only one is bound.
  """
  largest = 0.0
  for selector in a.keys() | b.keys():
    if selector not in a or selector not in b:
      return 1.0
    parameter = space.parameter(selector)
    if parameter.kind in ('float', 'int'):
      span = lambda v: math.log(v) if parameter.scale == 'log' else v
      largest = max(
        largest,
        abs(span(a[selector]) - span(b[selector])) / (span(parameter.high) - span(parameter.low)),
      )
    else:
      largest = max(largest, float(a[selector] != b[selector]))
  return largest
