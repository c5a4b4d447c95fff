"""A content-addressed store of directories.

An object's name is the digest of its manifest, so a name cannot lie.

    store/<64 hex digits>/...files..., MANIFEST.json

The manifest lists the SHA-256 of every file and the name is the SHA-256 of the manifest, so
verifying an object needs nothing but its name. A checkpoint already has such a manifest and enters
as it is, restorable in place.

A fork is a pointer file in the trial's directory, never a link: a hard link shares the inode, and
whoever may write one name writes the other. Modes are read-only (0444, 0555), which stops
accidents; root ignores them, so what stops an attack is the worker's sandbox, and what reveals one
is that every opening of a fork hashes every file.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint import durable
from aevo_jax.checkpoint.digest import MANIFEST_NAME, ManifestError

FORK_NAME = 'substrate.fork.json'
_DIGEST = re.compile(r'[0-9a-f]{64}')


def _copy(source: Path, target: Path) -> None:
  shutil.copyfile(source, target, follow_symlinks=False)


@dataclasses.dataclass(frozen=True)
class Fork:
  """A trial's view of one object.

  Attributes:
    digest: which object.
    store: the store's absolute path.
  """

  digest: str
  store: Path


class Store:
  """A store in a directory.

  Args:
    root: the directory, which is made if absent.
    copy: copies the file that its first argument names to the second, without following links.
    sync: flushes every file below a directory to the disk.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    copy: Callable[[Path, Path], object] = _copy,
    sync: Callable[[Path], None] = durable.fsync_tree,
  ):
    self.root = Path(root).absolute()
    self.root.mkdir(parents=True, exist_ok=True)
    self._copy = copy
    self._sync = sync

  def put(self, source: str | os.PathLike) -> str:
    """Copies a directory in, durably.

    Putting the same content again verifies the stored object and changes nothing.

    Args:
      source: the directory. If it has a `MANIFEST.json`, that must hold.

    Returns:
      The object's digest, 64 hex digits.

    Raises:
      ManifestError: `source` holds links or does not match its own manifest, or changed while it
        was copied, or the object already stored is damaged.
    """
    source = Path(source)
    if (source / MANIFEST_NAME).exists():
      files = digest_lib.verify_manifest(source)
    else:
      files = digest_lib.file_manifest(source)
    digest = digest_lib.manifest_digest(files)
    if (self.root / digest).exists():
      self.verify(digest)
      return digest
    temporary = Path(tempfile.mkdtemp(prefix='.put-', dir=self.root))
    try:
      for name in files:
        target = temporary / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._copy(source / name, target)
      # Hashed again from the copy: a file swapped between hashing and copying must not enter under
      # the old name.
      if digest_lib.write_manifest(temporary) != files:
        raise ManifestError(source, 'changed while it was being copied')
      _make_read_only(temporary)
      self._sync(temporary)
      os.rename(temporary, self.root / digest)
    except OSError:
      if not (self.root / digest).is_dir():
        raise
      self.verify(digest)  # another process stored the same object first
    finally:
      if temporary.exists():
        _remove(temporary)
    durable.fsync(self.root)
    return digest

  def path(self, digest: str) -> Path:
    """Finds an object without verifying it.

    Args:
      digest: of the object.

    Returns:
      Its directory.

    Raises:
      FileNotFoundError: it is not in the store.
      KeyError: `digest` is no digest.
    """
    if not _DIGEST.fullmatch(digest):
      raise KeyError(f'{digest!r} is not a digest of 64 hex digits')
    path = self.root / digest
    if not path.is_dir():
      raise FileNotFoundError(f'the store {self.root} has no object {digest}; put() it first')
    return path

  def verify(self, digest: str) -> Path:
    """Hashes every file of an object.

    Args:
      digest: of the object.

    Returns:
      Its directory.

    Raises:
      ManifestError: naming what differs.
      FileNotFoundError, KeyError: see `path`.
    """
    path = self.path(digest)
    files = digest_lib.verify_manifest(path)
    if digest_lib.manifest_digest(files) != digest:
      raise ManifestError(path, 'has a manifest that is not the one its name was made from')
    return path

  def fork(self, digest: str, destination: str | os.PathLike) -> Fork:
    """Points a directory at an object; copies nothing.

    Args:
      digest: of the object.
      destination: an existing directory, which gets a `substrate.fork.json`.

    Returns:
      The fork.
    """
    self.path(digest)
    fork = Fork(digest, self.root)
    text = json.dumps(
      {'schema': 1, 'digest': fork.digest, 'store': str(fork.store)}, sort_keys=True
    )
    (Path(destination) / FORK_NAME).write_text(text + '\n', encoding='utf-8')
    return fork


def read_fork(destination: str | os.PathLike) -> Fork:
  """Reads a pointer, unverified.

  Args:
    destination: the directory given to `Store.fork`.

  Returns:
    Which object of which store it names.

  Raises:
    ValueError: it is no pointer.
  """
  path = Path(destination) / FORK_NAME
  try:
    fields = json.loads(path.read_bytes())
    fork = Fork(str(fields['digest']), Path(fields['store']))
  except (ValueError, KeyError, TypeError, RecursionError):
    raise ValueError(f'{path} is not a fork; make it with Store.fork') from None
  return fork


def open_fork(destination: str | os.PathLike, *, expected: str | None = None) -> Path:
  """Verifies every file of a forked object.

  Args:
    destination: the directory given to `Store.fork`.
    expected: the digest it must be. Trusted code passes it: the pointer lies where a worker can
      write.

  Returns:
    The object's directory.

  Raises:
    ManifestError: the object is damaged, or is not `expected`.
    FileNotFoundError: no pointer, no store or no such object.
  """
  fork = read_fork(destination)
  if expected is not None and fork.digest != expected:
    raise ManifestError(Path(destination), f'points at {fork.digest}, and {expected} was assigned')
  if not fork.store.is_dir():
    raise FileNotFoundError(f'the store {fork.store} of the fork in {destination} does not exist')
  return Store(fork.store).verify(fork.digest)


def _make_read_only(directory: Path) -> None:
  for parent, _, names in os.walk(directory, topdown=False):
    for name in names:
      os.chmod(os.path.join(parent, name), 0o444)
    os.chmod(parent, 0o555)


def _remove(directory: Path) -> None:
  for parent, _, _ in os.walk(directory):
    # A read-only directory does not give its files up, except to root.
    os.chmod(parent, 0o755)
  shutil.rmtree(directory)
