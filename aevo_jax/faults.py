"""Errors of the operating system in words a person can act on.

`MACHINE` lists those that say something of the machine and nothing of what ran on it: the same
work succeeds once they are mended.
"""

import errno
import os
import re

AGAIN = 'run the same command again'

# errno -> cause, as records and messages name it.
MACHINE = {
  errno.ENOSPC: 'disk_full',
  errno.EDQUOT: 'disk_quota',
  errno.EFBIG: 'file_size_limit',
  errno.EROFS: 'disk_read_only',
  errno.EIO: 'disk_error',
  errno.ENOMEM: 'out_of_memory',
  errno.EMFILE: 'open_files_limit',
  errno.ENFILE: 'open_files_limit',
}
OUT_OF_MEMORY = 'the memory is used up; free some or raise its limit (ulimit -v), then {again}'
# What JAX says where a device has no memory left, as RuntimeError.
DEVICE_OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'
# What Python's threads and the loader of libraries say where memory or its limit is used up.
_NO_MEMORY = (DEVICE_OUT_OF_MEMORY, "can't start new thread", 'failed to map segment')
_ADVICE = {
  errno.ENOSPC: 'the disk is full; free space, then {again}',
  errno.EDQUOT: 'your disk quota is used up; free space, then {again}',
  errno.EFBIG: 'the file has reached the size limit (ulimit -f); raise it, then {again}',
  errno.EROFS: 'the file system is read-only; make it writable, then {again}',
  errno.EIO: 'the disk fails (input/output error); mend or replace it, then {again}',
  errno.ENOMEM: OUT_OF_MEMORY,
  errno.EMFILE: 'too many files are open (ulimit -n); raise the limit, then {again}',
  errno.ENFILE: 'too many files are open on this machine; close some, then {again}',
  errno.EACCES: 'no permission; choose a directory that is yours',
  errno.ENOENT: 'there is no such file or directory',
  errno.EISDIR: 'that is a directory, a file is needed',
  errno.ENOTDIR: 'a file is in the place of a directory',
}
# How libraries that are not written in Python spell an errno: Rust's, and TensorStore's.
_LFS = b'version https://git-lfs'
_NUMBER = re.compile(r'\(os error (\d+)\)|OS error (\d+)')


def words(error: OSError, again: str = AGAIN) -> str:
  """Words an error of the operating system without its paths, as `explain` does."""
  message = error.strerror or str(error)
  if error.errno in _ADVICE:
    message = _ADVICE[error.errno].format(again=again)
  return message


def explain(error: OSError, again: str = AGAIN) -> str:
  """Words an error of the operating system.

  Args:
    error: with its errno and file names, where it has them.
    again: what to do once it is mended.

  Returns:
    'PATH: what is wrong and what to do' for errors that a person can mend; else the system's words.
  """
  paths = [str(name) for name in (error.filename, error.filename2) if name]
  if not paths:
    return words(error, again)
  return f'{" -> ".join(paths)}: {words(error, again)}'


def system_errno(message: str) -> int | None:
  """Finds the machine's error in the words of a library that raises no OSError.

  Args:
    message: of TensorStore, safetensors or another.

  Returns:
    A key of `MACHINE` or EACCES, None where the message names neither.
  """
  known = (*MACHINE, errno.EACCES)
  for match in _NUMBER.finditer(message):
    code = int(match[1] or match[2])
    if code in known:
      return code
  for code in known:
    if os.strerror(code) in message:
      return code
  return None


def is_lfs_pointer(path: str | os.PathLike[str]) -> bool:
  """Tells whether a file holds what Git LFS puts in the place of one that it did not download."""
  try:
    with open(path, 'rb') as file:
      return file.read(len(_LFS)) == _LFS
  except OSError:
    return False


def again(path: str | os.PathLike[str]) -> str:
  """Says how to come by a file of a checkpoint that cannot be read."""
  if is_lfs_pointer(path):
    return "it is Git LFS's pointer to the file; run `git lfs pull` in its directory"
  return 'download it again'


def is_out_of_memory(error: BaseException) -> bool:
  """Tells whether an error says that the memory of this process, or its limit, is used up."""
  if isinstance(error, OSError):
    return error.errno == errno.ENOMEM
  known = isinstance(error, (RuntimeError, ImportError))
  return isinstance(error, MemoryError) or (known and any(w in str(error) for w in _NO_MEMORY))


def is_machines(error: BaseException) -> bool:
  """Tells whether an error is the machine's and not the program's."""
  return isinstance(error, OSError) and error.errno in MACHINE
