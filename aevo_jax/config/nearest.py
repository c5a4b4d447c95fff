"""The legal name nearest to a misspelt one: every 'unknown name' error names its fix."""

import difflib
import os
from collections.abc import Iterable, Sequence

_SHOWN = 8
_SEARCHED_DEPTH = 3  # folders below a search path in which a missing file's neighbours are
# Of 29 English words that are none of ours, 13 have a name of ours at a ratio of 0.6, two at 0.75:
# both are words that we use. Misspellings of one letter in four, or of two in eight, reach 0.75.
CUTOFF = 0.75


def nearest(name: str, legal: Iterable[str]) -> str | None:
  """Finds the most similar legal name.

  Args:
    name: as written, misspelt.
    legal: the names to choose from.

  Returns:
    One of the same letters; or one with a difflib ratio of at least `CUTOFF`, each part between
    dots for itself; else None.
  """
  legal = sorted(set(legal))
  for match in legal:
    if sorted(match) == sorted(name):
      return match  # letters that changed places are the commonest slip
  for match in difflib.get_close_matches(name, legal, n=len(legal) or 1, cutoff=CUTOFF):
    if _parts_are_near(name.split('.'), match.split('.')):
      return match
  return None


def _parts_are_near(one: list[str], other: list[str]) -> bool:
  """Whether dotted names are near part by part: a long section must not excuse another field."""
  if len(one) != len(other):
    return True
  for part, match in zip(one, other, strict=True):
    if difflib.SequenceMatcher(None, match, part).ratio() < CUTOFF:
      return False
  return True


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


def nearest_file(path: str, roots: Sequence[str], suffix: str) -> str | None:
  """Finds the file that was most likely meant, by its path or by its name alone.

  Args:
    path: of a file that is missing.
    roots: folders near whose top it may lie; they may also hold runs and environments, which are
      large.
    suffix: of the files to choose from.

  Returns:
    A path relative to its root, or None where none is near.
  """
  files = []
  for root in roots:
    files += _files_near_the_top(root, suffix)
  match = nearest(path, files)
  if match is not None:
    return match
  by_name = {os.path.basename(file): file for file in files}
  close = nearest(os.path.basename(path), by_name)
  return by_name[close] if close else None


def _files_near_the_top(root: str, suffix: str) -> list[str]:
  """Lists the files near the top of a folder, relative to it."""
  files = []
  for directory, names, file_names in os.walk(root):
    inside = os.path.relpath(directory, root)
    depth = 0 if inside == '.' else inside.count(os.sep) + 1
    if depth < _SEARCHED_DEPTH:
      names[:] = [name for name in names if not name.startswith('.')]
    else:
      names.clear()
    for name in file_names:
      if name.endswith(suffix):
        files.append(os.path.normpath(os.path.join(inside, name)))
  return files
