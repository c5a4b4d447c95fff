"""JSON as people and models write it, read without guessing.

Python's `json` keeps the last of two equal keys and takes NaN and Infinity, which JSON has not.
"""

import json
from typing import Any


class DuplicateKeyError(ValueError):
  """An object holds one key twice."""


def loads(text: str) -> Any:
  """Parses one JSON value.

  Args:
    text: the whole of it; white space around it is fine.

  Returns:
    The value.

  Raises:
    DuplicateKeyError: an object holds one key twice; the message names the key.
    ValueError: anything else that is not JSON, NaN and Infinity among it.
    RecursionError: nested too deeply.
  """
  return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def first_value(text: str, start: int) -> tuple[Any, int]:
  """Parses the JSON value that begins at a character of a text.

  Args:
    text: JSON with anything behind it.
    start: index of the value's first character.

  Returns:
    The value, and the index behind it.

  Raises:
    DuplicateKeyError: as `loads`.
    ValueError: no JSON value begins there.
    RecursionError: nested too deeply.
  """
  return _DECODER.raw_decode(text, start)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  value = dict(pairs)
  if len(value) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise DuplicateKeyError(f'the key {twice!r} stands twice in one object')
  return value


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is no JSON')


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
