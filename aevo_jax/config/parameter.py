"""A bindable parameter: its type, range and scale, and how to move inside of it.

A parameter is a float or int between two bounds on a linear or log scale, a choice among literals,
or a bool. `neighbour` samples a nearby value for the meta agent, `perturb` picks a fixed other
value for the liveness check; both stay legal and both differ from where they began. `when` makes a
parameter conditional on others.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
_SIGNIFICANT_DIGITS = 4  # of sampled floats, so that recipes stay readable


class SearchSpaceError(ValueError):
  """A malformed space, or bindings outside of it. `problems` holds one sentence each."""

  def __init__(self, problems: Sequence[str]):
    super().__init__('\n'.join(problems))
    self.problems = tuple(problems)


class _Range(NamedTuple):
  """Inclusive bounds of a float or int."""

  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One bindable parameter.

  Attributes:
    selector: full name, 'configurable.parameter'.
    kind: 'float', 'int', 'choice' or 'bool'.
    low: inclusive lower bound of a float (a float) or int (an int).
    high: inclusive upper bound, likewise.
    scale: 'linear' or 'log' (log needs low > 0); of a float or int.
    choices: the legal literals of a 'choice', at least two.
    when: other selector -> its values under which this parameter may be bound; empty means always.

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

  @property
  def bounds(self) -> _Range:
    """Bounds of a float or int; TypeError for a choice or bool."""
    if self.low is None or self.high is None:
      raise TypeError(f'{self.selector} is a {self.kind} and has no range')
    return _Range(self.low, self.high)


def parameter_from_literal(selector: str, spec: Any) -> Parameter:
  """Builds a parameter from its spec as written in the constitution.

  Args:
    selector: 'configurable.parameter'.
    spec: a dict with 'kind' and that kind's keys.

  Raises:
    SearchSpaceError: naming every problem of the spec.
  """
  kind = spec.get('kind') if isinstance(spec, Mapping) else None
  if not isinstance(kind, str) or kind not in _KEYS:
    raise SearchSpaceError(
      [f"{selector}: expected a dict with 'kind' one of {', '.join(_KEYS)}; got {spec!r}"]
    )
  problems = _spec_problems(selector, kind, spec)
  if problems:
    raise SearchSpaceError(problems)
  options: dict[str, Any] = {}
  for key in ('low', 'high', 'scale'):
    if key in spec:
      options[key] = spec[key]
  if kind == 'float':  # 'low': 0 in the constitution means 0.0
    for key in ('low', 'high'):
      if type(options[key]) is int:
        options[key] = float(options[key])
  when = {other: tuple(values) for other, values in spec.get('when', {}).items()}
  return Parameter(selector, kind, choices=tuple(spec.get('choices', ())), when=when, **options)


def _spec_problems(selector: str, kind: str, spec: Mapping) -> list[str]:
  """Lists unknown and missing keys, and containers of another type."""
  legal = {'kind', 'when'} | _KEYS[kind]
  problems = []
  for key in spec:
    if key not in legal:
      problems.append(f"{selector}: a {kind} has no '{key}'" + suggestion(str(key), legal))
  for key in sorted(_REQUIRED[kind] - spec.keys()):
    problems.append(f"{selector}: a {kind} needs '{key}'")
  when = spec.get('when', {})
  if not isinstance(when, Mapping) or not all(
    isinstance(values, (list, tuple)) for values in when.values()
  ):
    problems.append(f"{selector}: 'when' is a dict of selector: list of values, got {when!r}")
  choices = spec.get('choices', ())
  if not isinstance(choices, (list, tuple)):
    problems.append(f"{selector}: 'choices' is a list, got {choices!r}")
  return problems


def neighbour(value: Any, parameter: Parameter, rng: np.random.Generator, step: float) -> Any:
  """Samples a legal value near `value`, and different from it.

  A float or int moves by a normal draw, reflected at the bounds; floats are rounded to four digits.
  A choice or bool moves to another of its values, uniformly.

  Args:
    value: legal.
    parameter: that has it.
    rng: seeded generator.
    step: standard deviation of the normal draw, in units of the whole range on its scale.

  Raises:
    SearchSpaceError: `value` is outside the space.
    ValueError: `step` is not positive.
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
  if parameter.kind == 'int' and moved == value:
    # Rounded back: the smallest step that there is.
    low, high = parameter.bounds
    up = value < high and (rng.random() < 0.5 or value == low)
    moved = value + 1 if up else value - 1
  return perturb(parameter, value) if moved == value else moved


def perturb(parameter: Parameter, value: Any) -> Any:
  """Returns a legal value different from `value`, always the same one, for the liveness check.

  It is a quarter of the range towards the middle, the next choice, or the other bool.

  Args:
    parameter: that has the value.
    value: legal.

  Raises:
    SearchSpaceError: `value` is outside the space.
  """
  value = _checked(parameter, value)
  if parameter.kind == 'bool':
    return not value
  if parameter.kind == 'choice':
    following = parameter.choices[1:] + parameter.choices[:1]
    for choice, successor in zip(parameter.choices, following, strict=True):
      if _same(choice, value):
        return successor
  unit = to_unit(parameter, value)
  moved = from_unit(parameter, unit + 0.25 if unit < 0.5 else unit - 0.25)
  if moved != value:
    return moved
  low, high = parameter.bounds
  if parameter.kind == 'int':
    return value + 1 if value < high else value - 1
  return low if value != low else high


def perturbations(parameter: Parameter, value: Any) -> list[Any]:
  """Returns legal values different from `value`, always the same ones, the one of `perturb` first.

  Two choices may mean the same for a task, and one number may be impossible beside the rest of a
  recipe, so there are several.

  Args:
    parameter: that has the value.
    value: legal.

  Returns:
    Every other choice, or the value of `perturb` and the ends of the range.
  """
  first = perturb(parameter, value)
  if parameter.kind == 'bool':
    return [first]
  others = parameter.choices if parameter.kind == 'choice' else parameter.bounds
  value = _checked(parameter, value)
  values = [first]
  for other in others:
    if not _same(other, value) and not _same(other, first):
      values.append(other)
  return values


def some_values(parameter: Parameter, others: Sequence) -> list[Any]:
  """Lists legal values: every one of a choice or bool, and the ends of a range.

  Args:
    parameter: of any kind.
    others: values that are listed too where they lie in the range.
  """
  if parameter.kind == 'bool':
    return [False, True]
  if parameter.kind == 'choice':
    return list(parameter.choices)
  legal = [value for value in others if value_problem(parameter, value) is None]
  return [*parameter.bounds, *legal]


def value_problem(parameter: Parameter, value: Any) -> str | None:
  """Explains why a value is not legal.

  Args:
    parameter: to which it is bound.
    value: as written.

  Returns:
    A sentence that names selector, what was expected and what came, or None for a legal value.
  """
  selector = parameter.selector
  kind = parameter.kind
  if kind == 'bool':
    return None if type(value) is bool else f'{selector} expects a bool, got {value!r}'
  if kind == 'choice':
    for choice in parameter.choices:
      if _matches(choice, value):
        return None
    return f'{selector} expects one of {list(parameter.choices)}, got {value!r}'
  if type(value) is not int and not (kind == 'float' and type(value) is float):
    expected = {'float': 'a float', 'int': 'an int'}[kind]
    return f'{selector} expects {expected}, got {value!r} ({type(value).__name__})'
  if not math.isfinite(value):
    return f'{selector} expects a finite number, got {value!r}'
  low, high = parameter.bounds
  if not low <= value <= high:
    return f'{selector} expects {low!r} to {high!r}, got {value!r}'
  return None


def unmet_conditions(parameter: Parameter, values: Mapping[str, Any]) -> list[str]:
  """Lists the conditions of a parameter that do not hold.

  Args:
    parameter: with its `when`.
    values: selector -> value of the recipe over its defaults.

  Returns:
    One sentence for each condition.
  """
  problems = []
  for selector, legal in parameter.when.items():
    if selector not in values:
      now = 'has no value'
    elif _means_one_of(values[selector], legal):
      continue
    else:
      now = f'is {values[selector]!r}'
    problems.append(
      f'{parameter.selector} has an effect only when {selector} is one of '
      f'{list(legal)}, but it {now}; '
      f'bind {selector} too, or leave {parameter.selector} out'
    )
  return problems


def _means_one_of(value: Any, legal: Sequence) -> bool:
  for other in legal:
    if _matches(value, other) or _matches(other, value):
      return True
  return False


def _parameter_problem(parameter: Parameter) -> str | None:
  """Explains what is wrong with a parameter's definition, or returns None."""
  try:
    Binding(parameter.selector, list(parameter.choices))
    for selector, values in parameter.when.items():
      Binding(selector, list(values))
  except StatementError as error:
    return error.message
  if parameter.kind not in _KEYS:
    return f"'kind' is one of {', '.join(_KEYS)}, got {parameter.kind!r}"
  for values in parameter.when.values():
    if not values:
      return "a condition in 'when' lists no values"
  if parameter.kind == 'choice':
    different = {render_value(_listed(choice)) for choice in parameter.choices}
    if len(different) < max(2, len(parameter.choices)):
      return "'choices' needs at least two values, all different"
  if parameter.kind in ('float', 'int'):
    return _range_problem(parameter)
  return None


def _range_problem(parameter: Parameter) -> str | None:
  expected = float if parameter.kind == 'float' else int
  low = parameter.low
  high = parameter.high
  for bound in (low, high):
    if type(bound) is not expected or not math.isfinite(bound):
      return f"'low' and 'high' are finite and of type {parameter.kind}, got {low!r} and {high!r}"
  low, high = parameter.bounds
  if low >= high:
    return f"'low' is below 'high', got {low!r} and {high!r}"
  if parameter.scale not in ('linear', 'log'):
    return f"'scale' is 'linear' or 'log', got {parameter.scale!r}"
  if parameter.scale == 'log' and low <= 0:
    return f"a log scale needs 'low' above 0, got {low!r}"
  return None


def _checked(parameter: Parameter, value: Any) -> Any:
  problem = value_problem(parameter, value)
  if problem is not None:
    raise SearchSpaceError([problem])
  return canonical(parameter, value)


def canonical(parameter: Parameter, value: Any) -> Any:
  """Returns a legal value in the parameter's type and spelling."""
  if parameter.kind == 'choice':
    return next(choice for choice in parameter.choices if _matches(choice, value))
  return float(value) if parameter.kind == 'float' else value


def _listed(value: Any) -> Any:
  """Turns tuples into lists: recipes may write either."""
  if not isinstance(value, (list, tuple)):
    return value
  return [_listed(item) for item in value]


def _same(a: Any, b: Any) -> bool:
  """Compares as text, which tells True from 1 and 1 from 1.0."""
  return render_value(_listed(a)) == render_value(_listed(b))


def _matches(legal: Any, value: Any) -> bool:
  """Whether a written value means the legal one: the same, or an int where a float is meant."""
  return _same(legal, value) or (type(legal) is float and type(value) is int and legal == value)


def to_unit(parameter: Parameter, value: float) -> float:
  """Returns the position of a number in its range, 0 to 1 on its scale."""
  low, high = parameter.bounds
  if parameter.scale == 'log':
    return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
  return (float(value) - float(low)) / (float(high) - float(low))


def from_unit(parameter: Parameter, unit: float) -> Any:
  """Returns the legal value at a position in the range.

  Args:
    parameter: of any kind.
    unit: from 0 to 1 on the parameter's scale; choices and bools have equal shares of it.
  """
  if parameter.kind == 'bool':
    return unit < 0.5
  if parameter.kind == 'choice':
    last = len(parameter.choices) - 1
    return parameter.choices[min(int(unit * len(parameter.choices)), last)]
  low, high = parameter.bounds
  if parameter.scale == 'log':
    value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
  else:
    value = low + unit * (high - low)
  if parameter.kind == 'int':
    value = round(value)
  else:
    value = float(f'{value:.{_SIGNIFICANT_DIGITS}g}')
  # Rounding may step over a bound.
  return min(max(value, low), high)
