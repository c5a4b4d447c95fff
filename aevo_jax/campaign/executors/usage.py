"""What the processes and files of a job take of the machine."""

import os
import pathlib

_BLOCK = 512  # unit of st_blocks
_PAGE = os.sysconf('SC_PAGE_SIZE')


def disk_bytes(directory: pathlib.Path) -> int:
  """Adds up what a directory takes of the disk; holes in files take nothing.

  Args:
    directory: may be written to meanwhile; what is gone when its turn comes does not count.
  """
  total = 0
  for parent, _, names in os.walk(directory):
    for name in names:
      try:
        total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK
      except OSError:
        continue
  return total


def memory_bytes(group: int) -> int:
  """Adds up the resident memory of a process group.

  Args:
    group: id of its leader; processes that ended meanwhile do not count.
  """
  total = 0
  for name in os.listdir('/proc'):
    if not name.isdigit():
      continue
    try:
      if os.getpgid(int(name)) == group:
        resident = pathlib.Path('/proc', name, 'statm').read_text().split()[1]
        total += int(resident) * _PAGE
    except (OSError, IndexError):
      continue
  return total
