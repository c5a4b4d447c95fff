"""Checks of config.json that every family's reader needs."""

from collections.abc import Iterable, Mapping
from typing import Any


def require(fields: Mapping[str, Any], names: Iterable[str]) -> None:
  """Checks that config.json has some fields.

  Args:
    fields: config.json.
    names: the fields that it must have, whatever their values.

  Raises:
    ValueError: with the names of those that are missing.
  """
  missing = [name for name in names if name not in fields]
  if missing:
    raise ValueError(f'config.json lacks {missing}')


def allow_only(fields: Mapping[str, Any], values: Mapping[str, Any]) -> None:
  """Checks that config.json asks for nothing that the decoder does not compute.

  Args:
    fields: config.json; a field may be missing.
    values: the one value of each field that the decoder computes.

  Raises:
    ValueError: with the fields that have another value.
  """
  other = []
  for name, value in values.items():
    if fields.get(name, value) != value:
      other.append(f'{name} = {fields[name]!r} (only {value!r})')
  if other:
    raise ValueError(f'config.json asks for what this decoder does not compute: {", ".join(other)}')
