"""Files of another kind than a command reads: what they are, and how to make the right one."""

import pathlib
from typing import NamedTuple


class Wanted(NamedTuple):
  """What a command reads, and what pandas calls to write it."""

  name: str
  writer: str


JSON = Wanted('JSON or JSON lines', "to_json('FILE.jsonl', orient='records', lines=True)")
CSV = Wanted('CSV or TSV', "to_csv('FILE.csv', index=False)")

# First bytes, name of the program that packs so, and of the one that unpacks.
_PACKED = (
  (b'\x1f\x8b', 'gzip', 'gunzip'),
  (b'BZh', 'bzip2', 'bunzip2'),
  (b'\xfd7zXZ\0', 'xz', 'unxz'),
  (b'\x28\xb5\x2f\xfd', 'zstd', 'unzstd'),
)
# First bytes, bytes that come later, name, and the function of pandas that reads it.
_TABLES = (
  (b'PAR1', b'', 'Parquet', 'read_parquet'),
  (b'ARROW1', b'', 'Arrow', 'read_feather'),
  (b'PK\3\4', b'xl/workbook.xml', 'a spreadsheet', 'read_excel'),
  (b'PK\3\4', b'vnd.oasis.opendocument.spreadsheet', 'a spreadsheet', 'read_excel'),
  (b'\xd0\xcf\x11\xe0', b'', 'a spreadsheet', 'read_excel'),
)


def not_text(file: pathlib.Path, content: bytes, wanted: Wanted) -> str | None:
  """Says what a file is that is no text, and how to make the right one.

  Args:
    file: for the message.
    content: its bytes.
    wanted: what is read.

  Returns:
    One sentence; None where the kind is not known, or a text.
  """
  for first, later, name, reader in _TABLES:
    if content.startswith(first) and later in content:
      return table(file, name, f'{reader}(FILE)', wanted)
  for first, name, program in _PACKED:
    if content.startswith(first):
      return f'{file} is packed by {name}; unpack it first: {program} {file}'
  if content.startswith(b'PK\3\4'):
    return f'{file} is packed by zip; unpack it first: unzip {file}'
  return None


def table(file: pathlib.Path, name: str, reader: str, wanted: Wanted) -> str:
  """Says how pandas makes the right file of a table.

  Args:
    file: for the message.
    name: what the file is.
    reader: call of pandas that reads it.
    wanted: what is read.

  Returns:
    One sentence.
  """
  return (
    f'{file} is {name}, where {wanted.name} is expected; with pandas: '
    f'pandas.{reader}.{wanted.writer}'
  )
