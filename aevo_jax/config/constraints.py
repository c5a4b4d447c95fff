"""Ranges and choices of settings, declared on the field and checked when an instance is made.

    steps: Annotated[int, Ge(0)] = 0
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 1e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = 'cosine'

`configurables.configurable` installs the check in every class that gin files bind; `checked` does
so for other dataclasses. Checks of fields run before `__post_init__`, which holds only what relates
two fields.
"""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import annotated_types


@dataclasses.dataclass(frozen=True)
class OneOf:
  """Declares in an annotation that a value is one of `options`, which a constant holds."""

  options: tuple

  def __init__(self, options: Sequence):
    object.__setattr__(self, 'options', tuple(options))


class Constraint(NamedTuple):
  """What one field must fulfil: bounds, or options, and a hint for the error message."""

  bounds: tuple[annotated_types.BaseMetadata, ...]
  options: tuple | None
  hint: str

  def allows(self, value: Any) -> bool:
    """Returns whether a value of the field's type is one of the options and within the bounds."""
    if self.options is not None and value not in self.options:
      return False
    for item in self.bounds:
      bound = _BOUNDS[type(item)]
      # NaN compares as False, so no bound holds for it.
      if not bound.holds(value, getattr(item, bound.field)):
        return False
    return True

  def words(self) -> str:
    """Words what is allowed: 'be one of ...', 'be >= 1', 'lie in [0, 1)'."""
    if self.options is not None:
      return f'be one of {self.options}'
    return _range(self.bounds)


def checked(prefix: str):
  """Makes a dataclass check its fields' annotations on construction.

  Args:
    prefix: what error messages put before the field: 'train' gives 'train.steps must be >= 0'.

  Returns:
    A decorator to put above @dataclasses.dataclass. Instances raise ValueError on construction.

  Raises:
    TypeError: by the decorator, where an annotation holds a constraint that is not supported.
  """

  def install(cls: type) -> type:
    constraints = _constraints(cls)
    relations = getattr(cls, '__post_init__', None)
    # The generated __init__ calls __post_init__ only if the class had one when it was generated.
    if relations is not None:

      def __post_init__(self):
        _check(self, prefix, constraints)
        relations(self)

      cls.__post_init__ = __post_init__
      return cls
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
      init(self, *args, **kwargs)
      _check(self, prefix, constraints)

    cls.__init__ = __init__
    return cls

  return install


def refuse_unread(
  settings: Any, name: str, conditions: Mapping[tuple[str, ...], tuple[str, Sequence]]
) -> None:
  """Refuses values other than the default in fields that nothing reads.

  Args:
    settings: a frozen dataclass.
    name: under which its fields are bound.
    conditions: fields -> (the field on which they depend, the values of it under which they are
      read).

  Raises:
    ValueError: naming the field and what would make it act.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(settings)}
  for dependents, (switch, values) in conditions.items():
    if getattr(settings, switch) in values:
      continue
    for field in dependents:
      if getattr(settings, field) != defaults[field]:
        raise ValueError(
          f'{name}.{field} = {getattr(settings, field)!r} is read by nothing while '
          f'{name}.{switch} = {getattr(settings, switch)!r}; '
          f'leave it out, or bind {switch} to {" or ".join(map(repr, values))}'
        )


def _constraints(cls: type) -> dict[str, Constraint]:
  """Returns field -> constraint, of the fields that have one."""
  hints = typing.get_type_hints(cls, include_extras=True)
  constraints = {}
  for field in dataclasses.fields(cls):
    constraint = of_annotation(hints[field.name], f'{cls.__qualname__}.{field.name}')
    if constraint is not None:
      constraints[field.name] = constraint
  return constraints


def of_annotation(annotation: Any, where: str) -> Constraint | None:
  """Reads one annotation.

  Args:
    annotation: a type, with bounds or `OneOf` in an Annotated.
    where: the field, for errors.

  Returns:
    What its metadata demands, or None for a bare type.

  Raises:
    TypeError: it holds a constraint that would never be checked.
  """
  origin = typing.get_origin(annotation)
  if origin is typing.Literal:
    return Constraint((), typing.get_args(annotation), '')
  if origin in (typing.Union, types.UnionType):
    for arg in typing.get_args(annotation):
      if typing.get_origin(arg) is Annotated:
        raise TypeError(f'{where}: put Annotated around the whole union; None passes every check')
  if origin is not Annotated:
    return None
  bounds: list[annotated_types.BaseMetadata] = []
  options = None
  hint = ''
  for item in annotation.__metadata__:
    if isinstance(item, OneOf):
      options = item.options
    elif isinstance(item, annotated_types.DocInfo):
      hint = f'; {item.documentation}'
    elif isinstance(item, annotated_types.Interval):
      bounds += list(item)
    elif type(item) in _BOUNDS:
      bounds.append(item)
    else:
      raise TypeError(f'{where}: constraint {item!r} is not supported; use bounds or OneOf')
  return Constraint(tuple(bounds), options, hint)


class _Bound(NamedTuple):
  """How a bound compares, and how an error message writes it alone and beside another."""

  field: str
  holds: Callable[[Any, Any], bool]
  sign: str
  bracket: str


_BOUNDS: dict[type, _Bound] = {
  annotated_types.Ge: _Bound('ge', operator.ge, '>=', '['),
  annotated_types.Gt: _Bound('gt', operator.gt, '>', '('),
  annotated_types.Le: _Bound('le', operator.le, '<=', ']'),
  annotated_types.Lt: _Bound('lt', operator.lt, '<', ')'),
}


def _check(instance: Any, prefix: str, constraints: Mapping[str, Constraint]) -> None:
  """Raises ValueError for the first field that is outside; None is inside everywhere."""
  for field, constraint in constraints.items():
    value = getattr(instance, field)
    if value is None or constraint.allows(value):
      continue
    shown = value if constraint.options is None else repr(value)
    raise ValueError(f'{prefix}.{field} must {constraint.words()}, got {shown}{constraint.hint}')


def _range(bounds: Sequence[annotated_types.BaseMetadata]) -> str:
  """Words a range: 'be >= 1', 'be > 0', 'lie in [0, 1)'."""
  low = ''
  high = ''
  words = []
  for item in bounds:
    bound = _BOUNDS[type(item)]
    limit = getattr(item, bound.field)
    words.append(f'{bound.sign} {limit}')
    if bound.bracket in '[(':
      low = f'{bound.bracket}{limit}'
    else:
      high = f'{limit}{bound.bracket}'
  if low and high:
    return f'lie in {low}, {high}'
  return f'be {" and ".join(words)}'
