"""Ranges and choices of settings, declared on the field and checked when an instance is made.

    steps: Annotated[int, Ge(0)] = 0
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 1e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = 'cosine'
    decay_fraction: Annotated[float, ReadWhen(one_of('optimizer.schedule', 'wsd'))] = 0.3

`configurables.configurable` installs the check in every class that gin files bind; `checked` does
so for other dataclasses. Checks of fields run before `__post_init__`, which holds only what relates
two fields. `ReadWhen` declares under which values of other settings a field has an effect
(`bindings.unread` refuses it otherwise).
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


@dataclasses.dataclass(frozen=True)
class Clause:
  """What the value of one setting must be.

  Attributes:
    selector: of the setting, or a flag with its dashes.
    values: those that it may have, or may not have.
    excluded: whether these are the values that it may not have.
    part: a text that the value must hold, in place of `values`.
  """

  selector: str
  values: tuple = ()
  excluded: bool = False
  part: str = ''

  def holds(self, value: Any) -> bool:
    """Whether a value of the setting fulfils the clause."""
    if self.part:
      return self.part in value
    return (value in self.values) != self.excluded

  def fix(self) -> str:
    """Returns what a person can do, after 'leave it out, or'."""
    verb = 'bind'
    if self.selector.startswith('-'):
      verb = 'give'
    values = ' or '.join(map(repr, self.values))
    if self.part:
      return f'{verb} {self.selector} to one with {self.part!r} in it'
    if self.excluded:
      return f'{verb} {self.selector} to another value than {values}'
    if verb == 'give':
      return f'{verb} {" or ".join(f"{self.selector}={value}" for value in self.values)}'
    return f'{verb} {self.selector} = {values}'

  def __str__(self) -> str:
    if self.part:
      return f'{self.selector} has {self.part!r} in it'
    if len(self.values) > 1:
      return f'{self.selector} {"not " * self.excluded}in {self.values!r}'
    return f'{self.selector} {"!=" if self.excluded else "="} {self.values[0]!r}'


def one_of(selector: str, *values: Any) -> Clause:
  """Returns the clause that a setting has one of these values."""
  return Clause(selector, values)


def other_than(selector: str, *values: Any) -> Clause:
  """Returns the clause that a setting has none of these values."""
  return Clause(selector, values, excluded=True)


def holding(selector: str, part: str) -> Clause:
  """Returns the clause that a setting, a text or a sequence, has a part in it."""
  return Clause(selector, part=part)


@dataclasses.dataclass(frozen=True)
class ReadWhen:
  """Declares in an annotation when a field is read: when one of the clauses holds.

  Several of them in one annotation must all be met.
  """

  clauses: tuple[Clause, ...]

  def __init__(self, *clauses: Clause):
    object.__setattr__(self, 'clauses', clauses)

  def unmet(self, value_of: Callable[[str], Any]) -> bool:
    """Whether no clause holds.

    Args:
      value_of: selector -> value of that setting.
    """
    return not any(clause.holds(value_of(clause.selector)) for clause in self.clauses)

  def why_unread(
    self,
    value_of: Callable[[str], Any],
    name_of: Callable[[str], str] = str,
    fix_of: Callable[[Clause], str] = Clause.fix,
  ) -> str:
    """Words what stands in the way and the fix: 'while SELECTOR = VALUE; leave it out, or ...'.

    Args:
      value_of: selector -> value of that setting.
      name_of: selector -> how a person names the setting here.
      fix_of: clause -> what a person can do to meet it, '' for nothing.
    """
    now = []
    for clause in self.clauses:
      now.append(f'{name_of(clause.selector)} = {value_of(clause.selector)!r}')
    fixes = ['leave it out']
    for clause in self.clauses:
      fix = fix_of(clause)
      if fix:
        fixes.append(fix)
    return f'while {" and ".join(now)}; {", or ".join(fixes)}'

  def __str__(self) -> str:
    return ' or '.join(map(str, self.clauses))


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


@functools.cache
def conditions(cls: type) -> dict[str, tuple[ReadWhen, ...]]:
  """Returns field -> when it is read, of the fields that declare it."""
  hints = typing.get_type_hints(cls, include_extras=True)
  declared = {}
  for field in dataclasses.fields(cls):
    metadata = getattr(hints[field.name], '__metadata__', ())
    found = tuple(item for item in metadata if isinstance(item, ReadWhen))
    if found:
      declared[field.name] = found
  return declared


def refuse_unread(settings: Any, name: str) -> None:
  """Refuses values other than the default in fields that other fields of the class switch off.

  Args:
    settings: a frozen dataclass.
    name: under which its fields are bound; `ReadWhen` of other names are not looked at.

  Raises:
    ValueError: naming the field and what would make it act.
  """
  own = f'{name}.'

  def value_of(selector: str) -> Any:
    return getattr(settings, selector.removeprefix(own))

  declared = conditions(type(settings))
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if value == field.default:
      continue
    for condition in declared.get(field.name, ()):
      is_own = all(clause.selector.startswith(own) for clause in condition.clauses)
      if is_own and condition.unmet(value_of):
        raise ValueError(
          f'{name}.{field.name} = {value!r}, and nothing reads it {condition.why_unread(value_of)}'
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
    if isinstance(item, ReadWhen):
      continue
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
