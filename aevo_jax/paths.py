"""Paths that people name: what must exist, and what is to be made.

Each function returns what is wrong with a path and what to do, or None. They change nothing, so a
command asks them before it starts. They ask `os.path`, which answers where pathlib raises: for a
name that is too long, and below what nobody may read.
"""

import errno
import os
import pathlib

from aevo_jax import faults

_NAME_BYTES = 255  # of one name, in every file system of Linux


def missing(path: pathlib.Path) -> str | None:
  """Says what is wrong with a path that must exist."""
  error = _stat_error(path)
  if error is None:
    return None
  if os.path.islink(path):
    return 'it is a symbolic link that leads nowhere'
  words = faults.words(error)
  parts = path.parts
  if len(parts) == 2 and parts[0] not in (os.sep, '.', '..'):
    words += '; a name on a hub is not downloaded, give the directory of a copy'
  return words


def not_new(path: pathlib.Path) -> str | None:
  """Says what is wrong with a directory that is to be made, and must not exist."""
  if os.path.islink(path) and not os.path.exists(path):
    return 'it is a symbolic link that leads nowhere; remove it, or choose another directory'
  if os.path.exists(path):
    return 'it exists; choose another directory'
  return _unmakeable(path)


def not_fillable(path: pathlib.Path) -> str | None:
  """Says what is wrong with a directory that is to be made, or to be gone on with."""
  if os.path.islink(path) and not os.path.exists(path):
    return 'it is a symbolic link that leads nowhere; remove it, or choose another directory'
  if not os.path.exists(path):
    return _unmakeable(path)
  if not path.is_dir():
    return 'it is a file, and a directory is needed'
  if not os.access(path, os.W_OK | os.X_OK):
    return _not_writable(path)
  return None


def _stat_error(path: pathlib.Path) -> OSError | None:
  try:
    path.stat()
  except OSError as error:
    return error
  return None


def _unmakeable(path: pathlib.Path) -> str | None:
  """Says why a directory that does not exist cannot be made."""
  if len(path.name.encode()) > _NAME_BYTES:
    return f'the name has more than {_NAME_BYTES} bytes'
  parent = next(p for p in path.absolute().parents if os.path.lexists(p))
  if not parent.is_dir():
    return f'{parent} is a file, so nothing can lie below it'
  if not os.access(parent, os.W_OK | os.X_OK):
    return f'in {parent}, {_not_writable(parent)}'
  return None


def _not_writable(path: pathlib.Path) -> str:
  read_only = os.statvfs(path).f_flag & os.ST_RDONLY
  return faults.words(OSError(errno.EROFS if read_only else errno.EACCES, ''))
