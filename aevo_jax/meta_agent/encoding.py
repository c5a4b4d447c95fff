"""Recipes as arrays: each parameter a number, and from those the features that effects are a sum
over.

A recipe of P parameters becomes P codes: the place of a choice among the choices, the position of a
number in its range (0 to 1 on its scale). Features are, axis by axis, those of every parameter (a
level each for choices; one, position and its square for numbers) and the products of those of every
pair of parameters of the axis, one of which is a choice. A parameter whose condition is not met has
features of zero, and so has a number out of its range, which a default may be (no averaging at
all).
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aevo_jax.config.parameter import Parameter, unmet_conditions
from aevo_jax.config.search_space import Axis, SearchSpace, prune


def levels(parameter: Parameter) -> tuple:
  """The values of a choice or bool; () for a number."""
  return (
    parameter.choices
    if parameter.kind == 'choice'
    else (False, True)
    if parameter.kind == 'bool'
    else ()
  )


def pairs(axis: Axis) -> list[tuple[Parameter, Parameter]]:
  """The pairs of an axis whose joint effect is estimated."""
  return [pair for pair in itertools.combinations(axis.parameters, 2) if any(map(levels, pair))]


def _coder(parameter: Parameter) -> Callable[[Any], float]:
  """The code of a value: place or position; out of the range any number beyond it that tells values
  apart.
  """
  places = levels(parameter)
  if places:
    return lambda value: float(places.index(value)) if value in places else -1.0
  scale = math.log if parameter.scale == 'log' else float
  low, span = scale(parameter.low), scale(parameter.high) - scale(parameter.low)
  return lambda value: (
    (scale(value) - low) / span
    if parameter.low <= value <= parameter.high
    else 4 + math.atan(value)
  )


class Encoder:
  """Of one search space and the defaults that hold where a recipe binds nothing.

  Attributes:
    parameters: in the space's order. width: number of features. owners: [width, 2] places of the
      parameters that each feature
    belongs to, the same twice where it is one.
  """

  def __init__(self, space: SearchSpace, defaults: Mapping[str, Any]):
    self.space, self.defaults, self.parameters = space, defaults, space.parameters
    self._index = {p.selector: i for i, p in enumerate(self.parameters)}
    self._coders = [_coder(p) for p in self.parameters]
    self._default_codes = np.asarray(
      [code(defaults[p.selector]) for p, code in zip(self.parameters, self._coders)]
    )
    self._starts = np.cumsum([0, *(len(axis.parameters) for axis in space.axes)])[:-1]
    # (parameter, the one it depends on, codes that meet it); what depends on no parameter of the
    # space is settled here
    self._conditions = []
    for i, parameter in enumerate(self.parameters):
      for selector, wanted in parameter.when.items():
        if selector in self._index:
          other = self._index[selector]
          self._conditions.append(
            (i, other, np.asarray([self._coders[other](value) for value in wanted]))
          )
        elif unmet_conditions(
          Parameter(parameter.selector, 'bool', when={selector: wanted}), defaults
        ):
          self._conditions.append((i, i, np.zeros(0)))
    self._lay_out()

  def _lay_out(self) -> None:
    """Where each feature comes from: columns [one-hot | in range | position | square] of all
    parameters, and products of two of them.
    """
    choices = [(i, place) for i, p in enumerate(self.parameters) for place in range(len(levels(p)))]
    numbers = [i for i, p in enumerate(self.parameters) if not levels(p)]
    self._choice, self._place = (np.asarray([c[k] for c in choices], int) for k in (0, 1))
    self._number = np.asarray(numbers, int)
    column = {
      p.selector: [k for k, (i, _) in enumerate(choices) if i == at]
      if levels(p)
      else [len(choices) + part * len(numbers) + numbers.index(at) for part in range(3)]
      for at, p in enumerate(self.parameters)
    }
    left, right, owners = [], [], []  # right: -1 where a feature is one parameter's
    for axis in self.space.axes:
      for p in axis.parameters:
        left += column[p.selector]
        right += [-1] * len(column[p.selector])
        owners += [(self._index[p.selector],) * 2] * len(column[p.selector])
      for first, second in pairs(axis):
        both = list(itertools.product(column[first.selector], column[second.selector]))
        left += [x for x, _ in both]
        right += [y for _, y in both]
        owners += [(self._index[first.selector], self._index[second.selector])] * len(both)
    self._left, self._right, self.owners, self.width = (
      np.asarray(left),
      np.asarray(right),
      np.asarray(owners),
      len(left),
    )

  def prune(self, overlay: dict[str, Any]) -> dict[str, Any]:
    """The overlay without bindings whose condition does not hold."""
    return prune(overlay, self.space, self.defaults)

  def codes(self, overlay: Mapping[str, Any], base: np.ndarray | None = None) -> np.ndarray:
    """[P] of the recipe that an overlay makes of the defaults, or of the recipe `base` [P]. What is
    not in the space is left out.
    """
    codes = (self._default_codes if base is None else base).copy()
    for selector, value in overlay.items():
      if selector in self._index:
        codes[self._index[selector]] = self._coders[self._index[selector]](value)
    return codes

  def active(self, codes: np.ndarray) -> np.ndarray:
    """[N, P] bool: whether the conditions of each parameter are met. codes: [N, P]."""
    active = np.ones(codes.shape, bool)
    for at, other, wanted in self._conditions:
      active[:, at] &= (codes[:, other, None] == wanted).any(axis=1)
    return active

  def features(self, codes: np.ndarray) -> np.ndarray:
    """[N, width]. codes: [N, P]."""
    active = self.active(codes)
    one_hot = (codes[:, self._choice] == self._place) & active[:, self._choice]
    unit = codes[:, self._number]
    in_range = ((unit >= 0) & (unit <= 1) & active[:, self._number]).astype(float)
    position = (2 * unit - 1) * in_range
    single = np.hstack([one_hot, in_range, position, position * position, np.ones((len(codes), 1))])
    return single[:, self._left] * single[:, self._right]

  def changed(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[N, number of axes] bool: which axes differ. before: [P] or [N, P]; after: [N, P]."""
    return np.logical_or.reduceat(before != after, self._starts, axis=1)

  def differences(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[N, 1 + width]: the number of axes that differ, then what `after` has more of than `before`.
    Shapes as in `changed`.
    """
    steps = self.features(after) - self.features(np.atleast_2d(before))
    return np.hstack([self.changed(before, after).sum(axis=1, keepdims=True), steps])
