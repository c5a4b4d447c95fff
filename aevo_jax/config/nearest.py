"""Suggest the legal name nearest to a misspelt one, so that every 'unknown name' error also names
its fix.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, legal: Iterable[str]) -> str | None:
  """Returns the legal name most similar to `name` (difflib ratio of at least 0.6), or None."""
  matches = difflib.get_close_matches(name, sorted(set(legal)), n=1)
  return matches[0] if matches else None


def suggestion(name: str, legal: Iterable[str]) -> str:
  """Returns "; did you mean 'x'?", or the legal names when none is near, ready to end an error
  message.
  """
  legal = sorted(set(legal))
  match = nearest(name, legal)
  if match is not None:
    return f"; did you mean '{match}'?"
  if not legal:
    return '; there is none to choose from'
  shown = ', '.join(legal[:8])
  return f'; known: {shown}' + (f' and {len(legal) - 8} more' if len(legal) > 8 else '')
