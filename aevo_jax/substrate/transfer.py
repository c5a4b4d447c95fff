"""What import from and export to Hugging Face share: sizes, errors, and a directory made whole."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator

import numpy as np

from aevo_jax.checkpoint import durable
from aevo_jax.models.hf import checkpoint, front_matter, stream
from aevo_jax.models.hf.stored import Tensor
from aevo_jax.substrate.source import Row

EXTRA = 'extra'  # the folder of an import that holds what the forward does not use
# Files that come along as they are.
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
  *front_matter.LICENSE_FILES,
)
# Of any tensor.
DTYPES = stream.DTYPES | {
  'F64': np.dtype('f8'),
  'I64': np.dtype('i8'),
  'I32': np.dtype('i4'),
  'I16': np.dtype('i2'),
  'I8': np.dtype('i1'),
  'U64': np.dtype('u8'),
  'U32': np.dtype('u4'),
  'U16': np.dtype('u2'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
ROOM = 1.02  # of the disk, for a checkpoint's files other than tensors


class TransferError(ValueError):
  """An import or export that cannot be done; the message names the fix."""


def nbytes(tensor: Tensor) -> int:
  """Counts the bytes of a stored tensor.

  Args:
    tensor: of a dtype in DTYPES, else KeyError.

  Returns:
    The bytes without the header.
  """
  return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize


def copy_config(base: pathlib.Path, out: pathlib.Path, rows: Iterable[Row]) -> list[str]:
  """Copies config.json, byte for byte where it is true of the tensors beside it.

  Args:
    base: has config.json, of a model that the decoder computes.
    out: gets it.
    rows: the tensors.

  Returns:
    A sentence where it had to be corrected, see `checkpoint.config_as_held`.
  """
  fields = json.loads((base / checkpoint.CONFIG).read_text())
  dtypes: dict[str, int] = {}
  for row in rows:
    if row.parameter is not None:
      name = str(DTYPES[row.tensor.dtype])
      dtypes[name] = dtypes.get(name, 0) + math.prod(row.tensor.shape)
  held = checkpoint.config_as_held(fields, dtypes)
  changes = []
  for name, value in fields.items():
    now = repr(held[name]) if name in held else 'left out'
    if now != repr(value):
      changes.append(f'{name} was {value!r} and is {now}')
  if not changes:
    shutil.copyfile(base / checkpoint.CONFIG, out / checkpoint.CONFIG)
    return []
  (out / checkpoint.CONFIG).write_text(json.dumps(held, indent=2, ensure_ascii=False) + '\n')
  return [f'{checkpoint.CONFIG} is made true of the weights: {"; ".join(changes)}']


@contextlib.contextmanager
def making(out: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
  """Makes a directory whole or not at all.

  Args:
    out: the directory to be.
    size: bytes that will go into it.

  Yields:
    A temporary directory beside it, which becomes `out` if all goes well and disappears if not.

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
  """Removes a directory that threads of an interrupted save may still be writing to.

  What five seconds do not remove, the next run will.
  """
  deadline = time.monotonic() + 5
  shutil.rmtree(directory, ignore_errors=True)
  while directory.exists() and time.monotonic() < deadline:
    time.sleep(0.1)
    shutil.rmtree(directory, ignore_errors=True)
