"""Records of a data set: JSON values of a file, each with the place where it stands.

A file is JSON lines, one array, or objects over several lines. Of lines a wrong one costs itself
alone; of the others nothing behind it can be read.
"""

import codecs
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from aevo_jax import file_kinds, strict_json

_SUFFIXES = ('.jsonl', '.json', '.ndjson')
_OF_CSV = {'.csv': 'read_csv(FILE)', '.tsv': "read_csv(FILE, sep='\\t')"}


class RecordsError(ValueError):
  """The file cannot be read at all; the message names it and the fix."""


class Record(NamedTuple):
  """A JSON value and its place, as file:line."""

  value: Any
  location: str


class Unreadable(NamedTuple):
  """A place without a JSON value, and why."""

  location: str
  why: str


def files(path: pathlib.Path) -> list[pathlib.Path]:
  """Lists the files of a data set.

  Args:
    path: a file, or a folder with *.jsonl, *.ndjson and *.json.

  Returns:
    The files by name.

  Raises:
    RecordsError: there are none.
  """
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise RecordsError(f'there is no {path}; name a file of JSON, or a folder of them')
  found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
  if not found:
    raise RecordsError(f'{path} holds no {", ".join("*" + s for s in _SUFFIXES)}; name a file')
  return found


def read(file: pathlib.Path) -> Iterator[Record | Unreadable]:
  """Reads the records of a file, in order.

  Args:
    file: in UTF-8, with or without a byte order mark, or in UTF-16 with one.

  Yields:
    The JSON values, and the places that hold none.

  Raises:
    RecordsError: it is no text, or a table such as CSV or Parquet.
    OSError: it cannot be read.
  """
  text = _text(file)
  begin = _skip(text, 0)
  reader = _OF_CSV.get(file.suffix.lower())
  if reader and text[begin : begin + 1] not in ('', '[', '{'):
    raise RecordsError(file_kinds.table(file, 'CSV', reader, file_kinds.JSON))
  if text[begin : begin + 1] == '[':
    yield from _array(text, begin + 1, file)
  elif text[begin : begin + 1] == '{' and not _is_value(text[begin:].partition('\n')[0]):
    yield from _values(text, begin, file)
  else:
    yield from _lines(text, file)


def _text(file: pathlib.Path) -> str:
  content = file.read_bytes()
  foreign = file_kinds.not_text(file, content, file_kinds.JSON)
  if foreign is not None:
    raise RecordsError(foreign)
  encoding = 'utf-8-sig'
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    encoding = 'utf-16'
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError as error:
    raise RecordsError(
      f'{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8'
    ) from None
  if '\0' in text:
    raise RecordsError(f'{file} holds NUL bytes, as UTF-16 does; save it as UTF-8')
  return text.replace('\r\n', '\n').replace('\r', '\n')


def _is_value(text: str) -> bool:
  try:
    strict_json.loads(text)
  except strict_json.DuplicateKeyError:
    return True
  except (ValueError, RecursionError):
    return False
  return True


def _lines(text: str, file: pathlib.Path) -> Iterator[Record | Unreadable]:
  """One value a line."""
  for number, line in enumerate(text.split('\n'), 1):
    line = line.removeprefix('\ufeff').strip()
    if not line:
      continue
    location = f'{file}:{number}'
    try:
      yield Record(strict_json.loads(line), location)
    except (ValueError, RecursionError) as error:
      yield Unreadable(location, f'not JSON ({error})')


class _Place:
  """Counts lines up to a position that only moves forward."""

  def __init__(self, text: str, file: pathlib.Path):
    self._text = text
    self._file = file
    self._at = 0
    self._line = 1

  def location(self, position: int) -> str:
    """Returns file:line of a position."""
    self._line += self._text.count('\n', self._at, position)
    self._at = position
    return f'{self._file}:{self._line}'


def _array(text: str, at: int, file: pathlib.Path) -> Iterator[Record | Unreadable]:
  """The elements of an array whose bracket is open."""
  place = _Place(text, file)
  at = _skip(text, at)
  while text[at : at + 1] != ']':
    location = place.location(at)
    try:
      value, at = strict_json.first_value(text, at)
    except (ValueError, RecursionError) as error:
      yield Unreadable(location, f'not JSON ({error}), and nothing behind it was read')
      return
    yield Record(value, location)
    at = _skip(text, at)
    if text[at : at + 1] == ',':
      at = _skip(text, at + 1)
    elif text[at : at + 1] != ']':
      yield Unreadable(place.location(at), 'no , or ] behind an element; nothing more was read')
      return
  rest = _skip(text, at + 1)
  if rest < len(text):
    yield Unreadable(place.location(rest), 'text behind the array was not read')


def _values(text: str, at: int, file: pathlib.Path) -> Iterator[Record | Unreadable]:
  """Values one after another, each over several lines."""
  place = _Place(text, file)
  while at < len(text):
    location = place.location(at)
    try:
      value, at = strict_json.first_value(text, at)
    except (ValueError, RecursionError) as error:
      yield Unreadable(location, f'not JSON ({error}), and nothing behind it was read')
      return
    yield Record(value, location)
    at = _skip(text, at)


def _skip(text: str, at: int) -> int:
  """The next position without white space."""
  while at < len(text) and text[at] in ' \t\r\n':
    at += 1
  return at
