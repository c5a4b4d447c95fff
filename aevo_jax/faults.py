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


def explain(error: OSError) -> str:
  """Words an error of the operating system.

  Args:
    error: with its errno and file names, where it has them.

  Returns:
    'PATH: what is wrong and what to do' for errors that a person can mend; else the system's words.
  """
  message = error.strerror or str(error)
  if error.errno in _ADVICE:
    message = _ADVICE[error.errno]
  paths = [str(name) for name in (error.filename, error.filename2) if name]
  if not paths:
    return message
  return f'{" -> ".join(paths)}: {message}'
