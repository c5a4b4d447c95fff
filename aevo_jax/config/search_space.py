"""What an agent may bind: parameters with type, range and scale, grouped into axes.

The constitution writes the space as literals, one axis per binding:

    {'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'},
     'lora.rank': {'kind': 'int', 'low': 1, 'high': 32, 'scale': 'log', 'when':
     {'adaptation.method': ['lora']}}}

`SearchSpace.from_literals` checks it once. `check` refuses a recipe, with every problem in one
message, and `normalise` gives the canonical Python types. `when` makes a parameter conditional:
binding it while its condition does not hold (over the defaults) is refused, because such a binding
would be dead. `draw` and `sample` sample a whole axis, `prune` drops what is dead; `neighbour` and
`perturb` (see `parameter`) move one value.
"""

import dataclasses
import functools
import graphlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aevo_jax.config.nearest import suggestion
from aevo_jax.config.parameter import (
  Parameter,
  SearchSpaceError,
  canonical,
  from_unit,
  neighbour,
  parameter_from_literal,
  perturb,
  perturbations,
  unmet_conditions,
  value_problem,
)
from aevo_jax.config.statements import Binding

__all__ = [
  'Axis',
  'Parameter',
  'SearchSpace',
  'SearchSpaceError',
  'draw',
  'neighbour',
  'perturb',
  'perturbations',
  'prune',
  'sample',
]


@dataclasses.dataclass(frozen=True)
class Axis:
  """A named group of parameters that one worker explores together."""

  name: str
  parameters: tuple[Parameter, ...]

  @functools.cached_property
  def order(self) -> tuple[str, ...]:
    """The selectors, each after those of the axis that its condition names."""
    selectors = {parameter.selector for parameter in self.parameters}
    return tuple(selector for selector in _sorter(self.parameters) if selector in selectors)


def _sorter(parameters: Iterable[Parameter]) -> Iterable[str]:
  """Yields selectors, each after those that its condition names; CycleError for a circle."""
  graph = {parameter.selector: parameter.when for parameter in parameters}
  return graphlib.TopologicalSorter(graph).static_order()


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """All axes. No selector belongs to two, so that an effect is attributed to one axis.

  Raises:
    SearchSpaceError: on construction, for a selector in two axes, circular conditions or an
      impossible one.
  """

  axes: tuple[Axis, ...]

  def __post_init__(self):
    problems = []
    axis_of: dict[str, str] = {}
    for axis in self.axes:
      if not axis.parameters:
        problems.append(f'axis {axis.name} has no parameters')
      for parameter in axis.parameters:
        selector = parameter.selector
        if selector in axis_of:
          problems.append(f'{selector} is in axis {axis_of[selector]} and again in {axis.name}')
        axis_of[selector] = axis.name
    for parameter in self.parameters:
      for problem in self._condition_problems(parameter):
        problems.append(
          f'axis {axis_of[parameter.selector]}, {parameter.selector}: its condition can never '
          f'hold, since {problem}'
        )
    try:
      list(_sorter(self.parameters))
    except graphlib.CycleError as error:
      problems.append(f"conditions ('when') form a circle: {' -> '.join(error.args[1])}")
    if problems:
      raise SearchSpaceError(problems)

  def _condition_problems(self, parameter: Parameter) -> list[str]:
    """Lists values in a parameter's condition that the parameter which it names cannot have."""
    problems = []
    for selector, values in parameter.when.items():
      condition = self._by_selector.get(selector)
      if condition is None:
        continue
      for value in values:
        problem = value_problem(condition, value)
        if problem is not None:
          problems.append(problem)
    return problems

  @classmethod
  def from_literals(cls, axes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> 'SearchSpace':
    """Builds a space from literals, as written in the constitution.

    Args:
      axes: axis name -> selector -> spec.

    Raises:
      SearchSpaceError: naming the axis and parameter of every malformed spec.
    """
    problems = []
    built = []
    for name, specs in axes.items():
      if not isinstance(specs, Mapping):
        problems.append(
          f"axis {name}: expected a dict of 'configurable.parameter': spec, got {specs!r}"
        )
        continue
      parameters = []
      for selector, spec in specs.items():
        try:
          parameters.append(parameter_from_literal(selector, spec))
        except SearchSpaceError as error:
          problems.extend(f'axis {name}, {problem}' for problem in error.problems)
      built.append(Axis(name, tuple(parameters)))
    if problems:
      raise SearchSpaceError(problems)
    return cls(tuple(built))

  @functools.cached_property
  def parameters(self) -> tuple[Parameter, ...]:
    """The parameters of all axes, in their order."""
    parameters = []
    for axis in self.axes:
      parameters += axis.parameters
    return tuple(parameters)

  @property
  def selectors(self) -> tuple[str, ...]:
    """The selectors of all parameters, in their order."""
    return tuple(parameter.selector for parameter in self.parameters)

  def axis(self, name: str) -> Axis:
    """Looks up an axis.

    Args:
      name: as the constitution spells it.

    Raises:
      SearchSpaceError: there is none of that name; the message names the nearest.
    """
    for axis in self.axes:
      if axis.name == name:
        return axis
    names = [axis.name for axis in self.axes]
    raise SearchSpaceError([f'unknown axis {name}' + suggestion(name, names)])

  def parameter(self, selector: str) -> Parameter:
    """Looks up a parameter.

    Args:
      selector: 'configurable.parameter'.

    Raises:
      SearchSpaceError: it may not be bound; the message names the nearest that may.
    """
    if selector not in self._by_selector:
      raise SearchSpaceError(
        [f'{selector} may not be bound' + suggestion(selector, self.selectors)]
      )
    return self._by_selector[selector]

  @functools.cached_property
  def _by_selector(self) -> dict[str, Parameter]:
    return {parameter.selector: parameter for parameter in self.parameters}

  def check(self, bindings: Iterable[Binding], defaults: Mapping[str, Any]) -> None:
    """Refuses bindings outside the space.

    Args:
      bindings: a recipe.
      defaults: selector -> value that holds where the recipe binds nothing; used by conditions.

    Raises:
      SearchSpaceError: listing every problem.
    """
    problems = []
    bound = {}
    for binding in bindings:
      if binding.selector in bound:
        problems.append(f'{binding.selector} is bound twice')
      bound[binding.selector] = binding.value
    for selector, value in bound.items():
      try:
        parameter = self.parameter(selector)
      except SearchSpaceError as error:
        problems.extend(error.problems)
        continue
      problem = value_problem(parameter, value)
      if problem is not None:
        problems.append(problem)
      else:
        problems.extend(unmet_conditions(parameter, {**defaults, **bound}))
    if problems:
      raise SearchSpaceError(problems)

  def normalise(self, bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    """Gives bindings their canonical types.

    An int bound to a float becomes a float, and a choice becomes the literal as the space spells
    it.

    Args:
      bindings: a recipe.

    Returns:
      The bindings sorted by selector.

    Raises:
      SearchSpaceError: a value outside the space.
    """
    result = []
    for binding in sorted(bindings, key=lambda binding: binding.selector):
      parameter = self.parameter(binding.selector)
      problem = value_problem(parameter, binding.value)
      if problem is not None:
        raise SearchSpaceError([problem])
      result.append(Binding(binding.selector, canonical(parameter, binding.value)))
    return tuple(result)


def sample(
  axis: Axis, rng: np.random.Generator, standing: Mapping[str, Any] | None = None
) -> tuple[Binding, ...]:
  """Samples an axis as bindings, in its order; the arguments and errors are those of `draw`."""
  return tuple(Binding(selector, value) for selector, value in draw(axis, rng, standing).items())


def draw(
  axis: Axis, rng: np.random.Generator, standing: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Samples every parameter of an axis uniformly on its scale, but those with an unmet condition.

  Args:
    axis: whose parameters are sampled.
    rng: seeded generator; one draw per parameter, whatever the conditions.
    standing: selector -> value for conditions on parameters outside of the axis.

  Returns:
    selector -> value, in the axis' order.

  Raises:
    SearchSpaceError: a condition names a parameter that is neither in the axis nor in `standing`.
  """
  by_selector = {parameter.selector: parameter for parameter in axis.parameters}
  sampled = {}
  conditional = False
  for selector, parameter in by_selector.items():
    sampled[selector] = from_unit(parameter, rng.random())
    conditional = conditional or bool(parameter.when)
  if not conditional:
    return sampled
  values = {**(standing or {}), **sampled}
  for selector in axis.order:
    parameter = by_selector[selector]
    for name in parameter.when:
      if name not in values and name not in by_selector:
        raise SearchSpaceError([f'{selector} depends on {name}; give its value in `standing`'])
    if unmet_conditions(parameter, values):
      del values[selector]  # so that what depends on it is left out too
  return {selector: value for selector, value in sampled.items() if selector in values}


def prune(
  overlay: dict[str, Any], space: SearchSpace, defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """Drops bindings whose condition no longer holds, e.g. lora.rank for adaptation.method = 'full'.

  Args:
    overlay: selector -> value that a recipe binds.
    space: with the conditions.
    defaults: selector -> value that holds where the recipe binds nothing.

  Returns:
    The bindings that have an effect, in their order.
  """
  kept = dict(overlay)
  while True:
    values = {**defaults, **kept}
    unmet = [selector for selector in kept if unmet_conditions(space.parameter(selector), values)]
    if not unmet:
      return kept
    for selector in unmet:
      del kept[selector]
