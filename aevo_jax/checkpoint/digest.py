"""Digests of weights: of the tensors themselves, and of one copy's files on disk.

Orbax chooses random file names and may lay equal arrays out differently, so a checkpoint's
*identity* is a digest of its tensors: name, dtype, shape and bytes of each, in the order of the
names. A *stored copy* has a manifest with the SHA-256 of each file, kept in the copy as
`MANIFEST.json`; Orbax has no checksum of its own on the values (a flipped bit is restored as
another weight without a word), so every restore checks the manifest first.

The digest of the manifest's bytes, `manifest_digest`, is what the substrate store names an object
by.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

MANIFEST_NAME = 'MANIFEST.json'


class ManifestError(Exception):
  """A directory is not what its manifest says.

  Attributes:
    directory: with the manifest.
    missing: files of the manifest that are not there.
    extra: files that are there and not in the manifest.
    changed: files with another digest than the manifest's.
  """

  def __init__(
    self,
    directory: Path,
    reason: str = '',
    *,
    missing: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    changed: tuple[str, ...] = (),
  ):
    parts = []
    for word, names in (('missing', missing), ('extra', extra), ('changed', changed)):
      if names:
        parts.append(f'{word}: {", ".join(names)}')
    detail = reason or 'does not match its manifest; ' + '; '.join(parts)
    super().__init__(
      f'{directory} {detail}. Restore this directory from a copy, or make it again; it '
      'must not be used'
    )
    self.directory = directory
    self.missing = missing
    self.extra = extra
    self.changed = changed


def logical_digest(flat: Mapping[str, ArrayLike]) -> str:
  """Computes the SHA-256 of named arrays, whatever their container, byte order or memory layout.

  Args:
    flat: name -> numpy or (fully addressable) JAX array of any shape, of boolean, integer, floating
      or complex dtype, bfloat16 and the other ml_dtypes included.

  Returns:
    64 hex digits. Equal exactly if names, dtypes, shapes and bits agree; so 0.0 and -0.0 differ,
    and so do two NaNs with other payloads.

  Raises:
    TypeError: a name that is not a string, or a dtype without a defined byte representation
      (objects, strings, structures, typed PRNG keys), naming the array.
  """
  digest = hashlib.sha256()
  for name in flat:
    if not isinstance(name, str):
      raise TypeError(f"array names are strings such as 'layers/0/kernel'; got {name!r}")
  for name in sorted(flat):
    array = _little_endian(name, flat[name])
    # The header's length is fixed by its newline and the data's by shape and dtype, so no two
    # inputs share a stream.
    digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b'\n')
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def file_manifest(directory: str | os.PathLike) -> dict[str, str]:
  """Hashes every regular file below a directory, except its `MANIFEST.json`.

  Empty directories do not count: they hold nothing that could be restored.

  Args:
    directory: of a stored copy.

  Returns:
    Relative POSIX path -> SHA-256 (hex), sorted by path.

  Raises:
    ManifestError: a symbolic link, device, socket or pipe lies below it, or it is itself a link. A
      link would let the bytes change without the directory changing.
    FileNotFoundError, NotADirectoryError: it is not a directory.
  """
  directory = Path(directory)
  if directory.is_symlink():
    raise ManifestError(directory, 'is a symbolic link, which a manifest cannot vouch for')
  files: dict[str, str] = {}
  _hash_below(directory, directory, files)
  files.pop(MANIFEST_NAME, None)
  return dict(sorted(files.items()))


def write_manifest(directory: str | os.PathLike) -> dict[str, str]:
  """Writes `MANIFEST.json` for the files now in a directory, and fsyncs it.

  Args:
    directory: of a stored copy.

  Returns:
    The manifest's files, as `file_manifest` gives them.
  """
  directory = Path(directory)
  files = file_manifest(directory)
  with open(directory / MANIFEST_NAME, 'wb') as file:
    file.write(manifest_bytes(files))
    file.flush()
    os.fsync(file.fileno())
  return files


def verify_manifest(directory: str | os.PathLike) -> dict[str, str]:
  """Hashes every file in a directory against its `MANIFEST.json`.

  Args:
    directory: of a stored copy.

  Returns:
    The manifest's files, relative POSIX path -> SHA-256 (hex).

  Raises:
    ManifestError: naming all missing, extra and changed files; or the manifest is absent or
      damaged.
  """
  directory = Path(directory)
  expected = read_manifest(directory)
  files = file_manifest(directory)
  if files == expected:
    return expected
  common = sorted(expected.keys() & files.keys())
  raise ManifestError(
    directory,
    missing=tuple(sorted(expected.keys() - files.keys())),
    extra=tuple(sorted(files.keys() - expected.keys())),
    changed=tuple(name for name in common if expected[name] != files[name]),
  )


def read_manifest(directory: str | os.PathLike) -> dict[str, str]:
  """Reads the files that `MANIFEST.json` claims, without checking them.

  Args:
    directory: of a stored copy.

  Returns:
    Relative POSIX path -> SHA-256 (hex).

  Raises:
    ManifestError: there is no manifest, or it is damaged.
  """
  directory = Path(directory)
  path = directory / MANIFEST_NAME
  if path.is_symlink() or not path.is_file():
    raise ManifestError(
      directory,
      f'has no {MANIFEST_NAME}: its writer did not finish, or it was not written by save()',
    )
  data = path.read_bytes()
  files = None
  try:
    files = json.loads(data)['files']
    # One spelling only: a flipped bit in white space or in an unread key must not go unnoticed
    # either.
    canonical = isinstance(files, dict) and manifest_bytes(files) == data
  except (ValueError, KeyError, TypeError, RecursionError):
    canonical = False
  if files is None or not canonical:
    raise ManifestError(directory, f'has a damaged {MANIFEST_NAME}')
  return files


def manifest_bytes(files: Mapping[str, str]) -> bytes:
  """Returns the one text of a manifest."""
  return json.dumps({'schema': 1, 'files': files}, sort_keys=True, indent=0).encode('ascii') + b'\n'


def manifest_digest(files: Mapping[str, str]) -> str:
  """Computes the digest that names every file's path and content at once.

  Args:
    files: relative POSIX path -> SHA-256 (hex).

  Returns:
    SHA-256 (hex) of the manifest's text.
  """
  return hashlib.sha256(manifest_bytes(files)).hexdigest()


def file_digest(path: str | os.PathLike) -> str:
  """Computes the SHA-256 (hex) of one regular file.

  Args:
    path: of the file.

  Raises:
    OSError: it is no regular file; a symbolic link is not followed.
  """
  # NONBLOCK: a pipe that someone put in the file's place must not hang the reader.
  descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
  with open(descriptor, 'rb') as file:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      raise OSError(f'{path} is not a regular file')
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _little_endian(name: str, value: ArrayLike) -> np.ndarray:
  if str(getattr(value, 'dtype', '')).startswith('key<'):
    raise TypeError(f'array {name!r} is a typed PRNG key; pass jax.random.key_data(key)')
  array = np.asarray(value)
  # ml_dtypes' floats have kind 'V' like structures, but a name of their own and no fields.
  is_ml_dtype = (
    array.dtype.kind == 'V'
    and array.dtype.fields is None
    and not array.dtype.name.startswith('void')
  )
  if array.dtype.kind not in 'biufc' and not is_ml_dtype:
    raise TypeError(
      f'array {name!r} has dtype {array.dtype}, which has no defined bytes; use a number '
      'or boolean dtype'
    )
  if array.dtype.kind != 'V':
    array = array.astype(array.dtype.newbyteorder('<'), copy=False)
  return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _hash_below(root: Path, directory: Path, files: dict[str, str]) -> None:
  with os.scandir(directory) as entries:
    for entry in entries:
      path = Path(entry.path)
      if entry.is_dir(follow_symlinks=False):
        _hash_below(root, path, files)
      elif entry.is_file(follow_symlinks=False):
        files[path.relative_to(root).as_posix()] = file_digest(path)
      else:
        kind = 'a symbolic link' if entry.is_symlink() else 'neither a file nor a directory'
        raise ManifestError(
          root,
          f'holds {path.relative_to(root).as_posix()}, which is {kind}; a manifest '
          'vouches for regular files only',
        )
