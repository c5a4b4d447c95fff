"""Checkpoints on disk: Orbax for the arrays, durability and a manifest around it.

A checkpoint is a directory that is never changed once it has its name:

    step_00000100/
      arrays/          the pytree, as Orbax writes it
      metadata.json    what the caller says about it (step, loss, ...)
      data_state.bin   the data iterator's state, if given
      MANIFEST.json    a digest of each file above

Saving writes into `.<name>.saving`, fsyncs the files, then the directories, renames, and fsyncs the
parent: Orbax renames atomically but fsyncs nothing, so without this a power cut can leave a name
without its bytes. A kill at any time leaves the old state, and at most a `.saving` directory that
the next save of that name removes. Restoring checks the manifest first and then reads this
checkpoint or raises: there is no falling back to an older one.
"""

import dataclasses
import errno
import json
import math
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from aevo_jax import faults
from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint import durable

ARRAYS = 'arrays'
METADATA = 'metadata.json'
DATA_STATE = 'data_state.bin'
GROUP_BYTES = 2**24
# What a checkpoint takes at most besides its arrays: an entry for each, and ends of files' blocks.
BYTES_OF_AN_ENTRY = 2**10
BYTES_OF_FILES = 2**16
# TensorStore packs arrays into files of this size, and compresses them by less than this factor.
LARGEST_FILE = 2**31
COMPRESSION = 4
_STEP = re.compile(r'step_(\d{8,})')


@dataclasses.dataclass(frozen=True)
class Deferred:
  """A leaf for `save` that is read when its turn comes, so that saving holds one array at a time.

  Attributes:
    shape: of the array.
    dtype: of the array.
    read: makes the array.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


class _DeferredHandler(type_handlers.NumpyHandler):
  """Writes Deferred leaves one after another, as numpy arrays."""

  def __init__(self):
    super().__init__(deepcopy_host_arrays=False)

  async def serialize(self, values, infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, argument in zip(values, infos, args, strict=True):
      await self._background_serialize([value.read()], [info], [argument])
    return []

  def memory_size(self, values):
    # (written, read): counts of a log line, for which no array is worth reading
    return [(0, 0)] * len(values)


def save(
  directory: str | os.PathLike,
  tree: Any,
  *,
  metadata: Mapping[str, Any] | None = None,
  data_state: bytes | None = None,
) -> Path:
  """Saves a pytree of arrays durably as the new directory `directory` and returns its path.

  Args:
    directory: a local path that does not exist yet; missing parents are made.
    tree: pytree whose leaves are numpy or JAX arrays with at least one element, or Deferred ones;
      `None` nodes are kept.
    metadata: a JSON-able dict kept beside the arrays, read by `read_metadata`.
    data_state: the data iterator's state, read by `read_data_state`.

  Raises:
    FileExistsError: `directory` exists; checkpoints are never overwritten.
    TypeError: a leaf that is not an array or has no elements, naming it.
    ValueError: metadata that JSON cannot hold (NaN), or a URL instead of a path.
    RuntimeError: called in a multi-process JAX job.
    OSError: the disk is full, or whatever else the system says, also where it says so to Orbax.
  """
  directory = _local(directory)
  if directory.exists() or directory.is_symlink():
    raise FileExistsError(
      f'checkpoint {directory} exists and is immutable; save to another name or remove it first'
    )
  if jax.process_count() > 1:
    raise RuntimeError(
      f'save() writes from one process and this job has {jax.process_count()}; gather the '
      'arrays and save from a single-process job'
    )
  arrays = jax.tree_util.tree_map_with_path(_checked_array, tree)
  text = json.dumps(dict(metadata or {}), sort_keys=True, indent=2, allow_nan=False)

  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = directory.with_name(f'.{directory.name}.saving')
  if temporary.exists():
    shutil.rmtree(temporary)  # left by a save that was killed
  temporary.mkdir()
  _check_room(temporary, arrays)
  try:
    with ocp.Checkpointer(_handler()) as checkpointer:
      checkpointer.save(temporary / ARRAYS, arrays)
  except (ValueError, RuntimeError) as error:
    code = faults.system_errno(str(error))
    if code is None:
      raise
    shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint would keep the disk full
    raise OSError(code, os.strerror(code), str(directory)) from error
  (temporary / METADATA).write_text(text + '\n', encoding='utf-8')
  if data_state is not None:
    (temporary / DATA_STATE).write_bytes(data_state)
  digest_lib.write_manifest(temporary)
  durable.fsync_tree(temporary)
  os.rename(temporary, directory)
  durable.fsync(directory.parent)
  return directory


def _check_room(directory: Path, arrays: Any) -> None:
  """Raises OSError where the disk has no room for the arrays, or a file may not grow so large.

  TensorStore would find out too, and its threads would print pages about it.
  """
  leaves = jax.tree.leaves(arrays)
  size = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)
  size += len(leaves) * BYTES_OF_AN_ENTRY + BYTES_OF_FILES
  limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
  code = None
  if shutil.disk_usage(directory).free < size:
    code = errno.ENOSPC
  elif limit != resource.RLIM_INFINITY and limit < min(size, LARGEST_FILE) // COMPRESSION:
    code = errno.EFBIG
  if code is not None:
    directory.rmdir()
    raise OSError(code, os.strerror(code), str(directory.parent))


def restore(directory: str | os.PathLike, abstract_tree: Any = None) -> Any:
  """Verifies the manifest of `directory` and restores its arrays.

  Args:
    directory: a checkpoint written by `save`.
    abstract_tree: the expected tree. A `jax.ShapeDtypeStruct` or `jax.Array` leaf gives a JAX
      array, with the leaf's sharding or else on the first local device; a numpy array leaf gives a
      numpy array. Shapes and dtypes must be
      those stored: nothing is cast, padded or cut. None gives numpy arrays in nested dicts and
        lists.

  Raises:
    ManifestError: missing, extra or changed files, by name.
    ValueError: another tree, shape or dtype than `abstract_tree`, listing the differences.
  """
  directory = _local(directory)
  digest_lib.verify_manifest(directory)
  with ocp.PyTreeCheckpointer() as checkpointer:
    stored = checkpointer.metadata(directory / ARRAYS).item_metadata.tree
    if abstract_tree is None:
      arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
      return checkpointer.restore(directory / ARRAYS, restore_args=arguments)
    _check_matches(directory, stored, abstract_tree)
    arguments = jax.tree.map(_restore_argument, abstract_tree)
    return checkpointer.restore(directory / ARRAYS, item=abstract_tree, restore_args=arguments)


def restore_each(
  directory: str | os.PathLike, names: Iterable[str]
) -> Iterator[tuple[str, np.ndarray]]:
  """Verifies the manifest of `directory` and yields its arrays, a few at a time.

  Orbax takes 10 ms and more for a restore, however small, so arrays are read in groups of at most
  `GROUP_BYTES`; a larger one is read alone.

  Args:
    directory: a checkpoint of a flat dict, written by `save`.
    names: of the arrays to read.

  Yields:
    (name, numpy array) for each of `names`, in their order.

  Raises:
    ManifestError: as `restore`, before anything is read.
    KeyError: a name that is not in the checkpoint, when its turn comes.
  """
  directory = _local(directory)
  digest_lib.verify_manifest(directory)
  with ocp.PyTreeCheckpointer() as checkpointer:
    stored = checkpointer.metadata(directory / ARRAYS).item_metadata.tree
    for group in _groups(names, stored):
      missing = [name for name in group if name not in stored]
      if missing:
        raise KeyError(f'{directory} holds no array {missing[0]!r}')
      wanted = ocp.args.PyTreeRestore(
        dict.fromkeys(group, 0),
        restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in group},
        partial_restore=True,
      )
      restored = checkpointer.restore(directory / ARRAYS, args=wanted)
      for name in group:
        yield name, restored.pop(name)


def _groups(names: Iterable[str], stored: Mapping[str, Any]) -> Iterator[list[str]]:
  """Yields the names in order, in groups of GROUP_BYTES; one that is not stored comes alone."""
  group = []
  room = GROUP_BYTES
  for name in names:
    size = GROUP_BYTES + 1
    if name in stored:
      size = math.prod(stored[name].shape) * np.dtype(stored[name].dtype).itemsize
    if group and (size > room or name in group):
      yield group
      group = []
      room = GROUP_BYTES
    group.append(name)
    room -= size
  if group:
    yield group


def read_metadata(directory: str | os.PathLike) -> dict[str, Any]:
  """Reads the metadata given to `save`.

  Args:
    directory: a checkpoint.

  Raises:
    ManifestError: its bytes are not those written.
  """
  return json.loads(_verified_bytes(_local(directory), METADATA))


def read_data_state(directory: str | os.PathLike) -> bytes | None:
  """Reads the data iterator's state given to `save`.

  Args:
    directory: a checkpoint.

  Returns:
    The bytes, or None if none were given.

  Raises:
    ManifestError: its bytes are not those written.
  """
  directory = _local(directory)
  if DATA_STATE not in digest_lib.read_manifest(directory):
    return None
  return _verified_bytes(directory, DATA_STATE)


def step_directory(root: str | os.PathLike, step: int) -> Path:
  """Returns where a training run keeps the checkpoint of a step: `root/step_00000100` for 100."""
  return Path(root) / f'step_{step:08d}'


def latest_step(root: str | os.PathLike) -> int | None:
  """Finds the highest step saved under `root`, by the names alone: `restore` checks the files.

  Args:
    root: the folder of a run's checkpoints; it may be missing.

  Returns:
    The step, or None if none is saved.
  """
  if not Path(root).is_dir():
    return None
  return max(saved_steps(root), default=None)


def saved_steps(root: str | os.PathLike) -> list[int]:
  """Lists the steps saved under `root`, the folder of a run's checkpoints, in order."""
  steps = []
  for entry in Path(root).iterdir():
    match = _STEP.fullmatch(entry.name)
    if match:
      steps.append(int(match[1]))
  return sorted(steps)


def prune(root: str | os.PathLike, keep: int) -> None:
  """Removes old checkpoints.

  Args:
    root: the folder of a run's checkpoints.
    keep: how many of the latest stay; 0 keeps all.
  """
  if not keep:
    return
  for step in saved_steps(root)[:-keep]:
    shutil.rmtree(step_directory(root, step))


def _handler() -> ocp.PyTreeCheckpointHandler:
  """Orbax's own handler, which also knows Deferred."""
  registry = type_handlers.create_type_handler_registry(
    (Deferred, _DeferredHandler()),
    (np.ndarray, type_handlers.get_type_handler(np.ndarray)),
    (jax.Array, type_handlers.get_type_handler(jax.Array)),
  )
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _local(directory: str | os.PathLike) -> Path:
  if '://' in os.fspath(directory):
    raise ValueError(
      f'{os.fspath(directory)!r} is a URL; checkpoints are verified and fsynced on a '
      'local path, copy it there first'
    )
  return Path(directory).absolute()


def _checked_array(path: tuple, leaf: Any) -> np.ndarray | jax.Array | Deferred:
  name = jax.tree_util.keystr(path)
  if isinstance(leaf, np.generic):
    leaf = np.asarray(leaf)
  if not isinstance(leaf, (np.ndarray, jax.Array, Deferred)):
    raise TypeError(
      f'leaf {name} is a {type(leaf).__name__}; wrap numbers in np.asarray, and put other '
      'facts into metadata'
    )
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    raise TypeError(f'leaf {name} is a typed PRNG key; save jax.random.key_data(key)')
  if not leaf.size:
    raise TypeError(
      f'leaf {name} has shape {leaf.shape} and so no elements, which Orbax cannot store; '
      'leave it out'
    )
  return leaf


def _check_matches(directory: Path, stored: Any, abstract_tree: Any) -> None:
  # Orbax pads, cuts and casts numpy arrays without a word, so the comparison is ours. Both trees
  # are flattened by Orbax first because it stores named tuples as dicts.
  stored_shapes = _shapes(stored)
  shapes = _shapes(abstract_tree)
  problems = []
  for key in sorted(shapes.keys() - stored_shapes.keys()):
    problems.append(f'{"/".join(key)}: not in the checkpoint')
  for key in sorted(stored_shapes.keys() - shapes.keys()):
    problems.append(f'{"/".join(key)}: in the checkpoint only')
  for key in sorted(shapes.keys() & stored_shapes.keys()):
    if shapes[key] != stored_shapes[key]:
      problems.append(f'{"/".join(key)}: stored {stored_shapes[key]}, asked for {shapes[key]}')
  if problems:
    listed = '\n  '.join(problems)
    raise ValueError(
      f'{directory} holds another tree than asked for (build the model with the '
      f"checkpoint's configuration):\n  {listed}"
    )


def _shapes(tree: Any) -> dict[tuple[str, ...], str]:
  shapes = {}
  for key, leaf in ocp.tree.to_flat_dict(tree).items():
    if leaf is not None:
      shapes[key] = f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
  return shapes


def _restore_argument(leaf: Any) -> ocp.RestoreArgs:
  if isinstance(leaf, (np.ndarray, np.generic)):
    return ocp.RestoreArgs(restore_type=np.ndarray)
  if not isinstance(leaf, (jax.ShapeDtypeStruct, jax.Array)):
    raise TypeError(
      'abstract leaves are jax.ShapeDtypeStruct, jax.Array or numpy arrays; got '
      f'{type(leaf).__name__}'
    )
  if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
    raise ValueError(
      f'a {leaf.dtype} array becomes {jax.dtypes.canonicalize_dtype(leaf.dtype)} in JAX; '
      'set jax_enable_x64 or ask for a numpy array'
    )
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _verified_bytes(directory: Path, name: str) -> bytes:
  expected = digest_lib.read_manifest(directory)
  path = directory / name
  if name not in expected or not path.is_file():
    raise digest_lib.ManifestError(directory, missing=(name,))
  if digest_lib.file_digest(path) != expected[name]:
    raise digest_lib.ManifestError(directory, changed=(name,))
  return path.read_bytes()
