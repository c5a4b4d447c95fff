"""What every family's reader of config.json refuses."""

from collections.abc import Iterable, Mapping
from typing import Any


def require(fields: Mapping[str, Any], names: Iterable[str]) -> None:
  """Raises ValueError with the names that a config.json lacks."""
  missing = [name for name in names if name not in fields]
  if missing:
    raise ValueError(f'config.json lacks {missing}')


def allow_only(fields: Mapping[str, Any], values: Mapping[str, Any]) -> None:
  """Raises ValueError with the fields that are there and have another value than the decoder
  computes.
  """
  other = [
    f'{name} = {fields[name]!r} (only {value!r})'
    for name, value in values.items()
    if fields.get(name, value) != value
  ]
  if other:
    raise ValueError(f'config.json asks for what this decoder does not compute: {", ".join(other)}')
