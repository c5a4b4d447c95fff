"""One bindable parameter: its type, range and scale, and how to move inside of it.

A parameter is a float or int between two bounds on a linear or log scale, a choice among literals,
or a bool. `neighbour` draws a nearby value for the meta agent, `perturb` picks a fixed other value
for the liveness check; both stay legal and both differ from where they began. `when` makes a
parameter conditional on others.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.nearest import suggestion
from aevo_jax.config.statements import Binding, StatementError, render_value

_KEYS = {
  'float': {'low', 'high', 'scale'},
  'int': {'low', 'high', 'scale'},
  'choice': {'choices'},
  'bool': set(),
}
_REQUIRED = {'float': {'low', 'high'}, 'int': {'low', 'high'}, 'choice': {'choices'}, 'bool': set()}


class SearchSpaceError(ValueError):
  """A malformed space, or bindings outside of it. `problems` holds one sentence each."""

  def __init__(self, problems: Sequence[str]):
    super().__init__('\n'.join(problems))
    self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One bindable parameter.

  Attributes:
      selector: full name, 'configurable.parameter'.
      kind: 'float', 'int', 'choice' or 'bool'.
      low, high: inclusive bounds of a float or int (floats for 'float', ints for 'int').
      scale: 'linear' or 'log' (log needs low > 0); of a float or int.
      choices: the legal literals of a 'choice', at least two.
      when: other selector -> its values under which this parameter may be bound; empty means
        always.

  Raises:
      SearchSpaceError: on construction, naming the selector.
  """

  selector: str
  kind: str
  low: float | None = None
  high: float | None = None
  scale: str = 'linear'
  choices: tuple = ()
  when: dict[str, tuple] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    problem = _parameter_problem(self)
    if problem is not None:
      raise SearchSpaceError([f'{self.selector}: {problem}'])


def parameter_from_literal(selector: str, spec: Any) -> Parameter:
  """Builds a parameter from its spec as written in the constitution. Raises SearchSpaceError with
  every problem.
  """
  if (
    not isinstance(spec, Mapping)
    or not isinstance(spec.get('kind'), str)
    or spec['kind'] not in _KEYS
  ):
    raise SearchSpaceError(
      [f"{selector}: expected a dict with 'kind' one of {', '.join(_KEYS)}; got {spec!r}"]
    )
  kind = spec['kind']
  legal = {'kind', 'when'} | _KEYS[kind]
  problems = [
    f"{selector}: a {kind} has no '{key}'" + suggestion(str(key), legal)
    for key in spec
    if key not in legal
  ]
  problems += [
    f"{selector}: a {kind} needs '{key}'" for key in sorted(_REQUIRED[kind] - spec.keys())
  ]
  when, choices = spec.get('when', {}), spec.get('choices', ())
  if not isinstance(when, Mapping) or not all(
    isinstance(values, (list, tuple)) for values in when.values()
  ):
    problems.append(f"{selector}: 'when' is a dict of selector: list of values, got {when!r}")
  if not isinstance(choices, (list, tuple)):
    problems.append(f"{selector}: 'choices' is a list, got {choices!r}")
  if problems:
    raise SearchSpaceError(problems)
  bounds = {key: spec[key] for key in ('low', 'high', 'scale') if key in spec}
  if kind == 'float':  # 'low': 0 in the constitution means 0.0
    bounds |= {key: float(spec[key]) for key in ('low', 'high') if type(spec[key]) is int}
  return Parameter(
    selector, kind, choices=tuple(choices), when={k: tuple(v) for k, v in when.items()}, **bounds
  )


def neighbour(value: Any, parameter: Parameter, rng: np.random.Generator, step: float) -> Any:
  """Returns a legal value near `value`, and different from it.

  A float or int moves by a normal draw with standard deviation `step`, in units of the whole range
  on its scale, reflected at the bounds; floats are rounded to four digits. A choice or bool moves
  to another of its values, uniformly.

  Raises:
      SearchSpaceError: if `value` is outside the space. ValueError: if `step` is not positive.
  """
  if not step > 0:
    raise ValueError(f'step is a positive fraction of the range, got {step}')
  value = _checked(parameter, value)
  if parameter.kind == 'bool':
    return not value
  if parameter.kind == 'choice':
    others = [choice for choice in parameter.choices if not _same(choice, value)]
    return others[int(rng.integers(len(others)))]
  unit = (to_unit(parameter, value) + step * rng.standard_normal()) % 2.0
  moved = from_unit(parameter, min(unit, 2.0 - unit))
  if parameter.kind == 'int' and moved == value:  # rounded back: the smallest step that there is
    moved = value + (
      1 if value < parameter.high and (rng.random() < 0.5 or value == parameter.low) else -1
    )
  return perturb(parameter, value) if moved == value else moved


def perturb(parameter: Parameter, value: Any) -> Any:
  """Returns a legal value different from `value`, always the same one: a quarter of the range
  towards its middle, the next choice, or the other bool. The liveness check uses it. Raises
  SearchSpaceError if `value` is outside the space.
  """
  value = _checked(parameter, value)
  if parameter.kind == 'bool':
    return not value
  if parameter.kind == 'choice':
    position = next(i for i, choice in enumerate(parameter.choices) if _same(choice, value))
    return parameter.choices[(position + 1) % len(parameter.choices)]
  unit = to_unit(parameter, value)
  moved = from_unit(parameter, unit + 0.25 if unit < 0.5 else unit - 0.25)
  if moved != value:
    return moved
  if parameter.kind == 'int':
    return value + 1 if value < parameter.high else value - 1
  return parameter.low if value != parameter.low else parameter.high


def perturbations(parameter: Parameter, value: Any) -> list[Any]:
  """Returns legal values different from `value`, always the same ones, the one of `perturb` first:
  every other choice, or also the ends of the range. Two choices may mean the same for a task, and
  one number may be impossible beside the rest of a recipe.
  """
  first = perturb(parameter, value)
  if parameter.kind == 'bool':
    return [first]
  others = parameter.choices if parameter.kind == 'choice' else (parameter.low, parameter.high)
  value = _checked(parameter, value)
  return [
    first,
    *(other for other in others if not _same(other, value) and not _same(other, first)),
  ]


def value_problem(parameter: Parameter, value: Any) -> str | None:
  """Returns a sentence that names selector, what was expected and what came, or None if the value
  is legal.
  """
  selector, kind = parameter.selector, parameter.kind
  if kind == 'bool':
    return None if type(value) is bool else f'{selector} expects a bool, got {value!r}'
  if kind == 'choice':
    legal = any(_matches(choice, value) for choice in parameter.choices)
    return None if legal else f'{selector} expects one of {list(parameter.choices)}, got {value!r}'
  if type(value) is not int and not (kind == 'float' and type(value) is float):
    return (
      f'{selector} expects {"a float" if kind == "float" else "an int"}, got {value!r} '
      f'({type(value).__name__})'
    )
  if not math.isfinite(value):
    return f'{selector} expects a finite number, got {value!r}'
  if not parameter.low <= value <= parameter.high:
    return f'{selector} expects {parameter.low!r} to {parameter.high!r}, got {value!r}'
  return None


def unmet_conditions(parameter: Parameter, values: Mapping[str, Any]) -> list[str]:
  """Returns one sentence per condition of `parameter` that does not hold under `values`."""
  problems = []
  for selector, wanted in parameter.when.items():
    if not any(
      selector in values
      and (_matches(values[selector], value) or _matches(value, values[selector]))
      for value in wanted
    ):
      now = f'is {values[selector]!r}' if selector in values else 'has no value'
      problems.append(
        f'{parameter.selector} has an effect only when {selector} is one of '
        f'{list(wanted)}, but it {now}; '
        f'bind {selector} too, or leave {parameter.selector} out'
      )
  return problems


def _parameter_problem(parameter: Parameter) -> str | None:
  try:
    Binding(parameter.selector, list(parameter.choices))
    for selector, values in parameter.when.items():
      Binding(selector, list(values))
  except StatementError as error:
    return error.message
  if parameter.kind not in _KEYS:
    return f"'kind' is one of {', '.join(_KEYS)}, got {parameter.kind!r}"
  if any(not values for values in parameter.when.values()):
    return "a condition in 'when' lists no values"
  if parameter.kind == 'choice' and len(
    {render_value(_listed(c)) for c in parameter.choices}
  ) < max(2, len(parameter.choices)):
    return "'choices' needs at least two values, all different"
  if parameter.kind in ('float', 'int'):
    expected = float if parameter.kind == 'float' else int
    if not all(
      type(bound) is expected and math.isfinite(bound) for bound in (parameter.low, parameter.high)
    ):
      return (
        f"'low' and 'high' are finite and of type {parameter.kind}, got {parameter.low!r} "
        f'and {parameter.high!r}'
      )
    if parameter.low >= parameter.high:
      return f"'low' is below 'high', got {parameter.low!r} and {parameter.high!r}"
    if parameter.scale not in ('linear', 'log'):
      return f"'scale' is 'linear' or 'log', got {parameter.scale!r}"
    if parameter.scale == 'log' and parameter.low <= 0:
      return f"a log scale needs 'low' above 0, got {parameter.low!r}"
  return None


def _checked(parameter: Parameter, value: Any) -> Any:
  problem = value_problem(parameter, value)
  if problem is not None:
    raise SearchSpaceError([problem])
  return canonical(parameter, value)


def canonical(parameter: Parameter, value: Any) -> Any:
  """Returns a legal value in the parameter's own type and spelling."""
  if parameter.kind == 'choice':
    return next(choice for choice in parameter.choices if _matches(choice, value))
  return float(value) if parameter.kind == 'float' else value


def _listed(value: Any) -> Any:
  """Tuples as lists: recipes may write either."""
  return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _same(a: Any, b: Any) -> bool:
  """Equality that tells True from 1 and 1 from 1.0."""
  return render_value(_listed(a)) == render_value(_listed(b))


def _matches(legal: Any, value: Any) -> bool:
  """Whether a written value means the legal one: the same, or an int where a float is meant."""
  return _same(legal, value) or (type(legal) is float and type(value) is int and legal == value)


def to_unit(parameter: Parameter, value: float) -> float:
  """Position of a number in its range, 0 to 1 on its scale."""
  scale = math.log if parameter.scale == 'log' else float
  low, high = scale(parameter.low), scale(parameter.high)
  return (scale(value) - low) / (high - low)


def from_unit(parameter: Parameter, unit: float) -> Any:
  """The legal value at a position from 0 to 1; equal shares for choices and bools."""
  if parameter.kind == 'bool':
    return unit < 0.5
  if parameter.kind == 'choice':
    return parameter.choices[min(int(unit * len(parameter.choices)), len(parameter.choices) - 1)]
  if parameter.scale == 'log':
    low, high = math.log(parameter.low), math.log(parameter.high)
    value = math.exp(low + unit * (high - low))
  else:
    value = parameter.low + unit * (parameter.high - parameter.low)
  # Four digits keep recipes readable; rounding may step over a bound, hence the clip.
  value = round(value) if parameter.kind == 'int' else float(f'{value:.4g}')
  return min(max(value, parameter.low), parameter.high)
