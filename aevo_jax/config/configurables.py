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
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from aevo_jax.config.constraints import checked
from aevo_jax.config.nearest import nearest, suggestion
from aevo_jax.config.statements import Binding, render_value

# A prefix for gin's registry. Gin matches selectors by suffix, so two names such as 'loss' and
# 'dpo.loss' would be ambiguous to it; complete names never are.
_GIN_PREFIX = 'aevo.'

_CONFIGURABLES: dict[str, type] = {}
_KNOWN_TO_GIN: set[str] = set()


class LoadError(ValueError):
  """A mistake in a gin file, a binding or a flag. The message names the place and, where there is
  one, the fix.
  """


def configurable(name: str):
  """Decorator: makes the fields of a frozen dataclass bindable as 'name.field'.

  Annotations may be int, float, bool, str, None, tuples, lists and dicts of those, unions and
  typing.Literal, and in `Annotated` the ranges and choices that `constraints` checks.

  Raises:
      TypeError: not a frozen dataclass, or an annotation that cannot be checked.
      ValueError: the name is taken by another class.
  """

  def register(cls: type) -> type:
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:
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
  return {name: tuple(field.name for field in _fields(cls)) for name, cls in _CONFIGURABLES.items()}


def gin_selector(name: str) -> str:
  """Returns the complete name under which gin knows a configurable."""
  return _GIN_PREFIX + name


def resolve(name: str) -> Any:
  """Returns the dataclass registered as `name`, with every bound parameter and the defaults of the
  others.

  Ints become floats where a float is annotated, lists become tuples where a tuple is.

  Raises:
      LoadError: nothing loaded yet, an unknown name, a value of the wrong type, a parameter without
        value, or a
          ValueError from the dataclass' own `__post_init__`.
  """
  if not gin.config_is_locked():
    raise LoadError(f'{name} was resolved before the configuration was loaded; call load() first')
  if name not in _KNOWN_TO_GIN:
    return construct(name, {})
  return construct(name, gin.get_bindings(_GIN_PREFIX + name, inherit_scopes=False))


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
  values = {
    field: check_type(value, hints[field], f'{name}.{field}') for field, value in bound.items()
  }
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
  problems = []
  for binding in bindings:
    name, _, parameter = binding.selector.rpartition('.')
    problem = name_problem(name, parameter, sections)
    if problem is not None:
      problems.append(f"binding '{binding.selector} = {render_value(binding.value)}': {problem}")
    else:
      sections[name][parameter] = binding.value
  if problems:
    raise LoadError('\n'.join(problems))
  return {name: construct(name, bound) for name, bound in sections.items()}


def name_problem(name: str, parameter: str, names: Iterable[str]) -> str | None:
  """Explains why `name.parameter` cannot be bound, with the nearest name that can.

  Args:
    name: of a configurable, perhaps misspelt.
    parameter: of it.
    names: of the configurables that may be bound.

  Returns:
    The end of an error message, or None if the parameter exists.
  """
  known = {name: fields for name, fields in parameters().items() if name in names}
  if name not in known:
    key = f'{name}.{parameter}'
    match = nearest(key, [f'{section}.{field}' for section in known for field in known[section]])
    hint = f"; did you mean '{match}'?" if match else suggestion(name, known)
    return f"no configurable '{name}' for '{key}'{hint}"
  if parameter not in known[name]:
    return f"'{name}' has no parameter '{parameter}'{suggestion(parameter, known[name])}"
  return None


def bound(name: str) -> tuple[str, ...]:
  """Returns the parameters of a configurable that some file or flag binds, by name."""
  return (
    tuple(sorted(gin.get_bindings(_GIN_PREFIX + name, inherit_scopes=False)))
    if name in _KNOWN_TO_GIN
    else ()
  )


def override(name: str, instance: Any, fields: Iterable[str]) -> Any:
  """Returns `instance`, of the class registered as `name`, with what is bound in place of its own
  values.

  Raises:
      LoadError: as `resolve`, or a field is bound that is not among `fields`.
  """
  fields = tuple(fields)
  resolved, bound = resolve(name), gin.get_bindings(_GIN_PREFIX + name, inherit_scopes=False)
  for field in bound:
    if field not in fields:
      raise LoadError(
        f'{name}.{field} cannot be chosen here, it is given; bind only '
        f'{", ".join(f"{name}.{f}" for f in fields)}'
      )
  try:
    return dataclasses.replace(instance, **{field: getattr(resolved, field) for field in bound})
  except ValueError as error:
    raise LoadError(f'{name}: {error}') from error


def resolved_bindings(names: Iterable[str]) -> tuple[Binding, ...]:
  """Returns every field of the named configurables, as resolved, sorted by selector. Raises as
  `resolve`.
  """
  result = []
  for name in names:
    instance = resolve(name)
    result += [
      Binding(f'{name}.{field.name}', getattr(instance, field.name))
      for field in _fields(type(instance))
    ]
  return tuple(sorted(result, key=lambda binding: binding.selector))


def check_type(value: Any, annotation: Any, selector: str) -> Any:
  """Returns `value` as the annotation wants it. Raises LoadError naming selector, expected and got."""
  converted = _convert(value, annotation)
  if converted is _MISMATCH:
    expected = (
      annotation.__name__
      if isinstance(annotation, type) and not typing.get_args(annotation)
      else str(annotation)
    )
    raise LoadError(
      f'{selector} expects {expected.replace("typing.", "")}, got {value!r} '
      f'({type(value).__name__})'
    )
  return converted


_MISMATCH = object()


def _fields(cls: type) -> list[dataclasses.Field]:
  return [field for field in dataclasses.fields(cls) if field.init]


def _check_annotation(annotation: Any, where: str) -> None:
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is typing.Literal or annotation in (
    int,
    float,
    bool,
    str,
    type(None),
    tuple,
    list,
    dict,
    ...,
  ):
    return
  if origin not in (tuple, list, dict, typing.Union, types.UnionType):
    raise TypeError(
      f'{where}: {annotation!r} cannot be checked; use int, float, bool, str, None, '
      'tuple, list, dict, '
      'unions of those, or typing.Literal'
    )
  for arg in args:
    _check_annotation(arg, where)


def _convert(value: Any, annotation: Any) -> Any:
  origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    # An exact match first, so that `int | float` leaves an int alone.
    for exact in (True, False):
      for arg in args:
        converted = _convert(value, arg)
        if converted is not _MISMATCH and (not exact or type(converted) is type(value)):
          return converted
    return _MISMATCH
  if origin is typing.Literal:
    return next((arg for arg in args if type(arg) is type(value) and arg == value), _MISMATCH)
  if origin is float:
    # A huge int would overflow; like an infinity, it is no setting for anything.
    numeric = type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)
    return float(value) if numeric else _MISMATCH
  if origin in (tuple, list):
    if type(value) not in (tuple, list):
      return _MISMATCH
    variadic = origin is list or (len(args) == 2 and args[1] is ...)
    if args and not variadic and len(args) != len(value):
      return _MISMATCH
    item_types = [args[0]] * len(value) if args and variadic else args or [None] * len(value)
    items = [
      _convert(item, item_type) if args else item
      for item, item_type in zip(value, item_types, strict=True)
    ]
    return _MISMATCH if any(item is _MISMATCH for item in items) else origin(items)
  if origin is dict:
    if type(value) is not dict:
      return _MISMATCH
    if not args:
      return value
    items = [(_convert(key, args[0]), _convert(item, args[1])) for key, item in value.items()]
    return _MISMATCH if any(_MISMATCH in pair for pair in items) else dict(items)
  return value if type(value) is origin else _MISMATCH
