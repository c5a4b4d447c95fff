r"""Tasks of one's own: JSONL lines, checked, split by prompt and sampled like the puzzles.

    {"prompt": "What is 3 + 4?", "answer": "7", "family": "sums", "solution": "3 and 4 make 7."}
    solution is optional

One line is one object; nothing in it is ever executed. The split of a line follows from its
normalised prompt (`splits`: 60% train, 15% dev, 25% private, halved by the arbiter's secret), so a
prompt that occurs twice lies on one side. Training goes through the train lines in epochs, each
shuffled anew by the trial's seed.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from aevo_jax import file_kinds, strict_json
from aevo_jax.config.nearest import suggestion
from aevo_jax.tasks import answers, shapes, verify
from aevo_jax.tasks.families.registry import FAMILIES
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.seeding import generator
from aevo_jax.tasks.splits import DEV_END, TRAIN_END, split_of

CONVERT = 'aevo tasks convert {} --out=tasks.jsonl'
KIND = 'given'  # there are no kinds within a family of one's own
NEEDED = ('prompt', 'answer', 'family')
OPTIONAL = ('solution',)
RESERVED = ('overall',)  # what the scores of all families together are called
_FAMILY = re.compile(r'[A-Za-z0-9_-]+')
_SHARES = {'dev': DEV_END - TRAIN_END, 'external': (1 - DEV_END) / 2, 'final': (1 - DEV_END) / 2}
_SECTIONS = {
  'dev': 'dev_set.items',
  'external': 'external_set.items',
  'final': 'final_set.items',
}


class TaskFileError(ValueError):
  """The tasks cannot be used; the message names file, line and fix."""


@dataclasses.dataclass(frozen=True)
class OwnTasks:
  """Checked tasks.

  Attributes:
    items: one per different line, in order.
    locations: file:line of each.
  """

  items: tuple[Item, ...]
  locations: tuple[str, ...]

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of `text()`."""
    return hashlib.sha256(self.text().encode()).hexdigest()

  def text(self) -> str:
    """Returns every item as one canonical line; reading it back gives the same items."""
    return jsonl(self.items)

  def of_split(self, split: str, secret: bytes | None = None) -> tuple[Item, ...]:
    """Selects the items of a split.

    Args:
      split: 'train', 'dev', 'private', or with `secret` 'external' or 'final'.
      secret: the arbiter's, which divides the private region.

    Returns:
      The items, in order.
    """
    return tuple([item for item in self.items if split_of(item.key, secret) == split])

  def sample(
    self, split: str, count: int, seed: int | bytes, secret: bytes | None = None
  ) -> list[Item]:
    """Samples different prompts, each family in proportion to its prompts in all the data.

    Args:
      split: 'dev', 'external' or 'final'.
      count: how many prompts, at least one for each family.
      seed: decides which.
      secret: as in `of_split`.

    Returns:
      `count` items, family by family.

    Raises:
      TaskFileError: a family has too few.
    """
    pools = self._pools(split, secret)
    sizes = _prompts(self.items)
    if count < len(sizes):
      raise TaskFileError(
        f'{_SECTIONS[split]} = {count} leaves some of the {len(sizes)} families out; '
        f'raise it to {len(sizes)} or more'
      )
    chosen = []
    _check_pools(split, count, sizes, pools)
    for family, quota in _quotas(count, sizes).items():
      pool = sorted(pools[family].values(), key=lambda item: item.key)
      chosen += generator(seed, split, family).sample(pool, quota)
    return chosen

  def _pools(self, split: str, secret: bytes | None) -> dict[str, dict[str, Item]]:
    """Returns family -> key -> the first item of that prompt."""
    pools: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in self.of_split(split, secret):
      pools[item.family].setdefault(item.key, item)
    return pools


def _check_pools(
  split: str, count: int, sizes: dict[str, int], pools: dict[str, dict[str, Item]]
) -> None:
  """Raises TaskFileError where a family of the split has fewer prompts than its part of `count`."""
  for family, quota in _quotas(count, sizes).items():
    if len(pools[family]) >= quota:
      continue
    most = 0
    for smaller in range(len(sizes), count):
      if all(len(pools[name]) >= part for name, part in _quotas(smaller, sizes).items()):
        most = smaller
    lower = f'lower {_SECTIONS[split]} to {most}, or ' if most else ''
    raise TaskFileError(
      f'family {family!r} has {len(pools[family])} different prompts in the {split} '
      f'split, and {_SECTIONS[split]} = {count} needs {quota} of it; '
      f'{lower}give the family about {_enough(quota, split)} prompts in all (it has '
      f'{sizes[family]})'
    )


def jsonl(items: Sequence[Item]) -> str:
  """Writes items as canonical lines.

  Args:
    items: tasks; of an item without solution the line has no such field.

  Returns:
    JSON objects with sorted keys, each with a newline behind it.
  """
  lines = []
  for item in items:
    fields = {'prompt': item.question, 'answer': item.answer, 'family': item.family}
    if item.reasoning:
      fields['solution'] = item.reasoning.removesuffix('\n')
    lines.append(json.dumps(fields, sort_keys=True) + '\n')
  return ''.join(lines)


def normalised(prompt: str) -> str:
  """Returns a prompt without differences that nobody sees: of unicode form and white space."""
  return ' '.join(unicodedata.normalize('NFC', prompt).split())


class _Located(NamedTuple):
  """An item and its file:line."""

  item: Item
  location: str


def read(path: pathlib.Path, *, verifier: str = 'strict') -> OwnTasks:
  """Reads a JSONL file, or all *.jsonl of a folder in the order of their names.

  Args:
    path: the file or folder. A line that repeats another in every field is left out.
    verifier: a row of `verify.VERIFIERS`, which has to accept every answer for its own key.

  Returns:
    The tasks, of which every family has some in the train split.

  Raises:
    TaskFileError: no such file, an empty one, or a line that is not a task, by file and line.
    UnknownVerifierError: see `verify.named`.
  """
  locations: dict[Item, str] = {}
  by_prompt: dict[str, _Located] = {}
  for file in _files(path):
    for number, line in enumerate(_lines(file), start=1):
      if not line.strip():
        continue
      location = f'{file}:{number}'
      item = parse_line(line, location, verify.named(verifier))
      first = by_prompt.setdefault(normalised(item.question), _Located(item, location))
      _check_agreement(item, location, first)
      locations.setdefault(item, location)
  if not locations:
    raise TaskFileError(
      f'{path} holds no task; write one JSON object a line with {", ".join(NEEDED)}'
    )
  tasks = OwnTasks(tuple(locations), tuple(locations.values()))
  untrained = untrained_families(tasks.items)
  if untrained:
    raise TaskFileError(
      f'{path}: no line of family {", ".join(map(repr, untrained))} falls into the train split '
      '(60% of prompts do); give each more lines, or write its lines into another family'
    )
  return tasks


def untrained_families(items: Sequence[Item]) -> list[str]:
  """Lists the families of which no item falls into the train split, by name."""
  trained = {item.family for item in items if split_of(item.key) == 'train'}
  return sorted({item.family for item in items} - trained)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise TaskFileError(f'there is no {path}; give tasks.path a JSONL file or a folder of them')
  files = sorted(path.glob('*.jsonl'))
  if not files:
    raise TaskFileError(
      f'{path} holds no *.jsonl; give tasks.path a JSONL file or a folder with some, or make one: '
      + CONVERT.format(path)
    )
  return files


def _check_agreement(item: Item, location: str, first: _Located) -> None:
  """Raises TaskFileError where an item contradicts the first one with the same prompt."""
  for field in ('answer', 'family'):
    value = getattr(item, field)
    first_value = getattr(first.item, field)
    if first_value != value:
      raise TaskFileError(
        f'{location}: the {field} {value!r} contradicts {first.location}, which '
        f'has {first_value!r} for the same prompt; keep one of them'
      )


def read_train(path: pathlib.Path) -> tuple[Item, ...]:
  """Reads a train.jsonl that `jsonl` wrote; its answers are not checked again."""
  items = []
  for number, line in enumerate(_lines(path), start=1):
    if line:
      items.append(parse_line(line, f'{path}:{number}', lambda *_: True))
  return tuple(items)


def item_at(items: Sequence[Item], seed: int, index: int) -> Item:
  """Selects an item of the training stream.

  Args:
    items: the train split.
    seed: the trial's, which decides the order of every epoch.
    index: position in the stream, >= 0.

  Returns:
    Item `index`. Every item occurs once an epoch, and each epoch has another order.
  """
  epoch, position = divmod(index, len(items))
  return items[_order(seed, epoch, len(items))[position]]


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> list[int]:
  return generator(seed, 'epoch', epoch).sample(range(count), count)


def _prompts(items: Sequence[Item]) -> dict[str, int]:
  """Returns family -> number of its different prompts, by name."""
  counts = Counter([family for _, family in {(item.key, item.family) for item in items}])
  return dict(sorted(counts.items()))


def _quotas(count: int, sizes: dict[str, int]) -> dict[str, int]:
  """Divides `count` in proportion to `sizes`, at least 1 each; the largest remainders round up."""
  total = sum(sizes.values())
  exact = {family: count * size / total for family, size in sizes.items()}
  quotas = {family: max(1, int(share)) for family, share in exact.items()}
  for family in sorted(exact, key=lambda f: (int(exact[f]) - exact[f], f)):
    if sum(quotas.values()) < count:
      quotas[family] += 1
  while sum(quotas.values()) > max(count, len(sizes)):  # many small families were rounded up to 1
    quotas[max(quotas, key=quotas.get)] -= 1
  return quotas


def _enough(quota: int, split: str) -> int:
  """Returns how many prompts a family needs for `quota` of them to fall into a split.

  That many do even three standard deviations below what is expected.
  """
  return math.ceil(((3 + math.sqrt(9 + 4 * quota)) / 2) ** 2 / _SHARES[split])


def _lines(file: pathlib.Path) -> list[str]:
  content = file.read_bytes()
  foreign = file_kinds.not_text(file, content, file_kinds.JSON)
  if foreign is not None:
    raise TaskFileError(foreign)
  try:
    text = content.decode()
  except UnicodeDecodeError as error:
    raise TaskFileError(
      f'{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8, or make '
      f'tasks of it: {CONVERT.format(file)}'
    ) from None
  if '\0' in text:
    raise TaskFileError(f'{file} holds NUL bytes, as UTF-16 does; save it as UTF-8')
  # Windows editors write a byte order mark, and files that are joined keep theirs.
  lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
  return [line.removeprefix('\ufeff') for line in lines]


def _fields(line: str, location: str) -> dict[str, str]:
  """Parses a line into its fields, all of them known, and all that are needed among them."""
  try:
    fields = strict_json.loads(line)
  except strict_json.DuplicateKeyError as error:
    raise TaskFileError(f'{location}: {error}; keep one of the two') from None
  except (ValueError, RecursionError) as error:
    hint = ''
    if line.lstrip().startswith('['):
      hint = f'; of an array tasks are made by: {_convert(location)}'
    raise TaskFileError(
      f'{location}: not JSON ({error}); write one object a line, with double quotes{hint}'
    ) from None
  if not isinstance(fields, dict):
    hint = f'; of an array tasks are made by: {_convert(location)}'
    raise TaskFileError(
      f'{location}: expected an object with {", ".join(NEEDED)}, got {type(fields).__name__}'
      + (hint if isinstance(fields, list) else '')
    )
  unknown = [name for name in fields if name not in NEEDED + OPTIONAL]
  missing = [name for name in NEEDED if name not in fields]
  shape = shapes.detect(fields)
  if shape and ((missing and unknown) or not isinstance(fields.get('prompt', ''), str)):
    raise TaskFileError(
      f'{location}: a record of the shape {shape!r} is no task, which has {", ".join(NEEDED)}; '
      f'make tasks of the file: {_convert(location)}'
    )
  if unknown:
    raise TaskFileError(
      f'{location}: no field {unknown[0]!r} is known{suggestion(unknown[0], NEEDED + OPTIONAL)}; a '
      f'task has {", ".join(NEEDED)} and perhaps {", ".join(OPTIONAL)}'
    )
  if missing:
    raise TaskFileError(f'{location}: there is no {missing[0]!r}; a task needs {", ".join(NEEDED)}')
  for name, value in fields.items():
    _check_text(name, value, location)
  return fields


def _convert(location: str) -> str:
  """The command that makes tasks of a file, of file:line."""
  return CONVERT.format(location.rpartition(':')[0])


def _check_text(name: str, value: object, location: str) -> None:
  if not isinstance(value, str):
    raise TaskFileError(
      f'{location}: {name} must be a string, got {json.dumps(value)[:40]}; put it in double quotes'
    )
  if name != 'solution' and not value.strip():
    raise TaskFileError(f'{location}: {name} is empty; write one, or leave the line out')
  if '\0' in value:
    raise TaskFileError(f'{location}: {name} holds a NUL, which is no text; leave it out')
  if any('\ud800' <= character <= '\udfff' for character in value):
    raise TaskFileError(
      f'{location}: {name} holds half of a surrogate pair, which is no character; mend its escape'
    )


def _check_family(family: str, location: str) -> None:
  if not _FAMILY.fullmatch(family):
    raise TaskFileError(f'{location}: family {family!r} may hold only letters, digits, _ and -')
  if family in RESERVED:
    raise TaskFileError(
      f'{location}: family {family!r} has another meaning in scores; give yours another name'
    )
  if family in FAMILIES and FAMILIES[family].same_answer is not answers.same_text:
    raise TaskFileError(
      f'{location}: family {family!r} is a puzzle family whose answers the verifiers compare '
      'by a tolerance of its own; give yours another name'
    )


def parse_line(line: str, location: str, verifier: verify.Verifier) -> Item:
  """Turns a line into an item.

  Args:
    line: one JSON object.
    location: file:line.
    verifier: has to accept the answer for its own key.

  Returns:
    The item.

  Raises:
    TaskFileError: it is no task; the message begins with its place.
  """
  fields = _fields(line, location)
  prompt = fields['prompt']
  answer = fields['answer'].strip()
  family = fields['family']
  _check_family(family, location)
  if verify.extract_boxed(f'\\boxed{{{answer}}}') != answer:
    raise TaskFileError(
      f'{location}: the answer {answer!r} cannot be read back from \\boxed{{}}; balance its braces'
    )
  if not verifier(family, answer, answer):
    plain = verify.in_ascii(answer)
    near = f' (write {plain!r})' if verifier(family, plain, plain) else ''
    raise TaskFileError(
      f'{location}: the verifier that the constitution names does not take {answer!r} for '
      f'its own key; mend the answer{near}, or choose another objective.verifier'
    )
  solution = fields.get('solution', '').strip()
  reasoning = f'{solution}\n' if solution else ''
  return Item(
    family=family,
    kind=KIND,
    rule='',
    key=f'own|{normalised(prompt).casefold()}',
    question=prompt,
    answer=answer,
    reasoning=reasoning,
    plain='',
    steps=reasoning,
  )
