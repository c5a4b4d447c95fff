"""A Hugging Face checkpoint as our parameters, read tensor by tensor in its stored dtype.

Any piece of any parameter can be read. What is read is checked first, by name, dtype and shape.
Nothing here holds more than one parameter beyond what it returns.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.families import registry
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.hf.stored import CheckpointError, Stored, several
from aevo_jax.models.params import outline

# Of parameters.
DTYPES = {
  'F32': np.dtype('float32'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F16': np.dtype('float16'),
}


class Reader:
  """A directory's checkpoint as the parameters of its model.

  Args:
    directory: of the checkpoint.
    config: of its model; None for that of config.json.
    stored: its tensors; None opens them.

  Attributes:
    config: the model of config.json, or the one that was given.
    stored: the tensors as they lie there.
    shapes: {our name: shape and dtype}.
    parts: {our name: names of the stored tensors that make it up}: one, or one for each expert.
    unused: names of the stored tensors that the forward does not use.
    copies: {stored name: our name} of tensors that a checkpoint holds once more: the head of a
      model that uses its embedding as head.

  Raises:
    CheckpointError: see Stored; or missing, unexpected, wrongly shaped or typed tensors, by name.
    ValueError: a config.json of a model that the decoder does not compute.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    config: ModelConfig | None = None,
    stored: Stored | None = None,
  ):
    fields = _config_fields(directory)
    self.config = config or checkpoint.config_from_hf(fields)
    self.stored = stored or Stored(directory)
    self.unused: tuple[str, ...] = ()
    carried = registry.FAMILIES[self.config.family].unused
    if carried:
      self.unused = tuple(name for name in self.stored.tensors if carried.fullmatch(name))
    self.copies: dict[str, str] = {}
    if self.config.tie_word_embeddings and checkpoint.HEAD in self.stored.tensors:
      self.copies[checkpoint.HEAD] = 'embedding'
    self.parts: dict[str, tuple[str, ...]] = {}
    # Of our names, those whose parts are the slices of their first dimension.
    self._stacked: set[str] = set()
    self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
    problems = self._match()
    if problems:
      raise CheckpointError(
        f'{directory} does not fit the model of its {checkpoint.CONFIG}: {several(problems)}'
      )
    for copy, name in self.copies.items():
      self._check_copy(copy, name)

  def is_stacked(self, name: str) -> bool:
    """Tells whether a parameter is stored expert by expert, by our name."""
    return name in self._stacked

  def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
    """Reads a parameter.

    Args:
      name: ours.
      index: selects a piece of it (steps of 1); None is all of it. No more than the piece is read.

    Returns:
      The piece in its stored dtype and our layout.
    """
    shape = self.shapes[name].shape
    parts = self.parts[name]
    slices = index or (slice(None),) * len(shape)
    ours = []
    for piece, size in zip(slices, shape, strict=True):
      start, stop, _ = piece.indices(size)
      ours.append(slice(start, stop))
    theirs = []
    for axis in _axes(name, len(shape)):
      theirs.append(slice(None) if axis is None else ours[axis])
    if name not in self._stacked:
      return checkpoint.from_hf(name, self._piece(parts[0], tuple(theirs)))
    value = np.empty([piece.stop - piece.start for piece in ours], self.shapes[name].dtype)
    for row, part in enumerate(parts[ours[0]]):
      expert = self._piece(part, tuple(theirs[1:]))
      value[row] = checkpoint.from_hf(name, expert[None])[0]
    return value

  def _piece(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a piece of a stored tensor."""
    shape = self.stored.tensors[name].shape
    is_all = all(s.indices(n) == (0, n, 1) for s, n in zip(index, shape, strict=True))
    return self.stored.read(name, () if is_all else index)

  def _check_copy(self, copy: str, name: str) -> None:
    """Checks that a tensor that is not kept is the parameter of which it is a copy.

    It is compared by bytes, since it has to come back as it was: as numbers 0 and -0 are equal, and
    nan is not itself.
    """
    first = self.stored.read(copy)
    second = self.stored.read(self.parts[name][0])
    same = first.dtype == second.dtype
    if not same or not np.array_equal(first.view(np.uint8), second.view(np.uint8)):
      raise CheckpointError(
        f'{self.stored.directory}: {copy} is not the {name} that {checkpoint.CONFIG} says it is '
        '(tie_word_embeddings), by dtype and bytes'
      )

  def _match(self) -> list[str]:
    """Finds the tensors of every parameter; returns what does not fit."""
    names = self._used()
    # `canonical` knows which tensors make up a parameter, so it is given each tensor's place in
    # `names` instead of the tensor.
    places = checkpoint.canonical({name: np.array([i]) for i, name in enumerate(names)})
    _, wanted = outline(self.config)
    ours = {checkpoint.hf_name(name, self.config): name for name in wanted}
    problems = [f'missing {name}' for name in sorted(ours.keys() - places.keys())]
    for name in sorted(places.keys() - ours.keys()):
      problems += [f'unexpected {names[i]}' for i in places[name].ravel()]
    placed = {i for place in places.values() for i in place.ravel()}
    for i, name in enumerate(names):
      if i not in placed:
        problems.append(f'{name} is the same parameter as {names[_place(name, places)]}')
    for stored_name in sorted(ours.keys() & places.keys()):
      place = places[stored_name]
      match = _Match(
        stored_name=stored_name,
        name=ours[stored_name],
        shape=wanted[ours[stored_name]].shape,
        parts=tuple(names[i] for i in place.ravel()),
        is_stacked=place.ndim > 1,
      )
      problems += self._take(match)
    return problems

  def _used(self) -> list[str]:
    """Lists the tensors that make up parameters."""
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
    return used

  def _take(self, match: '_Match') -> list[str]:
    """Notes the tensors of one parameter; returns what does not fit."""
    needed = match.stored_shape()
    problems = []
    if match.is_stacked and len(match.parts) != needed[0]:
      problems.append(
        f'{match.stored_name} has {len(match.parts)} experts where {needed[0]} are needed'
      )
    part_shape = needed[1:] if match.is_stacked else needed
    tensors = {part: self.stored.tensors[part] for part in match.parts}
    for part, tensor in tensors.items():
      if tensor.shape != part_shape:
        problems.append(f'{part} has shape {tensor.shape} where {part_shape} is needed')
    for part, tensor in tensors.items():
      if tensor.dtype not in DTYPES:
        problems.append(
          f'{part} has dtype {tensor.dtype} where one of {", ".join(DTYPES)} is needed'
        )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1:
      problems.append(
        f'{match.stored_name} has experts of dtypes {sorted(dtypes)} where one is needed'
      )
    dtype = DTYPES.get(tensors[match.parts[0]].dtype, np.dtype('float32'))
    self.parts[match.name] = match.parts
    self.shapes[match.name] = jax.ShapeDtypeStruct(match.shape, dtype)
    if match.is_stacked:
      self._stacked.add(match.name)
    return problems


class _Match(NamedTuple):
  """A parameter and the tensors that make it up.

  Attributes:
    stored_name: the name of `checkpoint.hf_name`.
    name: our name.
    shape: in our layout.
    parts: names of the stored tensors.
    is_stacked: whether there is one for each expert.
  """

  stored_name: str
  name: str
  shape: tuple[int, ...]
  parts: tuple[str, ...]
  is_stacked: bool

  def stored_shape(self) -> tuple[int, ...]:
    """Returns the shape in the stored layout, experts stacked."""
    sizes = []
    for axis in _axes(self.name, len(self.shape)):
      sizes.append(1 if axis is None else self.shape[axis])
    return tuple(sizes)


def _config_fields(directory: pathlib.Path) -> dict:
  """Reads config.json."""
  try:
    return checkpoint.config_fields(directory)
  except (FileNotFoundError, ValueError) as error:
    raise CheckpointError(str(error)) from error


def _place(name: str, places: Mapping[str, np.ndarray]) -> int:
  """Returns which stored tensor `canonical` took where `name` could have stood."""
  # `canonical` knows no expert 5 without the first.
  first_expert = re.sub(r'\.experts\.\d+\.', '.experts.0.', name)
  canonical_name = next(iter(checkpoint.canonical({first_expert: np.zeros(1)})))
  expert = re.search(r'\.experts\.(\d+)\.', name)
  number = int(expert[1]) if expert else 0
  return int(places[canonical_name].ravel()[number])


def _axes(name: str, rank: int) -> tuple[int | None, ...]:
  """Returns for each dimension of the stored tensor the dimension of our parameter that it is.

  None stands for one of size 1 that ours lacks.
  """
  sizes = (2, 3, 5, 7)[:rank]
  stored = checkpoint.to_hf(name, np.empty(sizes, np.int8)).shape
  return tuple(None if size == 1 else sizes.index(size) for size in stored)
