"""The door through which weights are read: a file or a directory of any form, as our parameters.

    FILE                    one safetensors file in Hugging Face's layout, such as a trial's export
    DIR/checkpoint/         Orbax, by our names: an import (`aevo import_hf`), or a stored substrate
    DIR/model*.safetensors  a Hugging Face checkpoint, in one file or in shards

A directory is read parameter by parameter into the dtype, the stacking (`scan_layers`) and the
sharding that training wants, so that a model is in memory once. A file is read whole.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.models import scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint, stream
from aevo_jax.models.params import Params, outline

CHECKPOINT = 'checkpoint'  # the folder of an import or a stored substrate that holds the arrays

# The dtype to load a parameter in, from its name and its stored dtype.
DtypeRule = Callable[[str, np.dtype], np.dtype]
Index = tuple[slice, ...]


@runtime_checkable
class _Source(Protocol):
  """A form of weights that gives one parameter at a time.

  Attributes:
    by_piece: whether reading a piece of a parameter reads no more than that.
  """

  by_piece: bool

  def dtype(self, name: str) -> np.dtype:
    """Returns the stored dtype of a parameter."""
    ...

  def read(self, name: str, index: Index) -> np.ndarray:
    """Returns a piece of a parameter in its stored dtype."""
    ...


def as_float32(name: str, stored: np.dtype) -> np.dtype:
  """Loads every parameter in float32, whatever its stored dtype."""
  del name, stored
  return np.dtype('float32')


def as_stored(name: str, stored: np.dtype) -> np.dtype:
  """Loads every parameter in its stored dtype."""
  del name
  return stored


def load(
  path: pathlib.Path,
  config: ModelConfig | None = None,
  *,
  dtype: DtypeRule = as_float32,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Params:
  """Reads the weights of a decoder, whatever form they have.

  Args:
    path: a safetensors file, or a directory as the module's docstring lists them.
    config: the decoder; None for the one of config.json in the directory of the weights.
    dtype: gives the dtype of each parameter. Of a stacked one it sees the first layer's.
    shardings: where each parameter goes; those left out go to the default device. From a Hugging
      Face directory, each device reads only its own piece.

  Returns:
    Arrays by our parameter names, stacked where `config.scan`.

  Raises:
    CheckpointError, ManifestError: the directory cannot be read, or was changed after writing.
    ValueError: the weights are not the config's or not finite, or config.json is not of a model we
      compute.
  """
  if config is None:
    config = checkpoint.read_config(path if path.is_dir() else path.parent)
  shapes = outline(config)[1]
  if config.scan:
    shapes = scan_layers.stack(shapes, config.pattern)
  source = _open(path, config, list(shapes))
  shardings = shardings or {}
  params = {}
  for name, shape in shapes.items():
    members = scan_layers.members(name, config.pattern)
    load_dtype = dtype(name, source.dtype(members[0]))
    parameter = _Parameter(path, source, name, members, shape.shape, np.dtype(load_dtype))
    params[name] = parameter.place(shardings.get(name))
  return params


def _open(path: pathlib.Path, config: ModelConfig, names: list[str]) -> _Source:
  """Opens `path` to read the parameters `names`, in this order."""
  if path.is_file():
    return _File(checkpoint.read_file(path, config))
  if (path / CHECKPOINT).is_dir():
    return _Arrays(path / CHECKPOINT, config, names)
  return _Tensors(stream.Reader(path, config))


def check_finite(path: pathlib.Path, name: str, value: np.ndarray) -> None:
  """Refuses weights with which every loss is NaN, before anything is computed with them.

  Args:
    path: where they are read from.
    name: our name of the parameter.
    value: the parameter or a piece of it.

  Raises:
    ValueError: some of it is infinite or NaN.
  """
  if not np.isfinite(value).all():
    raise ValueError(f'{path} holds weights that are not finite in {name}; take an undamaged copy')


class _Parameter:
  """One parameter to load; a stacked one consists of `members`, one a layer."""

  def __init__(
    self,
    path: pathlib.Path,
    source: _Source,
    name: str,
    members: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
  ):
    self.path = path
    self.source = source
    self.members = members
    self.stacked = scan_layers.is_stacked(name)
    self.shape = shape
    self.dtype = dtype

  def piece(self, index: Index | None) -> np.ndarray:
    """Reads the piece at `index`; None is all of it."""
    if index is None:
      index = (slice(None),) * len(self.shape)
    if not self.stacked:
      return self._read(self.members[0], index).astype(self.dtype, copy=False)
    sizes = [len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)]
    stacked = np.empty(sizes, self.dtype)
    for row, member in enumerate(self.members[index[0]]):
      stacked[row] = self._read(member, index[1:])
    return stacked

  def _read(self, member: str, index: Index) -> np.ndarray:
    value = self.source.read(member, index)
    check_finite(self.path, member, value)
    return value

  def place(self, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """Puts the parameter where `sharding` says."""
    if sharding is not None and self.source.by_piece:
      return jax.make_array_from_callback(self.shape, sharding, self.piece)
    value = self.piece(None)
    if sharding is None:
      return jnp.asarray(value)
    return jax.device_put(value, sharding)


class _File:
  """Parameters that were read whole."""

  by_piece = False

  def __init__(self, params: Mapping[str, np.ndarray]):
    self._params = params

  def dtype(self, name: str) -> np.dtype:
    return self._params[name].dtype

  def read(self, name: str, index: Index) -> np.ndarray:
    return self._params[name][index]


class _Tensors:
  """A Hugging Face directory, of which any piece can be read."""

  by_piece = True

  def __init__(self, reader: stream.Reader):
    self._reader = reader

  def dtype(self, name: str) -> np.dtype:
    return self._reader.shapes[name].dtype

  def read(self, name: str, index: Index) -> np.ndarray:
    return self._reader.read(name, index)


class _Arrays:
  """An Orbax checkpoint by our names, read from its first parameter to its last.

  The parameters have to be asked for in the order of `names`, and stacked ones layer by layer.
  """

  by_piece = False

  def __init__(self, directory: pathlib.Path, config: ModelConfig, names: list[str]):
    # Orbax takes a second to import, and readers of a file do without it.
    from aevo_jax.checkpoint import orbax_io  # noqa: PLC0415  see above

    self._directory = directory
    self._shapes = outline(config)[1]
    order = []
    for name in names:
      order += scan_layers.members(name, config.pattern)
    self._stored: Iterator[tuple[str, np.ndarray]] = orbax_io.restore_each(directory, order)
    self._name = ''
    self._value = np.empty(0)

  def dtype(self, name: str) -> np.dtype:
    return self._at(name).dtype

  def read(self, name: str, index: Index) -> np.ndarray:
    return self._at(name)[index]

  def _at(self, name: str) -> np.ndarray:
    """Goes on to parameter `name`, unless the checkpoint is there already."""
    if name == self._name:
      return self._value
    try:
      stored_name, value = next(self._stored)
    except KeyError as error:
      raise ValueError(
        f'{self._directory} does not hold the model of its config.json: {error.args[0]}'
      ) from error
    shape = self._shapes[name].shape
    if stored_name != name or value.shape != shape:
      raise ValueError(
        f'{self._directory} holds {stored_name} {value.shape} where the model of its '
        f'config.json has {name} {shape}'
      )
    self._name = name
    self._value = value
    return value
