"""From a Hugging Face checkpoint to a base of ours, one tensor at a time, with all that is needed
to give it back byte for byte.

    BASE/checkpoint    the parameters by our names, in their stored dtypes
    BASE/extra         tensors that the forward does not use, if there are any, as they were stored
    BASE/source.json   what was stored where: shards, names, dtypes
    BASE/config.json, tokenizer files, ...   as they were

It is made as `.BASE.making` beside it and renamed at the end, so that BASE is whole wherever it
exists.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aevo_jax.checkpoint import durable, orbax_io
from aevo_jax.models.hf import checkpoint, stream
from aevo_jax.models.weights import CHECKPOINT

EXTRA = 'extra'
SOURCE = 'source.json'
CARRIED = (
  checkpoint.CONFIG,
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
)
DTYPES = stream.DTYPES | {
  name: np.dtype(kind)
  for name, kind in {
    'F64': 'f8',
    'I64': 'i8',
    'I32': 'i4',
    'I16': 'i2',
    'I8': 'i1',
    'U64': 'u8',
    'U32': 'u4',
    'U16': 'u2',
    'U8': 'u1',
    'BOOL': '?',
  }.items()
}  # of any tensor
ROOM = 1.02  # of the disk, for a checkpoint's own files


class TransferError(ValueError):
  """An import or export that cannot be done; the message names the fix."""


class Imported(NamedTuple):
  """parameters, extra: how many. size: bytes of all tensors. carried, left: names of files that
  came along, and of those that did not.
  """

  parameters: int
  extra: int
  size: int
  carried: tuple[str, ...]
  left: tuple[str, ...]


def import_hf(directory: pathlib.Path, out: pathlib.Path) -> Imported:
  """Makes the base `out` from the checkpoint in `directory`.

  Raises:
    TransferError: `out` exists, or the disk has no room for it.
    CheckpointError, ValueError: `directory` holds no checkpoint of a model that the decoder
      computes; see stream.Reader.
  """
  reader = stream.Reader(directory)
  tensors = reader.stored.tensors
  unknown = [
    f'{name} ({tensors[name].dtype})'
    for name in reader.unused
    if tensors[name].dtype not in DTYPES or not math.prod(tensors[name].shape)
  ]
  if unknown:
    raise TransferError(
      f'{directory} holds tensors that cannot be carried along, empty or of a dtype other '
      f'than {", ".join(DTYPES)}: {unknown[: stream.NAMED]}'
    )
  size = sum(nbytes(tensor) for tensor in tensors.values())
  carried = tuple(name for name in CARRIED if (directory / name).is_file())
  left = tuple(
    sorted(
      p.name
      for p in directory.iterdir()
      if p.name not in {*carried, *reader.stored.metadata, stream.INDEX}
    )
  )
  with making(out, size) as temporary:
    orbax_io.save(
      temporary / CHECKPOINT,
      {
        name: deferred(shape.shape, shape.dtype, reader, name)
        for name, shape in reader.shapes.items()
      },
    )
    if reader.unused:
      orbax_io.save(
        temporary / EXTRA,
        {
          name: deferred(tensors[name].shape, DTYPES[tensors[name].dtype], reader.stored, name)
          for name in reader.unused
        },
      )
    for name in carried:
      shutil.copyfile(directory / name, temporary / name)
    (temporary / SOURCE).write_text(json.dumps(_source(reader), indent=1) + '\n')
  return Imported(len(reader.shapes), len(reader.unused), size, carried, left)


def deferred(shape, dtype, reader, name: str) -> orbax_io.Deferred:
  """A leaf that `reader` reads by its name."""
  return orbax_io.Deferred(tuple(shape), np.dtype(dtype), lambda: reader.read(name))


def _source(reader: stream.Reader) -> dict:
  """{'shards': {file: its header's metadata}, 'tensors': [[stored name, file, dtype, shape, our
  name or null, expert or null]]}, in the files' order.
  """
  owner = {
    part: [name, number if reader.is_stacked(name) else None]
    for name, parts in reader.parts.items()
    for number, part in enumerate(parts)
  }
  owner |= {copy: [name, None] for copy, name in reader.copies.items()}
  rows = [
    [name, t.file, t.dtype, list(t.shape), *owner.get(name, (None, None))]
    for name, t in reader.stored.tensors.items()
  ]
  return {'shards': reader.stored.metadata, 'tensors': rows}


def nbytes(tensor: stream.Tensor) -> int:
  """Bytes of a stored tensor. Raises KeyError for a dtype that is not in DTYPES."""
  return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize


@contextlib.contextmanager
def making(out: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
  """A temporary directory that becomes `out` if all goes well, and disappears if not.

  Raises:
    TransferError: `out` exists, or there is no room for `size` bytes.
  """
  out = pathlib.Path(os.path.abspath(out))
  if out.exists() or out.is_symlink():
    raise TransferError(f'{out} exists; choose another --out, or remove it first')
  parent = next(p for p in out.parents if p.exists())
  free = shutil.disk_usage(parent).free
  if free < size * ROOM:
    raise TransferError(
      f'{out} needs {size * ROOM / 1e6:,.1f} MB and {parent} has {free / 1e6:,.1f} MB '
      'free; free space, or choose an --out on another disk'
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  temporary = out.with_name(f'.{out.name}.making')
  shutil.rmtree(temporary, ignore_errors=True)  # left by one that was killed
  temporary.mkdir()
  try:
    yield temporary
    durable.fsync_tree(temporary)
    os.rename(temporary, out)
  except BaseException:
    _remove(temporary)
    raise
  durable.fsync(out.parent)


def _remove(directory: pathlib.Path) -> None:
  """Removes a directory that threads of an interrupted save may still be writing to; what five
  seconds do not remove, the next run will.
  """
  deadline = time.monotonic() + 5
  shutil.rmtree(directory, ignore_errors=True)
  while directory.exists() and time.monotonic() < deadline:
    time.sleep(0.1)
    shutil.rmtree(directory, ignore_errors=True)
