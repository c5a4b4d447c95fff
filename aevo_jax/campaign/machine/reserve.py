"""The reserve: bytes that a run holds back, so that a full disk can still take a few records."""

import os
import pathlib

FILE = '.reserve'
BYTES = 2**18


class Reserve:
  """A file of a run that is removed when the disk is full.

  Args:
    run: the run directory.
  """

  def __init__(self, run: pathlib.Path):
    self._path = run / FILE

  def take(self) -> None:
    """Writes the file, unless it is there.

    Raises:
      OSError: the disk has no room for it.
    """
    if self._path.exists() and self._path.stat().st_size == BYTES:
      return
    with self._path.open('wb') as file:
      file.write(os.urandom(BYTES))  # no file system saves on those
      file.flush()
      os.fsync(file.fileno())

  def release(self) -> None:
    """Removes the file, as far as the disk lets it."""
    try:
      self._path.unlink(missing_ok=True)
    except OSError:
      return  # read-only: then no record can be written either
