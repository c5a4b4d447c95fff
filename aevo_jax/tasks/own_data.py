r"""Tasks of your own: JSONL lines, checked, split by prompt, and drawn into sets and a training
stream like the puzzles.

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
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from aevo_jax.config.nearest import suggestion
from aevo_jax.tasks import verify
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.splits import DEV_END, TRAIN_END, split_of

KIND = 'given'  # there are no kinds within a family of one's own
NEEDED, OPTIONAL = ('prompt', 'answer', 'family'), ('solution',)
_FAMILY = re.compile(r'[A-Za-z0-9_-]+')
RESERVED = ('overall',)  # what the scores of all families together are called
_SHARES = {'dev': DEV_END - TRAIN_END, 'external': (1 - DEV_END) / 2, 'final': (1 - DEV_END) / 2}
_SECTIONS = {split: f'{split}_set.items' for split in _SHARES}


class TaskFileError(ValueError):
  """The tasks cannot be used; the message names file, line and fix."""


@dataclasses.dataclass(frozen=True)
class OwnTasks:
  """items: one per different line, in order. places: file:line of each."""

  items: tuple[Item, ...]
  places: tuple[str, ...]

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of `text()`."""
    return hashlib.sha256(self.text().encode()).hexdigest()

  def text(self) -> str:
    """Every item as one canonical line; reading it back gives the same items."""
    return jsonl(self.items)

  def of_split(self, split: str, secret: bytes | None = None) -> tuple[Item, ...]:
    """The items of a split, in order; `secret` divides the private region into 'external' and
    'final'.
    """
    return tuple(item for item in self.items if split_of(item.key, secret) == split)

  def draw(
    self, split: str, count: int, seed: int | bytes, secret: bytes | None = None
  ) -> list[Item]:
    """`count` different prompts of 'dev', 'external' or 'final', each family in proportion to its
    prompts in all the data.

    Raises:
      TaskFileError: a family has too few.
    """
    pools: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in self.of_split(split, secret):
      pools[item.family].setdefault(item.key, item)
    sizes = _prompts(self.items)
    if count < len(sizes):
      raise TaskFileError(
        f'{_SECTIONS[split]} = {count} leaves some of the {len(sizes)} families out; '
        f'raise it to {len(sizes)} or more'
      )
    needed = _quotas(count, sizes)
    for family, wanted in needed.items():
      if len(pools[family]) < wanted:
        most = max(
          (
            n
            for n in range(len(sizes), count)
            if all(len(pools[f]) >= k for f, k in _quotas(n, sizes).items())
          ),
          default=0,
        )
        lower = f'lower {_SECTIONS[split]} to {most}, or ' if most else ''
        raise TaskFileError(
          f'family {family!r} has {len(pools[family])} different prompts in the {split} '
          f'split, and {_SECTIONS[split]} = {count} needs {wanted} of it; '
          f'{lower}give the family about {_enough(wanted, split)} prompts in all (it has '
          f'{sizes[family]})'
        )
    material = seed.hex() if isinstance(seed, bytes) else str(seed)
    chosen = []
    for family, wanted in needed.items():
      rng = random.Random(
        int.from_bytes(hashlib.sha256(f'{material}|{split}|{family}'.encode()).digest()[:16], 'big')
      )
      chosen += rng.sample(sorted(pools[family].values(), key=lambda item: item.key), wanted)
    return chosen


def jsonl(items: Sequence[Item]) -> str:
  """Items as canonical lines."""
  lines = [
    {'prompt': i.question, 'answer': i.answer, 'family': i.family}
    | ({'solution': i.reasoning.removesuffix('\n')} if i.reasoning else {})
    for i in items
  ]
  return ''.join(json.dumps(line, sort_keys=True) + '\n' for line in lines)


def normalised(prompt: str) -> str:
  """A prompt without differences that nobody sees: of unicode form and white space."""
  return ' '.join(unicodedata.normalize('NFC', prompt).split())


def read(path: pathlib.Path, *, verifier: str = 'strict') -> OwnTasks:
  """Reads a JSONL file, or all *.jsonl of a folder in the order of their names. A line that repeats
  another in every field is left out.

  Raises:
    TaskFileError: no such file, an empty one, or a line that is not a task, by file and line.
      UnknownVerifierError: see `verify.named`.
  """
  if path.is_dir():
    files = sorted(path.glob('*.jsonl'))
    if not files:
      raise TaskFileError(
        f'{path} holds no *.jsonl; give tasks.path a JSONL file or a folder with some'
      )
  elif path.is_file():
    files = [path]
  else:
    raise TaskFileError(f'there is no {path}; give tasks.path a JSONL file or a folder of them')
  found: dict[Item, str] = {}
  asked: dict[str, tuple[Item, str]] = {}
  for file in files:
    for number, line in enumerate(_lines(file), start=1):
      if not line.strip():
        continue
      place = f'{file}:{number}'
      item = _item(line, place, verify.named(verifier))
      first, where = asked.setdefault(normalised(item.question), (item, place))
      for field in ('answer', 'family'):
        if getattr(first, field) != getattr(item, field):
          raise TaskFileError(
            f'{place}: the {field} {getattr(item, field)!r} contradicts {where}, which '
            f'has {getattr(first, field)!r} for the same prompt; keep one of them'
          )
      found.setdefault(item, place)
  if not found:
    raise TaskFileError(
      f'{path} holds no task; write one JSON object a line with {", ".join(NEEDED)}'
    )
  tasks = OwnTasks(tuple(found), tuple(found.values()))
  missing = sorted(_prompts(tasks.items).keys() - _prompts(tasks.of_split('train')).keys())
  if missing:
    raise TaskFileError(
      f'{path}: no line of family {missing[0]!r} falls into the train split (60% of '
      'prompts do); give the family more lines'
    )
  return tasks


def read_train(path: pathlib.Path) -> tuple[Item, ...]:
  """The items of a train.jsonl that `jsonl` wrote."""
  return tuple(
    _item(line, f'{path}:{number}', lambda *_: True)
    for number, line in enumerate(_lines(path), start=1)
    if line
  )


def item_at(items: Sequence[Item], seed: int, index: int) -> Item:
  """Item `index` of the training stream: every item once an epoch, in an order of the epoch's own."""
  epoch, position = divmod(index, len(items))
  return items[_order(seed, epoch, len(items))[position]]


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> list[int]:
  material = hashlib.sha256(f'{seed}|epoch|{epoch}'.encode()).digest()[:16]
  return random.Random(int.from_bytes(material, 'big')).sample(range(count), count)


def _prompts(items: Sequence[Item]) -> dict[str, int]:
  """Family -> number of its different prompts, by name."""
  return dict(
    sorted(Counter(family for _, family in {(item.key, item.family) for item in items}).items())
  )


def _quotas(count: int, sizes: dict[str, int]) -> dict[str, int]:
  """Parts of `count` in proportion to `sizes`, at least 1 each: the largest remainders are rounded
  up.
  """
  total = sum(sizes.values())
  exact = {family: count * size / total for family, size in sizes.items()}
  quotas = {family: max(1, int(share)) for family, share in exact.items()}
  for family in sorted(exact, key=lambda f: (int(exact[f]) - exact[f], f)):
    if sum(quotas.values()) < count:
      quotas[family] += 1
  while sum(quotas.values()) > max(count, len(sizes)):  # many small families were rounded up to 1
    quotas[max(quotas, key=quotas.get)] -= 1
  return quotas


def _enough(wanted: int, split: str) -> int:
  """Prompts of which a split's share is `wanted` even three standard deviations below what is
  expected.
  """
  return math.ceil(((3 + math.sqrt(9 + 4 * wanted)) / 2) ** 2 / _SHARES[split])


def _lines(file: pathlib.Path) -> list[str]:
  try:
    return file.read_text(encoding='utf-8').split('\n')
  except UnicodeDecodeError as error:
    raise TaskFileError(
      f'{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8'
    ) from None


def _item(line: str, place: str, right) -> Item:
  try:
    fields = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise TaskFileError(
      f'{place}: not JSON ({error}); write one object a line, with double quotes'
    ) from None
  if not isinstance(fields, dict):
    raise TaskFileError(
      f'{place}: expected an object with {", ".join(NEEDED)}, got {type(fields).__name__}'
    )
  for name in fields:
    if name not in NEEDED + OPTIONAL:
      raise TaskFileError(
        f'{place}: no field {name!r} is known{suggestion(name, NEEDED + OPTIONAL)}; a '
        f'task has {", ".join(NEEDED)} and perhaps {", ".join(OPTIONAL)}'
      )
  for name in NEEDED:
    if name not in fields:
      raise TaskFileError(f'{place}: there is no {name!r}; a task needs {", ".join(NEEDED)}')
  for name, value in fields.items():
    if not isinstance(value, str):
      raise TaskFileError(
        f'{place}: {name} must be a string, got {json.dumps(value)[:40]}; put it in double quotes'
      )
    if name != 'solution' and not value.strip():
      raise TaskFileError(f'{place}: {name} is empty; write one, or leave the line out')
    if any('\ud800' <= c <= '\udfff' for c in value):
      raise TaskFileError(
        f'{place}: {name} holds half of a surrogate pair, which is no character; mend its escape'
      )
  prompt, answer, family = fields['prompt'], fields['answer'].strip(), fields['family']
  if not _FAMILY.fullmatch(family):
    raise TaskFileError(f'{place}: family {family!r} may hold only letters, digits, _ and -')
  if family in RESERVED:
    raise TaskFileError(
      f'{place}: family {family!r} has another meaning in scores; give yours another name'
    )
  if family in verify.TOLERANT_FAMILIES:
    raise TaskFileError(
      f'{place}: family {family!r} is a puzzle family whose answers the verifiers compare '
      'by a tolerance of its own; give yours another name'
    )
  if verify.extract_boxed(f'\\boxed{{{answer}}}') != answer:
    raise TaskFileError(
      f'{place}: the answer {answer!r} cannot be read back from \\boxed{{}}; balance its braces'
    )
  if not right(family, answer, answer):
    raise TaskFileError(
      f'{place}: the verifier that the constitution names does not take {answer!r} for '
      'its own key; mend the answer, or choose another objective.verifier'
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
