"""The legal name nearest to a misspelt one: every 'unknown name' error names its fix."""

import difflib
from collections.abc import Iterable

_SHOWN = 8


def nearest(name: str, legal: Iterable[str]) -> str | None:
  """Finds the most similar legal name.

  Args:
    name: as written, misspelt.
    legal: the names to choose from.

  Returns:
    One with a difflib ratio of at least 0.6, or None.
  """
  matches = difflib.get_close_matches(name, sorted(set(legal)), n=1)
  return matches[0] if matches else None


def suggestion(name: str, legal: Iterable[str]) -> str:
  """Words the end of an error message about an unknown name.

  Args:
    name: as written, misspelt.
    legal: the names to choose from.

  Returns:
    "; did you mean 'x'?", or the first legal names where none is near.
  """
  legal = sorted(set(legal))
  match = nearest(name, legal)
  if match is not None:
    return f"; did you mean '{match}'?"
  if not legal:
    return '; there is none to choose from'
  shown = f'; known: {", ".join(legal[:_SHOWN])}'
  if len(legal) > _SHOWN:
    shown += f' and {len(legal) - _SHOWN} more'
  return shown
