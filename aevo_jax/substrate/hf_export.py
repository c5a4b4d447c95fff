"""From a base of ours back to a Hugging Face checkpoint: the tensors under the names, dtypes and,
unless told otherwise, in the shards they came in.

Shards are written tensor by tensor behind a header that is known beforehand, so that no more than
one parameter is in memory.
"""

import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from aevo_jax.checkpoint import orbax_io
from aevo_jax.models.hf import checkpoint, stream
from aevo_jax.models.hf.stream import Tensor
from aevo_jax.models.weights import CHECKPOINT
from aevo_jax.substrate.hf_import import (
  CARRIED,
  DTYPES,
  EXTRA,
  SOURCE,
  TransferError,
  making,
  nbytes,
)

UNITS = {'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


class Row(NamedTuple):
  """One tensor to write: its name, what it is, which of our parameters it is made of (None: an
  extra tensor) and which of its experts (None: all).
  """

  name: str
  tensor: Tensor
  parameter: str | None
  expert: int | None


def export_hf(
  base: pathlib.Path,
  out: pathlib.Path,
  *,
  max_shard_size: int | None = None,
  params: Mapping[str, np.ndarray] | None = None,
) -> int:
  """Writes the base that `import_hf` made as the Hugging Face checkpoint `out`, and returns its
  bytes of tensors.

  Args:
    max_shard_size: bytes of tensors in a shard (a larger tensor has a shard of its own); None for
      the shards of the import.
    params: all parameters by our names, to be written in place of the base's, in the base's dtypes.

  Raises:
    TransferError: `base` is not a base that was imported, `params` do not fit it, `out` exists, or
      the disk has no room for it.
    ManifestError: `base` is damaged.
  """
  metadata, rows = _source(base)
  if max_shard_size is not None:
    rows, metadata = _split(rows, max_shard_size), {}
  files = {}
  for row in rows:
    files.setdefault(row.tensor.file, []).append(row)
  size = sum(nbytes(row.tensor) for row in rows)
  with making(out, size) as temporary:
    places = {}
    for file, members in files.items():
      places |= _begin(temporary / file, members, metadata.get(file) or {'format': 'pt'})
    _write(temporary, base, rows, places, params)
    if list(files) != [checkpoint.WEIGHTS]:
      index = {
        'metadata': {'total_size': size},
        'weight_map': {row.name: row.tensor.file for row in sorted(rows)},
      }
      (temporary / stream.INDEX).write_text(json.dumps(index, indent=2) + '\n')
    for name in CARRIED:
      if (base / name).is_file():
        shutil.copyfile(base / name, temporary / name)
  return size


def parse_size(text: str) -> int:
  """'5GB' -> 5_000_000_000, as Hugging Face counts.

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


def _source(base: pathlib.Path) -> tuple[dict[str, dict], list[Row]]:
  if not (base / SOURCE).is_file() or not (base / CHECKPOINT).is_dir():
    raise TransferError(
      f'{base} is not a base that `aevo import_hf` made (no {SOURCE}, no {CHECKPOINT})'
    )
  source = json.loads((base / SOURCE).read_text())
  return source['shards'], [
    Row(name, Tensor(file, dtype, tuple(shape)), parameter, expert)
    for name, file, dtype, shape, parameter, expert in source['tensors']
  ]


def _split(rows: list[Row], limit: int) -> list[Row]:
  """The rows in shards of at most `limit` bytes, in the same order."""
  shards, room = [], 0
  for row in rows:
    size = nbytes(row.tensor)
    if size > room:
      shards.append([])
      room = max(limit, size)
    shards[-1].append(row)
    room -= size
  names = (
    [checkpoint.WEIGHTS]
    if len(shards) == 1
    else [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
  )
  return [
    row._replace(tensor=Tensor(file, row.tensor.dtype, row.tensor.shape))
    for file, shard in zip(names, shards)
    for row in shard
  ]


def _begin(path: pathlib.Path, rows: list[Row], metadata: dict[str, str]) -> dict[str, int]:
  """Writes a shard's header and returns where in the file each tensor goes, {name: byte}."""
  header, end = {'__metadata__': metadata}, 0
  starts = {}
  for row in rows:
    starts[row.name], end = end, end + nbytes(row.tensor)
    header[row.name] = {
      'dtype': row.tensor.dtype,
      'shape': row.tensor.shape,
      'data_offsets': [starts[row.name], end],
    }
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # tensors begin at a multiple of 8
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    file.truncate(8 + len(text) + end)
  return {name: 8 + len(text) + start for name, start in starts.items()}


def _write(
  directory: pathlib.Path,
  base: pathlib.Path,
  rows: list[Row],
  places: dict[str, int],
  params: Mapping[str, np.ndarray] | None,
) -> None:
  """Fills the shards, parameter by parameter."""
  members = {}
  for row in rows:
    members.setdefault(row.parameter, []).append(row)
  extra = [row.name for row in members.pop(None, [])]
  if params is not None and params.keys() != members.keys():
    raise TransferError(
      f'the parameters to export are not those of {base}: they differ in '
      f'{sorted(params.keys() ^ members.keys())[: stream.NAMED]}'
    )
  files: dict[str, BinaryIO] = {}
  try:
    for file in {row.tensor.file for row in rows}:
      files[file] = (directory / file).open('r+b')
    by_name = {row.name: row for row in rows}
    for name, value in _arrays(base, list(members), params):
      for row in members[name]:
        part = value if row.expert is None else value[row.expert : row.expert + 1]
        stored = checkpoint.to_hf(name, part)
        _put(
          files[row.tensor.file], places[row.name], row, stored if row.expert is None else stored[0]
        )
    if extra:
      for name, value in orbax_io.restore_each(base / EXTRA, extra):
        _put(files[by_name[name].tensor.file], places[name], by_name[name], value)
  finally:
    for file in files.values():
      file.close()


def _arrays(
  base: pathlib.Path, names: list[str], params: Mapping[str, np.ndarray] | None
) -> Iterator[tuple[str, np.ndarray]]:
  if params is None:
    yield from orbax_io.restore_each(base / CHECKPOINT, names)
  else:
    yield from ((name, np.asarray(params[name])) for name in names)


def _put(file: BinaryIO, place: int, row: Row, value: np.ndarray) -> None:
  if value.shape != row.tensor.shape:
    raise TransferError(
      f'{row.name} would have shape {value.shape} and had {row.tensor.shape} when it was imported'
    )
  file.seek(place)
  file.write(
    np.ascontiguousarray(value.astype(DTYPES[row.tensor.dtype], copy=False))
    .reshape(-1)
    .view(np.uint8)
  )
