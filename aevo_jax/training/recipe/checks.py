"""Checks that recipes share: a value out of its range, and a setting that nothing reads, are
refused before anything runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


def choice(name: str, value: str, options: Sequence[str]) -> None:
  """Raises ValueError unless `value` is one of `options`."""
  if value not in options:
    raise ValueError(f'{name} must be one of {tuple(options)}, got {value!r}')


def between(name: str, value: float, low: float, high: float) -> None:
  """Raises ValueError unless low <= value <= high."""
  if not low <= value <= high:
    raise ValueError(f'{name} must lie in [{low}, {high}], got {value}')


def positive(name: str, value: float) -> None:
  """Raises ValueError unless value > 0."""
  if not value > 0:
    raise ValueError(f'{name} must be > 0, got {value}')


def refuse_unread(
  settings: Any, name: str, conditions: Mapping[tuple[str, ...], tuple[str, Sequence[str]]]
) -> None:
  """Refuses values other than the default of fields that nothing reads.

  Args:
    settings: a frozen dataclass. name: under which its fields are bound.
    conditions: fields -> (the field on which they depend, and those of its values under which they
      are read).

  Raises:
    ValueError: naming the field and what would make it act.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(settings)}
  for dependents, (switch, values) in conditions.items():
    for field in dependents:
      if getattr(settings, switch) not in values and getattr(settings, field) != defaults[field]:
        raise ValueError(
          f'{name}.{field} = {getattr(settings, field)!r} is read by nothing while '
          f'{name}.{switch} = {getattr(settings, switch)!r}; '
          f'leave it out, or bind {switch} to {" or ".join(map(repr, values))}'
        )
