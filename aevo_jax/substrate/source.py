"""source.json of an import: which tensors a Hugging Face checkpoint held, and where.

    {"shards": {file: its header's metadata},
     "tensors": [[stored name, file, dtype, shape, our name or null, expert or null], ...]}

Tensors are in the order of the files.
"""

import json
import pathlib
from typing import Any, NamedTuple

from aevo_jax.models.hf.stored import Tensor
from aevo_jax.models.hf.stream import Reader

FILE = 'source.json'


class Row(NamedTuple):
  """One stored tensor.

  Attributes:
    name: of the tensor.
    tensor: its file, dtype and shape.
    parameter: which of our parameters it makes up; None for one that the forward does not use.
    expert: which of the parameter's experts it is; None for all of it.
  """

  name: str
  tensor: Tensor
  parameter: str | None
  expert: int | None


class Source(NamedTuple):
  """What source.json says.

  Attributes:
    shards: {file: its header's metadata}.
    rows: the tensors.
  """

  shards: dict[str, dict[str, str]]
  rows: list[Row]

  def unused(self) -> tuple[str, ...]:
    """Lists the tensors that are no parameter."""
    return tuple(row.name for row in self.rows if row.parameter is None)


def of_reader(reader: Reader) -> Source:
  """Describes a checkpoint.

  Args:
    reader: of its directory.

  Returns:
    Its files and tensors.
  """
  owners: dict[str, tuple[str, int | None]] = {}
  for name, parts in reader.parts.items():
    for number, part in enumerate(parts):
      owners[part] = (name, number if reader.is_stacked(name) else None)
  for copy, name in reader.copies.items():
    owners[copy] = (name, None)
  rows = []
  for name, tensor in reader.stored.tensors.items():
    parameter, expert = owners.get(name, (None, None))
    rows.append(Row(name, tensor, parameter, expert))
  return Source(reader.stored.metadata, rows)


def write(path: pathlib.Path, source: Source) -> None:
  """Writes source.json.

  Args:
    path: the file.
    source: its content.
  """
  tensors: list[list[Any]] = []
  for row in source.rows:
    tensor = row.tensor
    tensors.append(
      [row.name, tensor.file, tensor.dtype, list(tensor.shape), row.parameter, row.expert]
    )
  text = json.dumps({'shards': source.shards, 'tensors': tensors}, indent=1)
  path.write_text(text + '\n')


def read(path: pathlib.Path) -> Source:
  """Reads source.json.

  Args:
    path: the file, written by `write`.

  Returns:
    Its content.
  """
  fields = json.loads(path.read_text())
  rows = []
  for name, file, dtype, shape, parameter, expert in fields['tensors']:
    rows.append(Row(name, Tensor(file, dtype, tuple(shape)), parameter, expert))
  return Source(fields['shards'], rows)
