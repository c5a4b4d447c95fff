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
  """'PATH: what is wrong and what to do', for errors that a person can mend; else the system's own
  words.
  """
  what = _ADVICE.get(error.errno, error.strerror or str(error))
  paths = ' -> '.join(str(name) for name in (error.filename, error.filename2) if name)
  return f'{paths}: {what}' if paths else what
