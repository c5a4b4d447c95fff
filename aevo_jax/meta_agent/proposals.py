"""What the explorers of a round run: recipes that change several axes at once, chosen together.

Candidates are the recipes that are best under effects drawn from the posterior (Thompson 1933): under each draw the best setting of every axis, and of many
random sets of axes the best. Beside them stand the recipes that gained in their only trial.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.search_space import Axis, SearchSpace, draw, neighbour
from aevo_jax.meta_agent.effects import Effects
from aevo_jax.meta_agent.observations import Observation, by_axis, settings
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, render_overlay

DEAD_END_DISTANCE = 0.2  # in units of each parameter's range
REFINE_STEP = 0.2
NEW, PAST = 15, 10  # random and past settings of an axis to choose from in a round
SUBSETS = 60  # sets of axes, of which an explorer takes the best
ATTEMPTS = 5  # draws of the effects for each explorer, until its recipe is a new one
CHANGED = (0.05, 0.2)  # range of the probability that a set has an axis
DEMOTED = 0.05  # the same of a demoted axis


@dataclasses.dataclass(frozen=True)
class Situation:
  """What a round is planned on: the standing recipe's overlay `base`, pruned; demoted axes and live dead ends; the posterior of the effects."""

  base: dict[str, Any]
  demoted: Sequence[str]
  dead_ends: Sequence[DeadEnd]
  effects: Effects
  min_gain: float

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
    return encoder.differences(encoder.codes(self.base), np.asarray([encoder.codes(o) for o in overlays]))


def explorers(situation: Situation, observations: Mapping[str, Observation], count: int, rng: np.random.Generator) -> list[Assignment]:
  """What the explorers run: second looks, half of them at most, then the candidates that effects drawn from the posterior favour."""
  space, base, effects = situation.space, situation.base, situation.effects
  chosen: dict[str, Assignment] = {}

  def offer(changes: dict[str, Any], reason: str) -> None:
    overlay = situation.overlay(changes)
    changes = {k: v for k, v in changes.items() if k in overlay and v != situation.values.get(k)}
    if changes and len(chosen) < count:
      axes = list(by_axis(changes, space))
      axis = ' + '.join(axes) if len(axes) <= 2 else f'{len(axes)} axes'
      chosen.setdefault(render_overlay(overlay), Assignment(axis, changes, overlay, reason))

  gained = sorted((o for o in observations.values() if _to_retest(o, situation.min_gain)), key=lambda o: -o.dev[0])
  for observation in gained[:(count + 1) // 2]:
    offer(observation.changes, f'retest: gained {observation.dev[0]:+.3f} on dev in one trial, not promoted')

  seen = [situation.overlay(o.changes) for o in observations.values()]
  menus = Menus.draw(situation, observations, rng)
  # The first round has nothing to go by; from the second on, one explorer runs what is expected to be best, and is tried again if it gains.
  greedy = bool(observations)
  tries = ATTEMPTS * count if menus.names else 0
  weights = effects.draws(rng, tries)
  if greedy:
    weights[:1] = effects.means
  for attempt in range(tries):
    if len(chosen) == count:
      break
    changes = menus.best(weights[attempt], effects, rng)
    if changes and situation.overlay(changes) not in seen:
      (gain,), (sd,) = effects.gains(situation.steps([situation.overlay(changes)]))
      how = 'expected' if greedy and attempt == 0 else 'drawn'
      offer(changes, f'expected {gain:+.3f} +- {sd:.3f} on dev, the most promising of {SUBSETS} sets of axes under {how} effects')
  further = Assignment(ANCHOR, {}, dict(base), 'a further anchor: no new setting was found')
  return [*chosen.values(), *[further] * (count - len(chosen))]


def _to_retest(observation: Observation, min_gain: float) -> bool:
  """Gained in its only trial: worth a second look before anything else."""
  return len(observation.dev) == 1 and observation.dev[0] >= min_gain


@dataclasses.dataclass(frozen=True)
class Menus:
  """Settings of every axis to choose from. names: axes that have some; starts: where each begins; settings: of all axes, [M]; steps: [M, f]; share: [A], by
  what the probability that a set has the axis is capped."""

  names: tuple[str, ...]
  starts: np.ndarray
  settings: list[dict[str, Any]]
  steps: np.ndarray
  demoted: np.ndarray

  @classmethod
  def draw(cls, situation: Situation, observations: Mapping[str, Observation], rng: np.random.Generator) -> 'Menus':
    """Random settings, and those of past trials with their numbers moved a little; none of them near a dead end."""
    past = defaultdict(list)
    for axis, setting in settings(observations.values(), situation.space):
      past[axis].append(setting)
    encoder, base = situation.effects.encoder, situation.effects.encoder.codes(situation.base)
    names, sizes, every, steps = [], [], [], []
    for axis in situation.space.axes:
      menu = _menu(axis, past[axis.name], situation, rng)
      codes = np.asarray([encoder.codes(s, base) for s in menu]).reshape(len(menu), len(base))
      moves = encoder.differences(base, codes)
      kept = [at for at, found in enumerate(menu) if moves[at, 1:].any() and found not in menu[:at]]
      if kept:
        names.append(axis.name)
        sizes.append(len(kept))
        every += [menu[at] for at in kept]
        steps.append(moves[kept])
    steps = np.concatenate(steps) if steps else np.zeros((0, encoder.width + 1))
    return cls(tuple(names), np.cumsum([0, *sizes]), every, steps, np.asarray([name in situation.demoted for name in names], bool))

  def best(self, weights: np.ndarray, effects: Effects, rng: np.random.Generator) -> dict[str, Any]:
    """The changes that gain most under some weights [F, f]: the best setting of each axis, and of SUBSETS random sets of axes the best."""
    moves = self.steps @ weights.T
    gains = effects.overall(moves)
    best = np.asarray([start + int(np.argmax(gains[start:end])) for start, end in zip(self.starts, self.starts[1:])])
    share = np.where(self.demoted, DEMOTED, rng.uniform(*CHANGED, size=(SUBSETS, 1)))
    subsets = rng.random((SUBSETS, len(self.names))) < share
    subsets = subsets[subsets.any(axis=1)]
    if not len(subsets):
      return {}
    chosen = subsets[int(np.argmax(effects.overall(subsets @ moves[best])))]
    return {k: v for at in best[chosen] for k, v in self.settings[at].items()}


def _menu(axis: Axis, past: Sequence[dict[str, Any]], situation: Situation, rng: np.random.Generator) -> list[dict[str, Any]]:
  """Settings of one axis to choose from."""
  space, values = situation.space, situation.values
  found = [draw(axis, rng, values) for _ in range(NEW)]
  for index in rng.permutation(len(past))[:PAST]:
    found.append({k: neighbour(v, space.parameter(k), rng, REFINE_STEP) if space.parameter(k).kind in ('float', 'int') else v for k, v in past[index].items()})
  dead = [d.changes for d in situation.dead_ends if d.axis == axis.name]
  return [s for s in found if not any(_distance(s, d, space) < DEAD_END_DISTANCE for d in dead)]


def _distance(a: dict[str, Any], b: dict[str, Any], space: SearchSpace) -> float:
  """Largest difference over the parameters of two settings of one axis, each in units of its range; 1 where only one is bound."""
  largest = 0.0
  for selector in a.keys() | b.keys():
    if selector not in a or selector not in b:
      return 1.0
    parameter = space.parameter(selector)
    if parameter.kind in ('float', 'int'):
      span = lambda v: math.log(v) if parameter.scale == 'log' else v
      largest = max(largest, abs(span(a[selector]) - span(b[selector])) / (span(parameter.high) - span(parameter.low)))
    else:
      largest = max(largest, float(a[selector] != b[selector]))
  return largest
