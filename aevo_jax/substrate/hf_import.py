"""From a Hugging Face checkpoint to a base of ours, one tensor at a time.

The base holds all that is needed to give the checkpoint back byte for byte.

    BASE/checkpoint    the parameters by our names, in their stored dtypes
    BASE/extra         tensors that the forward does not use, if there are any, as they were stored
    BASE/source.json   what was stored where: shards, names, dtypes
    BASE/config.json, tokenizer files, ...   as they were

It is made as `.BASE.making` beside it and renamed at the end, so that BASE is whole wherever it
exists.
"""

import functools
import math
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from aevo_jax.checkpoint import orbax_io
from aevo_jax.data import chat_template
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint, front_matter, stream
from aevo_jax.models.hf.stored import INDEX, NAMED, Stored
from aevo_jax.models.weights import CHECKPOINT
from aevo_jax.substrate import source as source_lib
from aevo_jax.substrate.transfer import (
  CARRIED,
  DTYPES,
  EXTRA,
  TransferError,
  copy_config,
  making,
  nbytes,
)


class Imported(NamedTuple):
  """What an import came to.

  Attributes:
    parameters, extra: how many tensors of each.
    numbers: how many numbers the parameters are.
    size: bytes of all tensors.
    carried: names of files that came along.
    left: names of files that did not.
    remarks: what a person should know, a sentence each.
  """

  parameters: int
  extra: int
  numbers: int
  size: int
  carried: tuple[str, ...]
  left: tuple[str, ...]
  remarks: tuple[str, ...]


def import_hf(
  directory: pathlib.Path, out: pathlib.Path, *, stored: Stored | None = None
) -> Imported:
  """Makes a base from a Hugging Face checkpoint.

  Args:
    directory: of the checkpoint.
    out: the base, which must not exist.
    stored: the tensors of the checkpoint; None opens them.

  Returns:
    What came along and what did not.

  Raises:
    TransferError: `out` exists, or the disk has no room for it.
    CheckpointError, ValueError: `directory` holds no checkpoint of a model that the decoder
      computes, see stream.Reader; or weights that are not finite, or files beside them that are
      wrong, see chat_template.check.
  """
  reader = stream.Reader(directory, stored=stored)
  tensors = reader.stored.tensors
  unknown = []
  for name in reader.unused:
    tensor = tensors[name]
    if tensor.dtype not in DTYPES or not math.prod(tensor.shape):
      unknown.append(f'{name} ({tensor.dtype})')
  if unknown:
    raise TransferError(
      f'{directory} holds tensors that cannot be carried along, empty or of a dtype other '
      f'than {", ".join(DTYPES)}: {unknown[:NAMED]}'
    )
  size = sum(nbytes(tensor) for tensor in tensors.values())
  wanted = (*CARRIED, front_matter.CARD)
  carried = tuple(name for name in wanted if (directory / name).is_file())
  remarks = chat_template.check(directory)
  source = source_lib.of_reader(reader)
  known = {*carried, *reader.stored.metadata, INDEX}
  left = tuple(sorted(path.name for path in directory.iterdir() if path.name not in known))
  with making(out, size) as temporary:
    orbax_io.save(temporary / CHECKPOINT, _parameters(reader))
    if reader.unused:
      orbax_io.save(temporary / EXTRA, _extra(reader))
    for name in carried:
      if name != checkpoint.CONFIG:
        shutil.copyfile(directory / name, temporary / name)
    remarks += copy_config(directory, temporary, source.rows)
    source_lib.write(temporary / source_lib.FILE, source)
  numbers = sum(math.prod(shape.shape) for shape in reader.shapes.values())
  return Imported(
    len(reader.shapes), len(reader.unused), numbers, size, carried, left, tuple(remarks)
  )


def _parameters(reader: stream.Reader) -> dict[str, orbax_io.Deferred]:
  """Lists the parameters, to be read when their turn comes."""
  leaves = {}
  for name, shape in reader.shapes.items():
    read = functools.partial(_finite, reader, name)
    leaves[name] = orbax_io.Deferred(shape.shape, shape.dtype, read)
  return leaves


def _finite(reader: stream.Reader, name: str) -> np.ndarray:
  """Reads a parameter that training can go on from."""
  value = reader.read(name)
  weights.check_finite(reader.stored.directory, name, value)
  return value


def _extra(reader: stream.Reader) -> dict[str, orbax_io.Deferred]:
  """Lists the tensors that are no parameter."""
  leaves = {}
  for name in reader.unused:
    tensor = reader.stored.tensors[name]
    leaves[name] = orbax_io.Deferred(
      tensor.shape, DTYPES[tensor.dtype], functools.partial(reader.stored.read, name)
    )
  return leaves
