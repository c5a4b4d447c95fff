"""What every setting does to accuracy, estimated from all trials at once: Bayesian linear regression on the settings.

Accuracy is taken to be a sum of one function per parameter: a level for each choice, a parabola for a number; and of what changing an axis costs on
average, since most changes of a good recipe lose. A trial's gain over its anchor is then linear in the difference of their features, with normal weights of standard deviation `PRIOR_SD` (ridge), so the posterior has a closed form
(Bishop 2006, eq. 3.49-3.51) and a few trials that each change several axes already say something about each of them.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aevo_jax.config.parameter import Parameter, to_unit, unmet_conditions
from aevo_jax.config.search_space import SearchSpace

PRIOR_SD = 0.04  # of a weight: how much a setting is expected to move accuracy
MISFIT_SD = 0.01  # of what a sum of single effects leaves out


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


@dataclasses.dataclass(frozen=True)
class Effects:
  """The posterior of all weights: mean [f] and a square root of the covariance [f, f]."""

  space: SearchSpace
  defaults: Mapping[str, Any]
  mean: np.ndarray
  root: np.ndarray

  def features(self, overlay: Mapping[str, Any]) -> np.ndarray:
    """[f] of a recipe."""
    return features(self.space, self.defaults, overlay)

  def gain(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """Posterior mean and standard deviation of the accuracy of `after` minus that of `before`."""
    difference = self.features(after) - self.features(before)
    return float(difference @ self.mean), float(np.linalg.norm(difference @ self.root))

  def draw(self, rng: np.random.Generator) -> np.ndarray:
    """[f] weights from the posterior."""
    return self.mean + self.root @ rng.standard_normal(len(self.mean))


def features(space: SearchSpace, defaults: Mapping[str, Any], overlay: Mapping[str, Any]) -> np.ndarray:
  """[f]: the number of axes that differ from the defaults, then the features of all parameters in the space's order."""
  changed = sum(any(overlay.get(p.selector, defaults[p.selector]) != defaults[p.selector] for p in axis.parameters) for axis in space.axes)
  values = {**defaults, **overlay}
  return np.asarray([changed, *(f for parameter in space.parameters for f in _features(parameter, values))])


def fit(space: SearchSpace, defaults: Mapping[str, Any], trials: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], float, float]]) -> Effects:
  """The posterior after some trials.

  Args:
    space: the search space. defaults: selector -> value where an overlay binds nothing.
    trials: (overlay of the anchor, overlay of the trial, gain, standard deviation of the gain's noise).
  """
  size = len(features(space, defaults, {}))
  precision, weighted = np.eye(size) / PRIOR_SD**2, np.zeros(size)
  for before, after, gain, noise in trials:
    row = features(space, defaults, after) - features(space, defaults, before)
    weight = 1 / (noise**2 + MISFIT_SD**2)
    precision += weight * np.outer(row, row)
    weighted += weight * gain * row
  inverse_root = np.linalg.inv(np.linalg.cholesky(precision))  # covariance = inverse_root^T inverse_root
  return Effects(space, defaults, inverse_root.T @ (inverse_root @ weighted), inverse_root.T)
