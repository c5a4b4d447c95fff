"""One digest for the code that a trial runs, the same in a checkout and in an installed wheel.

Only Python sources of the package count, by path and content. Caches do not, nor do the folders
that a wheel maps into the package (`_launch`, `_configs`, `_substrate`): in a checkout those lie
beside it, and naming them here would give one code two digests. A launcher or configuration that
matters is passed as an extra file.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from aevo_jax.checkpoint.digest import file_digest

PACKAGE = 'aevo_jax'
_NOT_CODE = frozenset({'__pycache__', '_launch', '_configs', '_substrate'})


def code_tree_digest(
  root: str | os.PathLike, extra: Sequence[str] = ()
) -> tuple[str, dict[str, str]]:
  """Computes the digest of `aevo_jax/**/*.py` and of extra files.

  Args:
    root: the directory that holds `aevo_jax/`: a checkout, or site-packages.
    extra: paths relative to `root` of further files.

  Returns:
    (SHA-256 over the canonical JSON of the second element, relative POSIX path -> SHA-256 of that
    file).

  Raises:
    FileNotFoundError: there is no `aevo_jax/` under `root`, or an extra file is missing.
    OSError: a source is a symbolic link, which can change without the tree changing.
  """
  root = Path(root)
  package = root / PACKAGE
  if not package.is_dir():
    raise FileNotFoundError(
      f'{root} holds no {PACKAGE}/; pass the directory that contains the package'
    )
  paths = [root / name for name in extra]
  for parent, directories, names in os.walk(package):
    linked = [name for name in directories if (Path(parent) / name).is_symlink()]
    if linked:
      raise OSError(
        f'{Path(parent) / linked[0]} is a symbolic link; the code tree must hold its own files'
      )
    directories[:] = [name for name in directories if name not in _NOT_CODE]
    paths += [Path(parent) / name for name in names if name.endswith('.py')]
  digests = {path.relative_to(root).as_posix(): file_digest(path) for path in paths}
  files = dict(sorted(digests.items()))
  text = json.dumps(files, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode('ascii')).hexdigest(), files
