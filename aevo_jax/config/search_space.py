"""What an agent may bind: parameters with type, range and scale, grouped into axes.

The constitution writes the space as literals, one axis per binding:

    {'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'},
     'lora.rank': {'kind': 'int', 'low': 1, 'high': 32, 'scale': 'log', 'when':
     {'adaptation.method': ['lora']}}}

`SearchSpace.from_literals` checks it once. `check` refuses a recipe, with every problem in one
message, and `normalise` gives the canonical Python types. `when` makes a parameter conditional:
binding it while its condition does not hold (over the defaults) is refused, because such a binding
would be dead. `draw` and `sample` draw a whole axis, `prune` drops what is dead; `neighbour` and
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
    order = graphlib.TopologicalSorter({p.selector: p.when for p in self.parameters}).static_order()
    own = {p.selector for p in self.parameters}
    return tuple(selector for selector in order if selector in own)


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
    owner: dict[str, str] = {}
    for axis in self.axes:
      if not axis.parameters:
        problems.append(f'axis {axis.name} has no parameters')
      for parameter in axis.parameters:
        if parameter.selector in owner:
          problems.append(
            f'{parameter.selector} is in axis {owner[parameter.selector]} and again in {axis.name}'
          )
        owner[parameter.selector] = axis.name
    for parameter in self.parameters:
      for selector, values in parameter.when.items():
        condition = next((other for other in self.parameters if other.selector == selector), None)
        for value in values if condition is not None else ():
          problem = value_problem(condition, value)
          if problem is not None:
            problems.append(
              f'axis {owner[parameter.selector]}, {parameter.selector}: its condition can never '
              f'hold, since {problem}'
            )
    try:
      graphlib.TopologicalSorter({p.selector: p.when for p in self.parameters}).prepare()
    except graphlib.CycleError as error:
      problems.append(f"conditions ('when') form a circle: {' -> '.join(error.args[1])}")
    if problems:
      raise SearchSpaceError(problems)

  @classmethod
  def from_literals(cls, axes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> 'SearchSpace':
    """Builds a space from axis name -> selector -> spec, as written in the constitution.

    Raises:
        SearchSpaceError: naming the axis and parameter of every malformed spec.
    """
    problems, built = [], []
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
    return tuple(parameter for axis in self.axes for parameter in axis.parameters)

  @property
  def selectors(self) -> tuple[str, ...]:
    return tuple(parameter.selector for parameter in self.parameters)

  def axis(self, name: str) -> Axis:
    """Returns an axis. Raises SearchSpaceError, naming the nearest, if there is none of that name."""
    for axis in self.axes:
      if axis.name == name:
        return axis
    raise SearchSpaceError(
      [f'unknown axis {name}' + suggestion(name, [axis.name for axis in self.axes])]
    )

  def parameter(self, selector: str) -> Parameter:
    """Returns a parameter. Raises SearchSpaceError, naming the nearest, if it may not be bound."""
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
    problems, bound = [], {}
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
      problems.extend(
        [problem] if problem is not None else unmet_conditions(parameter, {**defaults, **bound})
      )
    if problems:
      raise SearchSpaceError(problems)

  def normalise(self, bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    """Returns the bindings sorted by selector, with canonical types: an int bound to a float
    becomes a float, and a choice becomes the literal as the space spells it. Raises
    SearchSpaceError for a value outside the space.
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
  """`draw` as bindings, in the axis' order."""
  return tuple(Binding(selector, value) for selector, value in draw(axis, rng, standing).items())


def draw(
  axis: Axis, rng: np.random.Generator, standing: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Draws every parameter of an axis uniformly on its scale, and leaves out those whose condition
  is not met.

  Args:
      axis: the axis.
      rng: seeded generator; one draw per parameter, whatever the conditions.
      standing: selector -> value for conditions on parameters outside of the axis.

  Returns:
      selector -> value, in the axis' order.

  Raises:
      SearchSpaceError: a condition names a parameter that is neither in the axis nor in `standing`.
  """
  drawn = {parameter.selector: from_unit(parameter, rng.random()) for parameter in axis.parameters}
  if not any(parameter.when for parameter in axis.parameters):
    return drawn
  values = {**(standing or {}), **drawn}
  by_selector = {parameter.selector: parameter for parameter in axis.parameters}
  for selector in axis.order:
    unknown = [
      name for name in by_selector[selector].when if name not in values and name not in by_selector
    ]
    if unknown:
      raise SearchSpaceError([f'{selector} depends on {unknown[0]}; give its value in `standing`'])
    if unmet_conditions(by_selector[selector], values):
      del values[selector]  # so that what depends on it is left out too
  return {selector: value for selector, value in drawn.items() if selector in values}


def prune(
  overlay: dict[str, Any], space: SearchSpace, defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """Drops bindings whose condition no longer holds over the defaults, e.g. lora.rank once
  adaptation.method is 'full'.
  """
  conditional = {s for s in overlay if space.parameter(s).when}
  while conditional:
    values = {**defaults, **overlay}
    unmet = {s for s in conditional if unmet_conditions(space.parameter(s), values)}
    if not unmet:
      break
    overlay, conditional = {s: v for s, v in overlay.items() if s not in unmet}, conditional - unmet
  return overlay
