"""The tensors of a checkpoint directory, one safetensors file or shards with an index.

They are known by their files' headers; bytes are read when they are asked for.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError, safe_open

from aevo_jax import faults
from aevo_jax.models.hf.checkpoint import WEIGHTS

INDEX = 'model.safetensors.index.json'
NAMED = 12  # so many problems are listed


class CheckpointError(ValueError):
  """A directory is not a checkpoint that can be read; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One stored tensor: file within the directory, dtype as safetensors spells it, shape."""

  file: str
  dtype: str
  shape: tuple[int, ...]


class Stored:
  """The tensors of a directory, in the order of their files.

  Attributes:
    directory: where the files lie.
    tensors: {name: Tensor}.
    metadata: {file: what its header says of itself}.

  Raises:
    CheckpointError: no safetensors here (pickle is refused), a file that is missing or damaged, an
      index that does not fit its files.
  """

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self.tensors: dict[str, Tensor] = {}
    self.metadata: dict[str, dict[str, str]] = {}
    if (directory / WEIGHTS).exists():
      self._add(WEIGHTS)
      return
    index = self._index()
    for file in sorted(set(index.values())):
      self._add(file)
    self._check(index)

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """Reads a tensor.

    Args:
      name: of the tensor.
      index: selects a piece of it, one slice for each dimension; () is all of it.

    Returns:
      The piece in its stored dtype.
    """
    with self._open(self.tensors[name].file) as opened:
      if index:
        return opened.get_slice(name)[index]
      return opened.get_tensor(name)

  def _index(self) -> dict[str, str]:
    """Reads the index, {tensor: file}."""
    path = self.directory / INDEX
    if not path.exists():
      pickles = sorted(p.name for p in self.directory.glob('pytorch_model*.bin*'))
      if pickles:
        raise CheckpointError(
          f'{self.directory} holds its weights as pickle only ({", ".join(pickles[:3])}), '
          'which can run code when it is read; '
          'take the revision with .safetensors files, or convert it where you trust it: '
          'save_pretrained(..., safe_serialization=True)'
        )
      raise CheckpointError(
        f'{self.directory} holds neither {WEIGHTS} nor {INDEX}; give a '
        'directory with a checkpoint in it'
      )
    try:
      index = json.loads(path.read_text())['weight_map']
      files = sorted(set(index.values()))
      are_beside_it = all(pathlib.PurePath(file).name == file for file in files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointError(
        f'{path} is no index of shards ({type(error).__name__}: {error}); {faults.again(path)}'
      ) from error
    if not are_beside_it or not files:
      raise CheckpointError(
        f'{path} must name files beside it, and names {files}; download it again'
      )
    missing = [file for file in files if not (self.directory / file).is_file()]
    if missing:
      raise CheckpointError(
        f'{self.directory} lacks {len(missing)} of the {len(files)} shards that {INDEX} '
        f'names: {several(missing)}. Download them'
      )
    return index

  def _check(self, index: dict[str, str]) -> None:
    """Checks that the shards hold what the index says."""
    problems = []
    for name, file in sorted(index.items()):
      tensor = self.tensors.get(name)
      if tensor is None or tensor.file != file:
        problems.append(f'absent {name} (in {file})')
    for name, tensor in sorted(self.tensors.items()):
      if name not in index:
        problems.append(f'not in the index {name} (in {tensor.file})')
    if problems:
      raise CheckpointError(
        f'{self.directory / INDEX} does not fit its shards: '
        + several(problems)
        + '. Download the index and the shards of one revision'
      )

  def _add(self, file: str) -> None:
    """Reads a file's header."""
    with self._open(file) as opened:
      self.metadata[file] = dict(opened.metadata() or {})
      for name in opened.offset_keys():
        if name in self.tensors:
          raise CheckpointError(
            f'{name} lies in both {self.tensors[name].file} and {file} of '
            f'{self.directory}; remove the shard that is not of this checkpoint'
          )
        piece = opened.get_slice(name)
        self.tensors[name] = Tensor(file, piece.get_dtype(), tuple(piece.get_shape()))

  def _open(self, file: str):
    try:
      # 'pread' and not the default: pages of a mapped file would count as this process's memory.
      return safe_open(self.directory / file, 'np', backend='pread')
    except SafetensorError as error:
      raise CheckpointError(
        f'{self.directory / file} is truncated, damaged or no safetensors file ({error}); '
        f'{faults.again(self.directory / file)}'
      ) from error


def several(problems: Sequence[str]) -> str:
  """Joins problems for a message.

  Args:
    problems: one or more.

  Returns:
    The first dozen, and how many there are.
  """
  text = '; '.join(problems[:NAMED])
  if len(problems) <= NAMED:
    return text
  return f'{text}; and {len(problems) - NAMED} more ({len(problems)} in all)'
