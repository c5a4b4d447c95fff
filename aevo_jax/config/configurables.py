"""Frozen dataclasses by name: registered once, resolved once, checked against their annotations.

`@configurable('optimizer')` over a frozen dataclass makes `optimizer.learning_rate` a name that gin
files may bind. After `loading.load`, `resolve('optimizer')` reads all of its bindings at once,
checks each against the field's annotation and returns a plain frozen instance; nothing else in the
library reads gin. `resolved_bindings` records what really ran: every field of every resolved
dataclass, bound or default. (Gin's operative config is no such record: it omits arguments that were
passed explicitly and lists parameters that nobody used.)
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gin

from aevo_jax.config.constraints import ReadWhen, checked
from aevo_jax.config.constraints import conditions as field_conditions
from aevo_jax.config.nearest import nearest, suggestion
from aevo_jax.config.statements import Binding, render_value

# A prefix for gin's registry. Gin matches selectors by suffix, so two names such as 'loss' and
# 'dpo.loss' would be ambiguous to it; complete names never are.
_GIN_PREFIX = 'aevo.'

_CONFIGURABLES: dict[str, type] = {}
_READ_WHEN: dict[str, tuple[ReadWhen, ...]] = {}
_KNOWN_TO_GIN: set[str] = set()


class LoadError(ValueError):
  """A mistake in a gin file, a binding or a flag.

  The message names the place and, where there is one, the fix.
  """


@dataclasses.dataclass(frozen=True)
class Bound:
  """A binding that holds after every file and flag was read.

  Attributes:
    name: of the configurable; '' for a macro.
    parameter: of it, or the macro's name.
    where: its place, 'FILE:LINE' or the binding of the command line as written.
    given: the file that `load` was given, whoever it includes; '' for the command line.
    macros: that its value uses, directly.
    repeats: the file that `load` was given first of those that say the same; '' for none before.
  """

  name: str
  parameter: str
  where: str
  given: str
  macros: frozenset[str]
  repeats: str

  @property
  def selector(self) -> str:
    """Returns 'name.parameter'."""
    return f'{self.name}.{self.parameter}'


def configurable(name: str, *read_when: ReadWhen):
  """Decorator: makes the fields of a frozen dataclass bindable as 'name.field'.

  Annotations may be int, float, bool, str, None, tuples, lists and dicts of those, unions and
  typing.Literal, and in `Annotated` the ranges and choices that `constraints` checks.

  Args:
    name: unique, before the dot in bindings.
    *read_when: conditions without which no field is read; all must be met.

  Raises:
    TypeError: not a frozen dataclass, or an annotation that cannot be checked.
    ValueError: another class has the name.
  """

  def register(cls: type) -> type:
    parameters_of_dataclass = getattr(cls, '__dataclass_params__', None)
    if parameters_of_dataclass is None or not parameters_of_dataclass.frozen:
      raise TypeError(
        f'{cls.__qualname__}: put @dataclasses.dataclass(frozen=True) below @configurable({name!r})'
      )
    taken = _CONFIGURABLES.get(name)
    if taken is not None and taken is not cls:
      raise ValueError(
        f'configurable {name!r} is already {taken.__module__}.{taken.__qualname__}; '
        'choose another name'
      )
    hints = typing.get_type_hints(cls)
    for field in _fields(cls):
      _check_annotation(hints[field.name], f'{cls.__qualname__}.{field.name}')
    if taken is None:
      cls = checked(name)(cls)
    # Gin hears of it in `load`, not here: gin refuses registrations once its config is locked, and
    # a module that is imported later is harmless, since no binding can have named it.
    _CONFIGURABLES[name] = cls
    _READ_WHEN[name] = read_when
    return cls

  return register


def register_with_gin() -> None:
  """Tells gin of every configurable that it has not heard of. Needs an unlocked config."""
  for name, cls in _CONFIGURABLES.items():
    if name not in _KNOWN_TO_GIN:
      gin.register(_GIN_PREFIX + name)(cls)
      _KNOWN_TO_GIN.add(name)


def parameters() -> dict[str, tuple[str, ...]]:
  """Returns configurable name -> names of its parameters."""
  return {name: _field_names(cls) for name, cls in _CONFIGURABLES.items()}


class Condition(NamedTuple):
  """When a parameter is read.

  of: the configurable or the parameter that declares it.
  """

  of: str
  when: ReadWhen


def conditions(name: str, parameter: str) -> list[Condition]:
  """Lists what must be met for a parameter to have an effect.

  Args:
    name: of a configurable.
    parameter: of it.
  """
  found = [Condition(name, when) for when in _READ_WHEN[name]]
  for when in field_conditions(_CONFIGURABLES[name]).get(parameter, ()):
    found.append(Condition(f'{name}.{parameter}', when))
  return found


def default(name: str, parameter: str) -> Any:
  """Returns the default of a parameter; `dataclasses.MISSING` where it has none."""
  field = next(field for field in _fields(_CONFIGURABLES[name]) if field.name == parameter)
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default


def gin_selector(name: str) -> str:
  """Returns the complete name under which gin knows a configurable."""
  return _GIN_PREFIX + name


def resolve(name: str) -> Any:
  """Builds the dataclass registered as `name` from the loaded bindings.

  Args:
    name: of a configurable.

  Returns:
    An instance with every bound parameter and the defaults of the others. Ints become floats where
    a float is annotated, lists become tuples where a tuple is.

  Raises:
    LoadError: nothing loaded yet, an unknown name, a value of the wrong type, a parameter without
      value, or a ValueError that the dataclass raises on construction.
  """
  if not gin.config_is_locked():
    raise LoadError(f'{name} was resolved before the configuration was loaded; call load() first')
  return construct(name, _loaded(name))


def resolve_all(names: Iterable[str]) -> dict[str, Any]:
  """Builds several dataclasses, as `resolve`, so that a person hears of every mistake at once.

  Args:
    names: of configurables.

  Returns:
    name -> instance, in the order of `names`.

  Raises:
    LoadError: a line for each that cannot be built.
  """
  resolved = {}
  problems = []
  for name in names:
    try:
      resolved[name] = resolve(name)
    except LoadError as error:
      problems.append(str(error))
  if problems:
    raise LoadError('\n'.join(problems))
  return resolved


def _loaded(name: str) -> dict[str, Any]:
  """Returns the bindings that gin holds of a configurable."""
  if name not in _KNOWN_TO_GIN:
    return {}
  return gin.get_bindings(_GIN_PREFIX + name, inherit_scopes=False)


def construct(name: str, bound: Mapping[str, Any]) -> Any:
  """Builds the dataclass registered as `name` from bound values, without gin.

  Args:
    name: of a configurable.
    bound: parameter -> value as written; the others take their defaults.

  Raises:
    LoadError: as `resolve`, but for a configuration that was not loaded.
  """
  if name not in _CONFIGURABLES:
    raise LoadError(f'no configurable {name!r}' + suggestion(name, _CONFIGURABLES))
  cls = _CONFIGURABLES[name]
  hints = typing.get_type_hints(cls)
  values = {}
  for parameter, value in bound.items():
    values[parameter] = check_type(value, hints[parameter], f'{name}.{parameter}')
  for field in _fields(cls):
    no_default = (
      field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if no_default and field.name not in values:
      raise LoadError(
        f'{name}.{field.name} has no value and no default; bind it in a gin file or with '
        f'--gin.{name}.{field.name}=...'
      )
  try:
    return cls(**values)
  except ValueError as error:
    raise LoadError(f'{name}: {error}') from error


def construct_all(names: Iterable[str], bindings: Iterable[Binding]) -> dict[str, Any]:
  """Builds several configurables from checked bindings, as `load` and `resolve` would.

  Args:
    names: of the configurables to build.
    bindings: of their parameters, each bound once.

  Returns:
    name -> instance, in the order of `names`.

  Raises:
    LoadError: naming the selectors of every parameter that does not exist; or as `construct`.
  """
  sections: dict[str, dict[str, Any]] = {name: {} for name in names}
  known = {name: fields for name, fields in parameters().items() if name in sections}
  problems = []
  for binding in bindings:
    name, _, parameter = binding.selector.rpartition('.')
    problem = name_problem(name, parameter, known)
    if problem is not None:
      problems.append(f"binding '{binding.selector} = {render_value(binding.value)}': {problem}")
    else:
      sections[name][parameter] = binding.value
  if problems:
    raise LoadError('\n'.join(problems))
  return {name: construct(name, bound) for name, bound in sections.items()}


def name_problem(name: str, parameter: str, known: Mapping[str, Sequence[str]]) -> str | None:
  """Explains why `name.parameter` cannot be bound, with the nearest name that can.

  Args:
    name: of a configurable, perhaps misspelt.
    parameter: of it.
    known: name -> parameters of the configurables that may be bound.

  Returns:
    The end of an error message, or None if the parameter exists.
  """
  if name not in known:
    key = f'{name}.{parameter}'
    selectors = []
    for section, fields in known.items():
      selectors += [f'{section}.{field}' for field in fields]
    hint = suggestion(name, known)
    match = nearest(key, selectors)
    elsewhere = [selector for selector in selectors if selector.endswith(f'.{parameter}')]
    if match:
      hint = f"; did you mean '{match}'?"
    elif elsewhere:
      hint = f"; a '{parameter}' has {', '.join(elsewhere)}"
    return f"no configurable '{name}' for '{key}'{hint}"
  if parameter not in known[name]:
    return f"'{name}' has no parameter '{parameter}'{suggestion(parameter, known[name])}"
  return None


def bound(name: str) -> tuple[str, ...]:
  """Lists the parameters of a configurable that some file or flag binds.

  Args:
    name: of a configurable.

  Returns:
    Their names, sorted.
  """
  return tuple(sorted(_loaded(name)))


def override(name: str, instance: Any, fields: Iterable[str]) -> Any:
  """Replaces values of an instance by those that are bound.

  Args:
    name: of a configurable.
    instance: of its class.
    fields: the fields that may be bound.

  Returns:
    A copy of `instance` with the bound values.

  Raises:
    LoadError: as `resolve`, or a field is bound that is not among `fields`.
  """
  fields = tuple(fields)
  resolved = resolve(name)
  changes = {}
  for field in _loaded(name):
    if field not in fields:
      raise LoadError(
        f'{name}.{field} cannot be chosen here, it is given; bind only '
        f'{", ".join(f"{name}.{f}" for f in fields)}'
      )
    changes[field] = getattr(resolved, field)
  try:
    return dataclasses.replace(instance, **changes)
  except ValueError as error:
    raise LoadError(f'{name}: {error}') from error


def resolved_bindings(names: Iterable[str]) -> tuple[Binding, ...]:
  """Records every field of configurables as resolved, bound or default.

  Args:
    names: of configurables.

  Returns:
    Bindings sorted by selector.

  Raises:
    LoadError: as `resolve`.
  """
  result = []
  for name in names:
    instance = resolve(name)
    for field in _field_names(type(instance)):
      result.append(Binding(f'{name}.{field}', getattr(instance, field)))
  return tuple(sorted(result, key=lambda binding: binding.selector))


def check_type(value: Any, annotation: Any, selector: str) -> Any:
  """Converts a value to what an annotation wants.

  Args:
    value: as written.
    annotation: of the field, without `Annotated`.
    selector: 'name.field', for the error message.

  Returns:
    The value; an int as float, or a list as tuple, where the annotation says so.

  Raises:
    LoadError: naming the selector, what was expected and what came.
  """
  converted = _convert(value, annotation)
  if converted is not _MISMATCH:
    return converted
  expected = str(annotation)
  if isinstance(annotation, type) and not typing.get_args(annotation):
    expected = annotation.__name__
  hint = ''
  if isinstance(value, str) and value.capitalize() in ('True', 'False', 'None'):
    hint = f'; write {value.capitalize()}'
  raise LoadError(
    f'{selector} expects {expected.replace("typing.", "")}, got {value!r} '
    f'({type(value).__name__}){hint}'
  )


_MISMATCH = object()
_PLAIN_TYPES = (int, float, bool, str, type(None), tuple, list, dict, ...)
_UNIONS = (typing.Union, types.UnionType)


def _fields(cls: type) -> list[dataclasses.Field]:
  return [field for field in dataclasses.fields(cls) if field.init]


def _field_names(cls: type) -> tuple[str, ...]:
  return tuple(field.name for field in _fields(cls))


def _check_annotation(annotation: Any, where: str) -> None:
  """Raises TypeError for an annotation that `_convert` does not know."""
  origin = typing.get_origin(annotation)
  if origin is typing.Literal or annotation in _PLAIN_TYPES:
    return
  if origin not in (tuple, list, dict, *_UNIONS):
    raise TypeError(
      f'{where}: {annotation!r} cannot be checked; use int, float, bool, str, None, '
      'tuple, list, dict, '
      'unions of those, or typing.Literal'
    )
  for arg in typing.get_args(annotation):
    _check_annotation(arg, where)


def _convert(value: Any, annotation: Any) -> Any:
  """Returns the value as the annotation wants it, or _MISMATCH."""
  origin = typing.get_origin(annotation) or annotation
  args = typing.get_args(annotation)
  if origin in _UNIONS:
    return _convert_to_union(value, args)
  if origin is typing.Literal:
    for arg in args:
      if type(arg) is type(value) and arg == value:
        return arg
    return _MISMATCH
  if origin is float:
    # A huge int would overflow; like an infinity, it is no setting for anything.
    numeric = type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)
    return float(value) if numeric else _MISMATCH
  if origin in (tuple, list):
    return _convert_to_sequence(value, origin, args)
  if type(value) is not origin:
    return _MISMATCH
  if origin is dict and args:
    return _convert_to_dict(value, args[0], args[1])
  return value


def _convert_to_union(value: Any, members: tuple) -> Any:
  # An exact match first, so that `int | float` leaves an int alone.
  for exact in (True, False):
    for member in members:
      converted = _convert(value, member)
      if converted is not _MISMATCH and (not exact or type(converted) is type(value)):
        return converted
  return _MISMATCH


def _convert_to_sequence(value: Any, origin: type, args: tuple) -> Any:
  if type(value) not in (tuple, list):
    return _MISMATCH
  if not args:
    return origin(value)
  if origin is list or (len(args) == 2 and args[1] is ...):
    args = (args[0],) * len(value)
  if len(args) != len(value):
    return _MISMATCH
  items = []
  for item, item_type in zip(value, args, strict=True):
    converted = _convert(item, item_type)
    if converted is _MISMATCH:
      return _MISMATCH
    items.append(converted)
  return origin(items)


def _convert_to_dict(value: dict, key_type: Any, item_type: Any) -> Any:
  items = {}
  for key, item in value.items():
    converted_key = _convert(key, key_type)
    converted_item = _convert(item, item_type)
    if converted_key is _MISMATCH or converted_item is _MISMATCH:
      return _MISMATCH
    items[converted_key] = converted_item
  return items
