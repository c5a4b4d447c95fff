"""What every setting does to accuracy, estimated from all trials at once: Bayesian linear regression of log-odds on the settings, family by family.

The log-odds of a family's items are taken to be a sum of one function per parameter: a level for each choice, a parabola for a number; of one per pair of
parameters of an axis, one of which is a choice, since an axis is what may act together (an update rule has learning rates of its own); and of what
changing an axis costs on average, since most changes of a good recipe lose. Log-odds, because what helps one family by half helps little where
another change has brought the family down, and nothing falls below 0 or rises above 1. A trial's step from its anchors is then linear in the
difference of their features, with normal weights (ridge), so the posterior has a closed form (Bishop 2006, eq. 3.49-3.51) and a few trials that each
change several axes already say something about each of them.

A parameter named after a family (`solution_style.unit_conversion`) is expected to move that family a lot and the others little. So its effect
shows in the accuracy of its own family even where the trial's other changes hide it overall.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.parameter import Parameter, to_unit, unmet_conditions
from aevo_jax.config.search_space import Axis, SearchSpace

# Standard deviations in log-odds. Those marked * are of overall accuracy; of a family's they are larger by 1 / sqrt(its share of the items), so that
# independent families add up to them.
PRIOR_SD = 0.12  # * of a weight: how much a setting is expected to do
OWN_SD = 1.0  # the same of a choice named after a family, to that family
OWN_NUMBER_SD = 0.6  # of a number named after a family: amounts move less than kinds
FOREIGN_SD = 0.1  # and to another family
SEED_SD = 0.02  # * between seeds of one recipe, beside the items' luck
MISFIT_SD = 0.08  # * of what a sum of effects leaves out, times the root of the number of axes that are changed


class Count(NamedTuple):
  """Items of a family, and how many were right."""

  correct: int
  total: int

  @property
  def log_odds(self) -> float:
    """With half an item added on each side, so that none is infinite."""
    return math.log((self.correct + 0.5) / (self.total - self.correct + 0.5))

  @property
  def variance(self) -> float:
    """Of the log-odds, by the items' luck."""
    return 1 / (self.correct + 0.5) + 1 / (self.total - self.correct + 0.5)


class Trial(NamedTuple):
  """before, after: overlays of the anchors and the trial. anchors: by family, all anchors of `before` together, `replicates` of them, which all trials with
  the same `before` share."""

  before: Mapping[str, Any]
  after: Mapping[str, Any]
  counts: Mapping[str, Count]
  anchors: Mapping[str, Count]
  replicates: int


def _features(parameter: Parameter, values: Mapping[str, Any]) -> list[float]:
  """A level each for choices and bools; one, position and its square for numbers in range; zeros elsewhere, and while a condition is not met."""
  levels = parameter.choices if parameter.kind == 'choice' else (False, True) if parameter.kind == 'bool' else ()
  if unmet_conditions(parameter, values):
    return [0.0] * (len(levels) or 3)
  value = values[parameter.selector]
  if levels:
    return [float(value == level) for level in levels]
  if not parameter.low <= value <= parameter.high:  # a default such as no averaging at all
    return [0.0] * 3
  position = 2 * to_unit(parameter, value) - 1
  return [1.0, position, position * position]


def _pairs(axis: Axis) -> Iterator[tuple[Parameter, Parameter]]:
  """The pairs of an axis whose joint effect is estimated."""
  return (pair for pair in itertools.combinations(axis.parameters, 2) if any(p.kind in ('choice', 'bool') for p in pair))


def _size(parameter: Parameter) -> int:
  """The number of its features."""
  return len(parameter.choices) if parameter.kind == 'choice' else 2 if parameter.kind == 'bool' else 3


def _width(axis: Axis) -> int:
  """The number of features of an axis."""
  return sum(map(_size, axis.parameters)) + sum(_size(first) * _size(second) for first, second in _pairs(axis))


def _axis_features(axis: Axis, values: Mapping[str, Any]) -> list[float]:
  """The features of every parameter, then the products of those of every pair."""
  single = {p.selector: _features(p, values) for p in axis.parameters}
  joint = [x * y for first, second in _pairs(axis) for x in single[first.selector] for y in single[second.selector]]
  return [*itertools.chain(*single.values()), *joint]


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


@dataclasses.dataclass(frozen=True)
class Effects:
  """The posterior of all weights, of F families: levels [F], the standing recipe's log-odds; shares [F] of the items; means [F, f], square roots of the
  covariances [F, f, f]."""

  space: SearchSpace
  defaults: Mapping[str, Any]
  levels: np.ndarray
  shares: np.ndarray
  means: np.ndarray
  roots: np.ndarray

  def difference(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> np.ndarray:
    """[f]: what `after` has more of than `before`."""
    return difference(self.space, self.defaults, before, after)

  def overall(self, steps: np.ndarray) -> np.ndarray:
    """[...]: the overall accuracy that the standing recipe gains if its families' log-odds move by steps [..., F]."""
    return (_sigmoid(self.levels + steps) - _sigmoid(self.levels)) @ self.shares

  def gain(self, before: Mapping[str, Any], after: Mapping[str, Any], *, own: bool = False) -> tuple[float, float]:
    """Overall accuracy of `after` minus that of `before`, the standing recipe: at the posterior mean, and its standard deviation to first order; `own`
    leaves out what any change costs on average."""
    step = self.difference(before, after)
    if own:
      step[0] = 0.0
    means, deviations = self.means @ step, np.linalg.norm(step @ self.roots, axis=-1)
    spread = (_sigmoid(self.levels + means + deviations) - _sigmoid(self.levels + means - deviations)) / 2
    return float(self.overall(means)), float(np.linalg.norm(self.shares * spread))

  def draw(self, rng: np.random.Generator) -> np.ndarray:
    """[F, f] weights, from the posterior."""
    return self.means + np.einsum('kij,kj->ki', self.roots, rng.standard_normal(self.means.shape))


def difference(space: SearchSpace, defaults: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> np.ndarray:
  """[f]: the number of axes that differ, then the difference of the features of all parameters in the space's order."""
  old, new = {**defaults, **before}, {**defaults, **after}
  differs = lambda selectors: any(old[s] != new[s] for s in selectors)
  changed, steps = 0, []
  for axis in space.axes:
    changed += differs(p.selector for p in axis.parameters)
    if differs(s for p in axis.parameters for s in (p.selector, *p.when)):
      steps += [y - x for x, y in zip(_axis_features(axis, old), _axis_features(axis, new))]
    else:
      steps += [0.0] * _width(axis)
  return np.asarray([changed, *steps], float)


def _prior(space: SearchSpace, family: str, families: Iterable[str], share: float) -> np.ndarray:
  """[f] standard deviations of the weights for one family."""
  others, general = set(families) - {family}, PRIOR_SD / math.sqrt(share)

  def deviation(parameter: Parameter) -> float:
    named = parameter.selector.rpartition('.')[2]
    own = OWN_NUMBER_SD if parameter.kind in ('float', 'int') else OWN_SD
    return own if named == family else FOREIGN_SD if named in others else general

  deviations = [general]
  for axis in space.axes:
    deviations += [deviation(p) for p in axis.parameters for _ in range(_size(p))]
    deviations += [max(deviation(first), deviation(second)) for first, second in _pairs(axis) for _ in range(_size(first) * _size(second))]
  return np.asarray(deviations)


def fit(space: SearchSpace, defaults: Mapping[str, Any], trials: Iterable[Trial], standing: Mapping[str, Count]) -> Effects:
  """The posterior after some trials.

  Args:
    space: the search space. defaults: selector -> value where an overlay binds nothing.
    standing: by family, what the standing recipe got right. Every trial has counts of the same families.
  """
  trials = list(trials)
  rows = np.asarray([difference(space, defaults, t.before, t.after) for t in trials])
  size = len(difference(space, defaults, {}, {}))
  # The luck of each standing recipe's anchors is estimated along with the weights, since all who are compared with them share it.
  names = [repr(sorted(t.before.items())) for t in trials]
  anchors = {name: t for name, t in zip(names, trials)}
  shared = np.asarray([[float(name == anchor) for anchor in anchors] for name in names])
  design = np.hstack([rows, shared]) if trials else np.zeros((0, size))
  total = sum(count.total for count in standing.values())
  shares = np.asarray([count.total / total for count in standing.values()]) if total else np.full(len(standing), 1 / len(standing))
  means, roots = [], []
  for family, share in zip(standing, shares):
    luck = [math.sqrt(t.anchors[family].variance + SEED_SD**2 / share / t.replicates) for t in anchors.values()]
    deviations = np.concatenate([_prior(space, family, standing, share), luck])
    steps = [t.counts[family].log_odds - t.anchors[family].log_odds for t in trials]
    weight = np.asarray([1 / (t.counts[family].variance + (SEED_SD**2 + MISFIT_SD**2 * row[0]) / share) for t, row in zip(trials, rows)])
    precision = np.diag(deviations**-2.0) + design.T @ (weight[:, None] * design)
    covariance = np.linalg.inv(precision)
    means.append((covariance @ design.T @ (weight * steps))[:size])
    roots.append(np.linalg.cholesky(covariance[:size, :size]))
  return Effects(space, defaults, np.asarray([count.log_odds for count in standing.values()]), shares, np.asarray(means), np.asarray(roots))
