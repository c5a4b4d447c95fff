"""Reads a Hugging Face checkpoint tensor by tensor: one safetensors file or shards with an index,
any piece of any parameter, in its stored dtype.

  Stored     the tensors of a directory, known by their files' headers; bytes are read when asked
  for
  Reader     the same as our parameters: which stored tensors make up each of them, and pieces of it

What is read is checked first, by name, dtype and shape. Nothing here holds more than one parameter
beyond what it returns.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline

INDEX = 'model.safetensors.index.json'
DTYPES = {
  'F32': np.dtype('float32'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F16': np.dtype('float16'),
}  # of parameters
# Tensors that a checkpoint may hold and the forward does not use, by config.json's model_type; they
# are carried along.
UNUSED = {'nemotron_h': re.compile(r'mtp\..+')}  # multi-token prediction
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
  """The tensors of a directory, in the order of their files: `tensors` {name: Tensor}, `metadata`
  {file: what its header says of itself}.

  Raises:
    CheckpointError: no safetensors here (pickle is refused), a file that is missing or damaged, an
      index that does not fit its files.
  """

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self.tensors: dict[str, Tensor] = {}
    self.metadata: dict[str, dict[str, str]] = {}
    index = None if (directory / checkpoint.WEIGHTS).exists() else self._index()
    for file in [checkpoint.WEIGHTS] if index is None else sorted(set(index.values())):
      self._add(file)
    if index is not None:
      absent = [
        f'{name} (in {file})'
        for name, file in sorted(index.items())
        if self.tensors.get(name, Tensor('', '', ())).file != file
      ]
      extra = [
        f'{name} (in {tensor.file})'
        for name, tensor in sorted(self.tensors.items())
        if name not in index
      ]
      if absent or extra:
        raise CheckpointError(
          f'{directory / INDEX} does not fit its shards: '
          + _several([f'absent {n}' for n in absent] + [f'not in the index {n}' for n in extra])
          + '. Download the index and the shards of one revision'
        )

  def _index(self) -> dict[str, str]:
    """{tensor: file}."""
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
        f'{self.directory} holds neither {checkpoint.WEIGHTS} nor {INDEX}; give a '
        'directory with a checkpoint in it'
      )
    try:
      index = json.loads(path.read_text())['weight_map']
      files = sorted(set(index.values()))
      plain = all(pathlib.PurePath(file).name == file for file in files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointError(
        f'{path} is no index of shards ({type(error).__name__}: {error}); download it again'
      ) from error
    if not plain or not files:
      raise CheckpointError(
        f'{path} must name files beside it, and names {files}; download it again'
      )
    missing = [file for file in files if not (self.directory / file).is_file()]
    if missing:
      raise CheckpointError(
        f'{self.directory} lacks {len(missing)} of the {len(files)} shards that {INDEX} '
        f'names: {_several(missing)}. Download them'
      )
    return index

  def _add(self, file: str) -> None:
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
        'download it again'
      ) from error

  def read(self, name: str, where: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor, or the piece of it at `where`."""
    with self._open(self.tensors[name].file) as opened:
      return opened.get_slice(name)[where] if where else opened.get_tensor(name)


class Reader:
  """A directory's checkpoint as the parameters of its model.

  Attributes:
    config: the model of config.json. stored: the tensors as they lie there.
    shapes: {our name: shape and dtype}.
    parts: {our name: names of the stored tensors that make it up}: one, or one for each expert.
    unused: names of the stored tensors that the forward does not use.
    copies: {stored name: our name} of tensors that a checkpoint holds once more: the head of a
      model that uses its embedding as head.

  Raises:
    CheckpointError: see Stored; or missing, unexpected, wrongly shaped or typed tensors, by name.
    ValueError: a config.json of a model that the decoder does not compute.
  """

  def __init__(self, directory: pathlib.Path, config: ModelConfig | None = None):
    if not (directory / checkpoint.CONFIG).is_file():
      raise CheckpointError(
        f'{directory} has no {checkpoint.CONFIG}; give a directory with a whole checkpoint in it'
      )
    try:
      fields = json.loads((directory / checkpoint.CONFIG).read_text())
    except ValueError as error:
      raise CheckpointError(
        f'{directory / checkpoint.CONFIG} is no JSON ({error}); download it again'
      ) from error
    self.config = config or checkpoint.config_from_hf(fields)
    self.stored = Stored(directory)
    carried = UNUSED.get(fields.get('model_type'))
    self.unused = tuple(name for name in self.stored.tensors if carried and carried.fullmatch(name))
    self.copies = (
      {checkpoint.HEAD: 'embedding'}
      if self.config.tie_word_embeddings and checkpoint.HEAD in self.stored.tensors
      else {}
    )
    self.parts: dict[str, tuple[str, ...]] = {}
    self._stacked: set[str] = (
      set()
    )  # of our names, those whose parts are the slices of their first dimension
    self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
    problems = self._match()
    if problems:
      raise CheckpointError(
        f'{directory} does not fit the model of its {checkpoint.CONFIG}: {_several(problems)}'
      )
    for copy, name in self.copies.items():
      # By bytes, since the copy is not kept and has to come back as it was: as numbers 0 and -0 are
      # equal, and nan is not itself.
      first, second = (self.stored.read(stored_name) for stored_name in (copy, self.parts[name][0]))
      if first.dtype != second.dtype or not np.array_equal(
        first.view(np.uint8), second.view(np.uint8)
      ):
        raise CheckpointError(
          f'{directory}: {copy} is not the {name} that {checkpoint.CONFIG} says it is '
          '(tie_word_embeddings), by dtype and bytes'
        )

  def _match(self) -> list[str]:
    apart = {*self.unused, *self.copies}
    used = [name for name in self.stored.tensors if name not in apart]
    fused = [name for name in used if name.endswith(checkpoint.GATE_UP)]
    if fused:
      raise CheckpointError(
        f"{self.stored.directory} holds experts' gate and up projections as one "
        f'({fused[0]}), which is not read tensor by tensor; '
        'save it with experts one by one, as it was published: save_pretrained(..., '
        'save_original_format=True)'
      )
    # What makes up what is `canonical`'s business, so it is asked with each tensor's place in
    # `used` instead of the tensor.
    places = checkpoint.canonical({name: np.array([i]) for i, name in enumerate(used)})
    _, wanted = outline(self.config)
    names = {checkpoint.hf_name(name, self.config): name for name in wanted}
    problems = [f'missing {name}' for name in sorted(names.keys() - places.keys())]
    problems += [
      f'unexpected {used[i]}'
      for name in sorted(places.keys() - names.keys())
      for i in places[name].ravel()
    ]
    kept = {i for place in places.values() for i in place.ravel()}
    problems += [
      f'{name} is the same parameter as {used[_place(name, places)]}'
      for i, name in enumerate(used)
      if i not in kept
    ]
    for stored_name in sorted(names.keys() & places.keys()):
      name, parts = names[stored_name], tuple(used[i] for i in places[stored_name].ravel())
      shape = wanted[name].shape
      needed = tuple(1 if axis is None else shape[axis] for axis in _axes(name, len(shape)))
      stacked = places[stored_name].ndim > 1
      if stacked and len(parts) != needed[0]:
        problems.append(f'{stored_name} has {len(parts)} experts where {needed[0]} are needed')
      tensors = [self.stored.tensors[part] for part in parts]
      each = needed[1:] if stacked else needed
      problems += [
        f'{part} has shape {tensor.shape} where {each} is needed'
        for part, tensor in zip(parts, tensors)
        if tensor.shape != each
      ]
      problems += [
        f'{part} has dtype {tensor.dtype} where one of {", ".join(DTYPES)} is needed'
        for part, tensor in zip(parts, tensors)
        if tensor.dtype not in DTYPES
      ]
      if len({tensor.dtype for tensor in tensors}) > 1:
        problems.append(
          f'{stored_name} has experts of dtypes '
          f'{sorted({tensor.dtype for tensor in tensors})} where one is needed'
        )
      self.parts[name] = parts
      self.shapes[name] = jax.ShapeDtypeStruct(
        shape, DTYPES.get(tensors[0].dtype, np.dtype('float32'))
      )
      if stacked:
        self._stacked.add(name)
    return problems

  def is_stacked(self, name: str) -> bool:
    """Whether a parameter is stored expert by expert."""
    return name in self._stacked

  def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
    """A parameter, or the piece of it at `index` (steps of 1), in its stored dtype; reads no more
    than that piece.
    """
    shape, parts = self.shapes[name].shape, self.parts[name]
    index = tuple(
      slice(*s.indices(n)[:2]) for s, n in zip(index or (slice(None),) * len(shape), shape)
    )
    where = tuple(slice(None) if axis is None else index[axis] for axis in _axes(name, len(shape)))
    if name not in self._stacked:
      return checkpoint.from_hf(name, self._piece(parts[0], where))
    piece = np.empty([s.stop - s.start for s in index], self.shapes[name].dtype)
    for place, part in enumerate(parts[index[0]]):
      piece[place] = checkpoint.from_hf(name, self._piece(part, where[1:])[None])[0]
    return piece

  def _piece(self, name: str, where: tuple[slice, ...]) -> np.ndarray:
    whole = all(s.indices(n) == (0, n, 1) for s, n in zip(where, self.stored.tensors[name].shape))
    return self.stored.read(name, () if whole else where)


def _place(name: str, places: Mapping[str, np.ndarray]) -> int:
  """Which stored tensor `canonical` took where `name` could have stood."""
  number = re.search(r'\.experts\.(\d+)\.', name)
  alone = re.sub(
    r'\.experts\.\d+\.', '.experts.0.', name
  )  # `canonical` knows no expert 5 without the first
  return places[next(iter(checkpoint.canonical({alone: np.zeros(1)})))].ravel()[
    int(number[1]) if number else 0
  ]


def _axes(name: str, rank: int) -> tuple[int | None, ...]:
  """For each dimension of the stored tensor the dimension of our parameter that it is; None for one
  of size 1 that ours lacks.
  """
  sizes = (2, 3, 5, 7)[:rank]
  stored = checkpoint.to_hf(name, np.empty(sizes, np.int8)).shape
  return tuple(None if size == 1 else sizes.index(size) for size in stored)


def _several(said: list[str]) -> str:
  """The first dozen, and how many there are."""
  return '; '.join(said[:NAMED]) + (
    f'; and {len(said) - NAMED} more ({len(said)} in all)' if len(said) > NAMED else ''
  )
