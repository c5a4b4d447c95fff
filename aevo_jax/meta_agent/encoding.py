"""Recipes as arrays: each parameter a code, and from those the features that effects are a sum of.

A recipe of P parameters becomes P codes: the index of a choice among the choices, the position of a
number in its range (0 to 1 on its scale). Features are, axis by axis, those of every parameter (a
level each for choices; one, position and its square for numbers) and the products of those of every
pair of parameters of the axis, one of which is a choice. A parameter with a condition that is not
met has features of zero, and so has a number out of its range, which a default may be (no averaging
at all).
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.parameter import Parameter, unmet_conditions
from aevo_jax.config.search_space import Axis, SearchSpace, prune


def levels(parameter: Parameter) -> tuple:
  """Lists the values of a parameter that is no number.

  Args:
    parameter: of any kind.

  Returns:
    The values of a choice or bool; () for a number.
  """
  if parameter.kind == 'choice':
    return parameter.choices
  if parameter.kind == 'bool':
    return (False, True)
  return ()


def pairs(axis: Axis) -> list[tuple[Parameter, Parameter]]:
  """Lists the pairs of parameters with a joint effect that is estimated.

  Args:
    axis: of the search space.

  Returns:
    The pairs, one of which at least is a choice.
  """
  chosen = []
  for first, second in itertools.combinations(axis.parameters, 2):
    if levels(first) or levels(second):
      chosen.append((first, second))
  return chosen


def _code(parameter: Parameter, value: Any) -> float:
  """The code of a value; out of the range any number beyond it that tells values apart."""
  values = levels(parameter)
  if values:
    return float(values.index(value)) if value in values else -1.0
  if not parameter.low <= value <= parameter.high:
    return 4 + math.atan(value)
  scale = math.log if parameter.scale == 'log' else float
  low = scale(parameter.low)
  return (scale(value) - low) / (scale(parameter.high) - low)


class _Condition(NamedTuple):
  """A parameter depends on another one, which must have one of some codes."""

  parameter: int
  other: int
  codes: np.ndarray


class Encoder:
  """Encodes recipes of one search space over the defaults.

  Args:
    space: the search space.
    defaults: selector -> value where a recipe binds nothing.

  Attributes:
    parameters: in the space's order.
    width: number of features.
    owners: [width, 2] indices of the parameters that each feature belongs to, the same twice where
      it is one.
  """

  def __init__(self, space: SearchSpace, defaults: Mapping[str, Any]):
    self.space = space
    self.defaults = defaults
    self.parameters = space.parameters
    self._index = {p.selector: i for i, p in enumerate(self.parameters)}
    codes = [_code(p, defaults[p.selector]) for p in self.parameters]
    self._default_codes = np.asarray(codes)
    self._starts = np.cumsum([0, *(len(axis.parameters) for axis in space.axes)])[:-1]
    self._conditions = self._read_conditions()
    self._lay_out()

  def _read_conditions(self) -> list[_Condition]:
    """All conditions; what depends on no parameter of the space is settled by the defaults."""
    conditions = []
    for i, parameter in enumerate(self.parameters):
      for selector, wanted in parameter.when.items():
        if selector in self._index:
          other = self._index[selector]
          codes = [_code(self.parameters[other], value) for value in wanted]
          conditions.append(_Condition(i, other, np.asarray(codes)))
          continue
        alone = Parameter(parameter.selector, 'bool', when={selector: wanted})
        if unmet_conditions(alone, self.defaults):
          conditions.append(_Condition(i, i, np.zeros(0)))
    return conditions

  def _lay_out(self) -> None:
    """Finds where each feature comes from.

    A feature is a product of two columns of [one-hot | in range | position | square | 1] of all
    parameters.
    """
    owner_of_choice = []
    level_of_choice = []
    numbers = []
    columns: list[list[int]] = []
    for i, parameter in enumerate(self.parameters):
      count = len(levels(parameter))
      columns.append(list(range(len(owner_of_choice), len(owner_of_choice) + count)))
      if not count:
        numbers.append(i)
      owner_of_choice += [i] * count
      level_of_choice += range(count)
    for k, i in enumerate(numbers):
      first = len(owner_of_choice) + k
      columns[i] = [first, first + len(numbers), first + 2 * len(numbers)]
    self._choice = np.asarray(owner_of_choice, int)
    self._level = np.asarray(level_of_choice, int)
    self._number = np.asarray(numbers, int)

    # right: -1, the column of ones, where a feature is one parameter's
    left: list[int] = []
    right: list[int] = []
    owners: list[tuple[int, int]] = []
    for axis in self.space.axes:
      for parameter in axis.parameters:
        i = self._index[parameter.selector]
        left += columns[i]
        right += [-1] * len(columns[i])
        owners += [(i, i)] * len(columns[i])
      for first, second in pairs(axis):
        i = self._index[first.selector]
        j = self._index[second.selector]
        for x, y in itertools.product(columns[i], columns[j]):
          left.append(x)
          right.append(y)
          owners.append((i, j))
    self._left = np.asarray(left)
    self._right = np.asarray(right)
    self.owners = np.asarray(owners)
    self.width = len(left)

  def prune(self, overlay: dict[str, Any]) -> dict[str, Any]:
    """Removes bindings with a condition that does not hold.

    Args:
      overlay: selector -> value.

    Returns:
      The other bindings.
    """
    return prune(overlay, self.space, self.defaults)

  def codes(self, overlay: Mapping[str, Any], base: np.ndarray | None = None) -> np.ndarray:
    """Encodes the recipe that an overlay makes.

    Args:
      overlay: selector -> value; what is not in the space is left out.
      base: [P], the recipe under the overlay; the default one if None.

    Returns:
      [P] codes.
    """
    codes = (self._default_codes if base is None else base).copy()
    for selector, value in overlay.items():
      if selector in self._index:
        i = self._index[selector]
        codes[i] = _code(self.parameters[i], value)
    return codes

  def active(self, codes: np.ndarray) -> np.ndarray:
    """Finds the parameters with conditions that are met.

    Args:
      codes: [N, P].

    Returns:
      [N, P] bool.
    """
    active = np.ones(codes.shape, bool)
    for condition in self._conditions:
      met = (codes[:, condition.other, None] == condition.codes).any(axis=1)
      active[:, condition.parameter] &= met
    return active

  def features(self, codes: np.ndarray) -> np.ndarray:
    """Computes the features of recipes.

    Args:
      codes: [N, P].

    Returns:
      [N, width].
    """
    active = self.active(codes)
    one_hot = (codes[:, self._choice] == self._level) & active[:, self._choice]
    unit = codes[:, self._number]
    in_range = ((unit >= 0) & (unit <= 1) & active[:, self._number]).astype(float)
    position = (2 * unit - 1) * in_range
    single = np.hstack([one_hot, in_range, position, position * position, np.ones((len(codes), 1))])
    return single[:, self._left] * single[:, self._right]

  def changed(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Finds the axes that differ.

    Args:
      before: [P] or [N, P] codes.
      after: [N, P] codes.

    Returns:
      [N, number of axes] bool.
    """
    return np.logical_or.reduceat(before != after, self._starts, axis=1)

  def differences(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Computes what a recipe has more of than another.

    Args:
      before: [P] or [N, P] codes.
      after: [N, P] codes.

    Returns:
      [N, 1 + width]: the number of axes that differ, then the differences of features.
    """
    steps = self.features(after) - self.features(np.atleast_2d(before))
    return np.hstack([self.changed(before, after).sum(axis=1, keepdims=True), steps])
