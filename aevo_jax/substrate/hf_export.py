"""From a base of ours, or a checkpoint in shards, to a Hugging Face checkpoint.

Tensors have the names, dtypes and, unless told otherwise, the shards they came in. Shards are
written tensor by tensor behind a header that is known beforehand, so that no more than one
parameter is in memory.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from aevo_jax.checkpoint import orbax_io
from aevo_jax.data import chat_template
from aevo_jax.models.hf import checkpoint, front_matter, stream
from aevo_jax.models.hf.stored import INDEX, NAMED, Tensor
from aevo_jax.models.weights import CHECKPOINT
from aevo_jax.substrate import source as source_lib
from aevo_jax.substrate.source import Row, Source
from aevo_jax.substrate.transfer import (
  CARRIED,
  DTYPES,
  EXTRA,
  TransferError,
  copy_config,
  making,
  nbytes,
)

UNITS = {'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


class Exported(NamedTuple):
  """What was written.

  Attributes:
    size: bytes of its tensors.
    remarks: what a person should know, a sentence each.
  """

  size: int
  remarks: list[str]


def export_hf(
  base: pathlib.Path,
  out: pathlib.Path,
  *,
  max_shard_size: int | None = None,
  params: Mapping[str, Any] | None = None,
) -> Exported:
  """Writes a base as a Hugging Face checkpoint.

  Args:
    base: made by `import_hf`, or a Hugging Face checkpoint already.
    out: the checkpoint's directory, which must not exist.
    max_shard_size: bytes of tensors in a shard (a larger tensor has a shard to itself); None for
      the shards of the import.
    params: all parameters by our names, to be written in place of the base's, in the base's dtypes;
      of a base that was imported. The base's card is not theirs, and is left out.

  Returns:
    Its size, and what a person should know.

  Raises:
    TransferError: `base` is neither, `params` do not fit it, `out` exists, or the disk has no room
      for it.
    CheckpointError: `base` is no checkpoint of a model that the decoder computes.
    ValueError: its config.json or the files of its tokenizer are wrong.
    ManifestError: `base` is damaged.
  """
  reader = None
  if params is None and not (base / CHECKPOINT).is_dir():
    reader = stream.Reader(base)
    source = source_lib.of_reader(reader)
  else:
    source = _source(base)
    checkpoint.read_config(base)
  chat_template.check(base)
  if max_shard_size is not None:
    source = Source({}, _split(source.rows, max_shard_size))
  files: dict[str, list[Row]] = {}
  for row in source.rows:
    files.setdefault(row.tensor.file, []).append(row)
  size = sum(nbytes(row.tensor) for row in source.rows)
  with making(out, size) as temporary:
    offsets = {}
    for file, rows in files.items():
      metadata = source.shards.get(file) or {'format': 'pt'}
      offsets |= _begin(temporary / file, rows, metadata)
    if reader is None:
      _write(temporary, base, source.rows, offsets, params)
    else:
      _copy(temporary, reader, source.rows, offsets)
    if list(files) != [checkpoint.WEIGHTS]:
      index = {
        'metadata': {'total_size': size},
        'weight_map': {row.name: row.tensor.file for row in sorted(source.rows)},
      }
      (temporary / INDEX).write_text(json.dumps(index, indent=2) + '\n')
    carried = CARRIED
    if params is None:
      carried = (*CARRIED, front_matter.CARD)
    remarks = copy_config(base, temporary, source.rows)
    for name in carried:
      if name != checkpoint.CONFIG and (base / name).is_file():
        shutil.copyfile(base / name, temporary / name)
  return Exported(size, remarks)


def parse_size(text: str) -> int:
  """Parses a size as Hugging Face counts.

  Args:
    text: a number and a unit, such as '5GB'.

  Returns:
    Bytes, such as 5_000_000_000.

  Raises:
    TransferError: it is no size.
  """
  number, unit = text[:-2], text[-2:].upper()
  try:
    size = int(float(number) * UNITS[unit])
  except (KeyError, ValueError, OverflowError):
    size = 0
  if size <= 0:
    raise TransferError(
      f'--max_shard_size={text} is no size; write a number and one of {", ".join(UNITS)}, '
      'such as 5GB'
    )
  return size


def _source(base: pathlib.Path) -> Source:
  path = base / source_lib.FILE
  if not path.is_file() or not (base / CHECKPOINT).is_dir():
    raise TransferError(
      f'{base} is not a base that `aevo import_hf` made (no {path.name}, no {CHECKPOINT})'
    )
  return source_lib.read(path)


def _split(rows: list[Row], limit: int) -> list[Row]:
  """Puts rows into shards of at most `limit` bytes, in the same order."""
  shards: list[list[Row]] = []
  room = 0
  for row in rows:
    size = nbytes(row.tensor)
    if size > room:
      shards.append([])
      room = max(limit, size)
    shards[-1].append(row)
    room -= size
  count = len(shards)
  names = [f'model-{i:05}-of-{count:05}.safetensors' for i in range(1, count + 1)]
  if count == 1:
    names = [checkpoint.WEIGHTS]
  placed = []
  for file, shard in zip(names, shards, strict=True):
    for row in shard:
      placed.append(row._replace(tensor=Tensor(file, row.tensor.dtype, row.tensor.shape)))
  return placed


def _begin(path: pathlib.Path, rows: list[Row], metadata: dict[str, str]) -> dict[str, int]:
  """Writes a shard's header; returns at which byte of the file each tensor begins."""
  header: dict[str, Any] = {'__metadata__': metadata}
  starts = {}
  end = 0
  for row in rows:
    start = end
    end = start + nbytes(row.tensor)
    starts[row.name] = start
    header[row.name] = {
      'dtype': row.tensor.dtype,
      'shape': row.tensor.shape,
      'data_offsets': [start, end],
    }
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # tensors begin at a multiple of 8
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    file.truncate(8 + len(text) + end)
  return {name: 8 + len(text) + start for name, start in starts.items()}


class _Slot(NamedTuple):
  """Where a tensor goes: an open file, and the byte at which it begins."""

  file: BinaryIO
  offset: int
  row: Row

  def put(self, value: np.ndarray) -> None:
    """Writes the tensor in its dtype."""
    tensor = self.row.tensor
    if value.shape != tensor.shape:
      raise TransferError(
        f'{self.row.name} would have shape {value.shape} and had {tensor.shape} when it was '
        'imported'
      )
    stored = np.ascontiguousarray(value.astype(DTYPES[tensor.dtype], copy=False))
    self.file.seek(self.offset)
    self.file.write(stored.reshape(-1).view(np.uint8))


def _copy(
  directory: pathlib.Path, reader: stream.Reader, rows: list[Row], offsets: dict[str, int]
) -> None:
  """Fills the shards from those of a Hugging Face checkpoint, tensor by tensor."""
  with contextlib.ExitStack() as stack:
    files = {}
    for file in {row.tensor.file for row in rows}:
      files[file] = stack.enter_context((directory / file).open('r+b'))
    for row in rows:
      slot = _Slot(files[row.tensor.file], offsets[row.name], row)
      slot.put(reader.stored.read(row.name))


def _write(
  directory: pathlib.Path,
  base: pathlib.Path,
  rows: list[Row],
  offsets: dict[str, int],
  params: Mapping[str, Any] | None,
) -> None:
  """Fills the shards, parameter by parameter."""
  with contextlib.ExitStack() as stack:
    files = {}
    for file in {row.tensor.file for row in rows}:
      files[file] = stack.enter_context((directory / file).open('r+b'))
    parameters: dict[str, list[_Slot]] = {}
    extra = {}
    for row in rows:
      slot = _Slot(files[row.tensor.file], offsets[row.name], row)
      if row.parameter is None:
        extra[row.name] = slot
      else:
        parameters.setdefault(row.parameter, []).append(slot)
    if params is not None and params.keys() != parameters.keys():
      raise TransferError(
        f'the parameters to export are not those of {base}: they differ in '
        f'{sorted(params.keys() ^ parameters.keys())[:NAMED]}'
      )
    for name, value in _arrays(base, list(parameters), params):
      for slot in parameters[name]:
        slot.put(_stored(name, value, slot.row.expert))
    if extra:
      for name, value in orbax_io.restore_each(base / EXTRA, list(extra)):
        extra[name].put(value)


def _stored(name: str, value: np.ndarray, expert: int | None) -> np.ndarray:
  """Lays a parameter, or one of its experts, out as Hugging Face does."""
  if expert is None:
    return checkpoint.to_hf(name, value)
  return checkpoint.to_hf(name, value[expert : expert + 1])[0]


def _arrays(
  base: pathlib.Path, names: list[str], params: Mapping[str, Any] | None
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the parameters to write, the base's where there are no others."""
  if params is None:
    yield from orbax_io.restore_each(base / CHECKPOINT, names)
    return
  for name in names:
    yield name, np.asarray(params[name])
