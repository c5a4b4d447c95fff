"""Tasks of the records of a data set, and what could not be made one."""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from aevo_jax.tasks import own_data, shapes, verify
from aevo_jax.tasks.convert import records
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.shapes import Exchange, ShapeError

SYSTEMS = ('refuse', 'prepend', 'drop')
# Longer text under a name such as `answer` is a reply, of which nobody can say which part counts.
LONGEST_KEY = 100
# The last #### of a line; five or more are a heading.
_HASHES = re.compile(r'^(.*)(?<!#)####(?!#)(.*)$', re.MULTILINE)
_NO_FAMILY = re.compile(r'[^A-Za-z0-9_-]+')


@dataclasses.dataclass(frozen=True)
class Options:
  """How records become tasks.

  Attributes:
    family: of every task; '' for the record's own, else the name of its file.
    verifier: a row of `verify.VERIFIERS` that has to accept every key; '' for the one that fits.
    system: what becomes of a system prompt: one of SYSTEMS.
    whole_replies: whether a reply without \\boxed{} or #### is an answer as a whole.
  """

  family: str = ''
  verifier: str = ''
  system: str = 'refuse'
  whole_replies: bool = False


@dataclasses.dataclass(frozen=True)
class Conversion:
  """What became of a data set.

  Attributes:
    items: the tasks, in order.
    verifier: the comparison that accepts every key.
    shapes: shape -> records that were turned.
    refused: why -> places of records that could not be turned.
    repeated: how many records repeat another.
    rewritten: how many keys were written with other digits or another minus.
  """

  items: tuple[Item, ...]
  verifier: str
  shapes: dict[str, int]
  refused: dict[str, list[str]]
  repeated: int
  rewritten: int


@dataclasses.dataclass(frozen=True)
class _Task:
  """A task before it is checked."""

  shape: str
  location: str
  fields: dict[str, str]
  rewritten: bool


class _Located(NamedTuple):
  """An item and the place of its record."""

  item: Item
  location: str


def convert(files: Sequence[pathlib.Path], options: Options) -> Conversion:
  """Makes tasks of all records that are one.

  Args:
    files: as `records.files` lists them.
    options: how.

  Returns:
    The tasks and the rest.

  Raises:
    RecordsError: a file cannot be read at all.
    OSError: likewise.
  """
  refused: dict[str, list[str]] = collections.defaultdict(list)
  tasks = []
  for file in files:
    for record in records.read(file):
      if isinstance(record, records.Unreadable):
        refused[record.why].append(record.location)
        continue
      try:
        tasks.append(_task(record, file, options))
      except ShapeError as error:
        refused[str(error)].append(record.location)
  verifier = options.verifier or fitting_verifier([task.fields['answer'] for task in tasks])
  return _checked(tasks, verifier, refused)


def _checked(tasks: Sequence[_Task], verifier: str, refused: dict[str, list[str]]) -> Conversion:
  """Checks tasks as a training run does; what it does not take goes to `refused`."""
  first: dict[str, _Located] = {}
  accepted = []
  for task in tasks:
    try:
      item = own_data.parse_line(json.dumps(task.fields), task.location, verify.named(verifier))
      earlier = first.setdefault(own_data.normalised(item.question), _Located(item, task.location))
      _check_agreement(item, earlier)
    except (own_data.TaskFileError, ShapeError) as error:
      refused[str(error).removeprefix(f'{task.location}: ')].append(task.location)
      continue
    accepted.append((item, task))
  untrained = own_data.untrained_families([item for item, _ in accepted])
  trained = {item.family for item, _ in accepted}.difference(untrained)
  items: dict[Item, None] = {}
  turned: collections.Counter = collections.Counter()
  repeated = 0
  rewritten = 0
  for item, task in accepted:
    if trained and item.family not in trained:
      refused[
        f'no prompt of {_families(untrained)} falls into the train split (60% of prompts do); say '
        '--family=NAME to make all tasks one family, or add records'
      ].append(task.location)
      continue
    turned[task.shape] += 1
    repeated += item in items
    rewritten += task.rewritten
    items.setdefault(item)
  return Conversion(tuple(items), verifier, dict(turned), dict(refused), repeated, rewritten)


def _families(names: Sequence[str]) -> str:
  noun = 'family' if len(names) == 1 else 'families'
  return f'{noun} {", ".join(map(repr, names))}'


def write(conversion: Conversion, out: pathlib.Path) -> None:
  """Writes tasks.jsonl at once, after reading it back as a training run does.

  Args:
    conversion: with at least one task.
    out: the file; an older one is replaced.

  Raises:
    TaskFileError: the tasks are none that can be trained on; nothing is written.
    OSError: the file cannot be written.
  """
  temporary = out.with_name(f'.{out.name}.new')
  try:
    temporary.write_text(own_data.jsonl(conversion.items), encoding='utf-8')
    own_data.read(temporary, verifier=conversion.verifier)
    temporary.replace(out)
  except own_data.TaskFileError as error:
    raise own_data.TaskFileError(str(error).removeprefix(f'{temporary}: ')) from None
  finally:
    temporary.unlink(missing_ok=True)


def fitting_verifier(keys: Sequence[str]) -> str:
  """Chooses the comparison by which every key is right for itself.

  Args:
    keys: of all tasks.

  Returns:
    'number' where all are numbers, 'choice' where all are letters of a choice, else 'strict'.
  """
  for name in ('number', 'choice'):
    if keys and all(verify.named(name)('', key, key) for key in keys):
      return name
  return 'strict'


def _task(record: records.Record, file: pathlib.Path, options: Options) -> _Task:
  """Reads a record; raises ShapeError where it is no task."""
  told = shapes.exchange(record.value)
  key, solution = _answer(told, options)
  plain = _plain_number(key)
  family = options.family or told.family or file.stem
  fields = {
    'prompt': _question(told, options.system),
    'answer': plain or key,
    'family': _NO_FAMILY.sub('_', family).strip('_') or 'tasks',
  }
  if solution:
    fields['solution'] = solution
  return _Task(told.shape, record.location, fields, plain not in ('', key))


def _question(told: Exchange, system: str) -> str:
  """The question, with its system prompt where that is asked for."""
  if not told.system.strip() or system == 'drop':
    return told.question
  if system == 'refuse':
    raise ShapeError(
      'there is a system prompt, and a task has none; say --system=prepend to put it before the '
      'question, or --system=drop'
    )
  return f'{told.system.strip()}\n\n{told.question}'


def _answer(told: Exchange, options: Options) -> tuple[str, str]:
  """The key of a record and the solution before it; raises ShapeError without a key."""
  key = told.key.strip()
  reply = told.reply
  if _HASHES.search(key) or verify.boxed_place(key):
    found, solution = _split(key)
    if not found:
      raise ShapeError('no answer stands behind the last ####')
    if reply:
      solution = _split(reply)[1]
    return found, solution
  found, solution = _split(reply)
  if key:
    if ('\n' in key or len(key) > LONGEST_KEY) and not options.whole_replies:
      raise ShapeError(
        'the answer is a text without \\boxed{} or ####, which no verifier compares; give its key '
        'a field "answer", or say --whole_replies if the whole of it is the key'
      )
    if found and not _agree(found, key):
      raise ShapeError('the reply ends with another answer than the field of the key')
    return key, solution
  if found:
    return found, solution
  whole = reply.strip()
  if whole and (
    options.whole_replies or fitting_verifier([_plain_number(whole) or whole]) != 'strict'
  ):
    return whole, ''
  if not whole:
    raise ShapeError('there is no answer')
  raise ShapeError(
    'no answer can be checked: the reply has no \\boxed{} and no #### at its end, and is no '
    'number or letter; give its key a field "answer", or say --whole_replies if the whole of it is '
    'the key'
  )


def _split(reply: str) -> tuple[str, str]:
  """Divides a reply into its key, '' without one, and what stands before."""
  place = verify.boxed_place(reply)
  if place is not None:
    begin, end = place
    before = reply[: begin - len('\\boxed{')].rstrip()
    if reply[end + 1 : end + 2] == '$':
      before = before.rstrip('$')
    before = before.removesuffix('\\(').removesuffix('\\[')
    return reply[begin:end].strip(), before.strip()
  found = list(_HASHES.finditer(reply))
  if not found:
    return '', reply.strip()
  last = found[-1]
  key = last[2].strip()
  if reply[last.end() :].strip() and fitting_verifier([_plain_number(key) or key]) == 'strict':
    return '', reply.strip()  # a heading, with its text below it
  return key, reply[: last.end(1)].strip()


def _agree(found: str, key: str) -> bool:
  """Whether two answers are one, as texts, as numbers or as letters of a choice."""
  return (
    found == key
    or verify.number('', _plain_number(found), _plain_number(key))
    or verify.choice('', found, key)
  )


def _plain_number(key: str) -> str:
  """A number in ASCII, whatever minus or digits it is written with; '' where it is none."""
  plain = verify.in_ascii(key)
  return plain if verify.named('number')('', plain, plain) else ''


def _check_agreement(item: Item, earlier: _Located) -> None:
  """Raises ShapeError where an item contradicts the first one with the same prompt."""
  for field in ('answer', 'family'):
    if getattr(item, field) != getattr(earlier.item, field):
      raise ShapeError(f'the {field} contradicts {earlier.location}, which has the same prompt')
