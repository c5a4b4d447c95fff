"""Errors of the operating system in words a person can act on."""

import errno

_ADVICE = {
  errno.ENOSPC: 'the disk is full; free space, then run the same command again',
  errno.EDQUOT: 'your disk quota is used up; free space, then run the same command again',
  errno.EFBIG: (
    'the file has reached the size limit (ulimit -f); raise it, then run the same command again'
  ),
  errno.EACCES: 'no permission; choose a directory that is yours',
  errno.EROFS: 'the file system is read-only; choose another directory',
  errno.ENOENT: 'there is no such file or directory',
  errno.EISDIR: 'that is a directory, a file is needed',
  errno.ENOTDIR: 'a file is in the place of a directory',
}


def words(error: OSError) -> str:
  """Words an error of the operating system without its paths, as `explain` does."""
  return _ADVICE.get(error.errno or 0) or error.strerror or str(error)


def explain(error: OSError) -> str:
  """Words an error of the operating system.

  Args:
    error: with its errno and file names, where it has them.

  Returns:
    'PATH: what is wrong and what to do' for errors that a person can mend; else the system's words.
  """
  paths = [str(name) for name in (error.filename, error.filename2) if name]
  if not paths:
    return words(error)
  return f'{" -> ".join(paths)}: {words(error)}'
