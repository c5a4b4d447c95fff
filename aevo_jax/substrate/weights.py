"""The weights of a base, whatever it lies in: a directory made by `aevo import_hf` (Orbax), or a
Hugging Face checkpoint in one file or in shards.

They are read parameter by parameter into the dtype, the stacking (`models.scan_layers`) and the
sharding that training wants, so that a model is in memory once.
"""

import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.checkpoint import orbax_io
from aevo_jax.models import scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import stream
from aevo_jax.models.params import Params, outline
from aevo_jax.substrate.hf_import import CHECKPOINT


def load(
  base: pathlib.Path,
  config: ModelConfig,
  *,
  dtype: Callable[[str, np.dtype], np.dtype] = lambda name, stored: np.dtype('float32'),
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Params:
  """The parameters of a decoder, stacked where `config.scan`.

  Args:
    dtype: of each parameter, by its name and the dtype in which it is stored. shardings: where each
      goes; the default device for those left out.

  Raises:
    CheckpointError, ManifestError: they cannot be read, or are not those that were written.
      ValueError: they are not the config's.
  """
  shapes = outline(config)[1]
  names = scan_layers.stack(shapes, config.pattern) if config.scan else shapes
  place = (
    _from_import(base, config, shapes)
    if (base / CHECKPOINT).is_dir()
    else _from_safetensors(base, config)
  )
  return {
    name: place(name, shape.shape, dtype, (shardings or {}).get(name))
    for name, shape in names.items()
  }


Dtype = Callable[[str, np.dtype], np.dtype]
Place = Callable[[str, tuple[int, ...], Dtype, jax.sharding.Sharding | None], jax.Array]


def _from_safetensors(base: pathlib.Path, config: ModelConfig) -> Place:
  """Each device reads its own piece."""
  reader = stream.Reader(base, config)

  def place(name, shape, dtype, sharding) -> jax.Array:
    parts = scan_layers.members(name, config.pattern)
    dtype = dtype(name, reader.shapes[parts[0]].dtype)

    def piece(index: tuple[slice, ...]) -> np.ndarray:
      if not scan_layers.is_stacked(name):
        return reader.read(name, index).astype(dtype)
      stacked = np.empty([len(range(*s.indices(n))) for s, n in zip(index, shape)], dtype)
      for row, part in enumerate(parts[index[0]]):
        stacked[row] = reader.read(part, index[1:])
      return stacked

    if sharding is not None:
      return jax.make_array_from_callback(shape, sharding, piece)
    return jnp.asarray(piece((slice(None),) * len(shape)))

  return place


def _from_import(
  base: pathlib.Path, config: ModelConfig, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Place:
  """One whole parameter after the other, in the order of the decoder's."""
  order = [
    part
    for name in (scan_layers.stack(shapes, config.pattern) if config.scan else shapes)
    for part in scan_layers.members(name, config.pattern)
  ]
  stored = orbax_io.restore_each(base / CHECKPOINT, order)

  def following(part: str) -> np.ndarray:
    try:
      name, value = next(stored)
    except KeyError as error:
      raise ValueError(
        f'{base / CHECKPOINT} does not hold the model of its config.json: {error.args[0]}'
      ) from error
    if name != part or value.shape != shapes[part].shape:
      raise ValueError(
        f'{base / CHECKPOINT} holds {name} {value.shape} where the model of its '
        f'config.json has {part} {shapes[part].shape}'
      )
    return value

  def place(name, shape, dtype, sharding) -> jax.Array:
    parts = scan_layers.members(name, config.pattern)
    first = following(parts[0])
    value = np.empty(shape, dtype(name, first.dtype))
    rows = value if scan_layers.is_stacked(name) else [value]
    rows[0][...] = first
    for row, part in zip(rows[1:], parts[1:]):
      row[...] = following(part)
    return jnp.asarray(value) if sharding is None else jax.device_put(value, sharding)

  return place
