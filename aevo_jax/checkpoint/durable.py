"""fsync for files, directories and whole trees: a rename survives a power cut only if what it names
was synced before.
"""

import os
from pathlib import Path


def fsync(path: str | os.PathLike) -> None:
  """Flushes one file's data, or one directory's list of names, to the disk."""
  descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def fsync_tree(directory: str | os.PathLike) -> None:
  """Flushes every file below `directory`, each directory after its entries, and `directory` last."""
  for parent, _, names in os.walk(directory, topdown=False):
    for name in names:
      fsync(Path(parent) / name)
    fsync(parent)
