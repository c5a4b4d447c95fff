"""fsync for files, directories and whole trees.

A rename survives a power cut only if what it names was synced before.
"""

import os
from pathlib import Path


def fsync(path: str | os.PathLike) -> None:
  """Flushes data to the disk.

  Args:
    path: of a file, whose data is flushed, or of a directory, whose list of names is.
  """
  descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def fsync_tree(directory: str | os.PathLike) -> None:
  """Flushes every file below a directory to the disk.

  Args:
    directory: flushed last; each directory below it is flushed after its entries.
  """
  for parent, _, names in os.walk(directory, topdown=False):
    for name in names:
      fsync(Path(parent) / name)
    fsync(parent)
