"""Reproducible streams of items: item i is a pure function of (seed, split, i, mixture).

A `Mixture` says how often each family and, within it, the rarer rule kind occurs. `item_at` has
random access, so Grain can shard, shuffle and resume it; `sample_set` collects a fixed evaluation
set without repeats.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, checked, other_than
from aevo_jax.tasks.families.registry import FAMILIES
from aevo_jax.tasks.item import (
  OF_PUZZLES,
  SIZES,
  SOLUTION_STYLES,
  SUPERVISED,
  Difficulty,
  Family,
  Item,
  Sampled,
  render,
  show_answer,
)
from aevo_jax.tasks.seeding import generator
from aevo_jax.tasks.splits import PRIVATE_SPLITS, PUBLIC_SPLITS, belongs

MAX_SAMPLES = 10_000

Share = Annotated[float, Interval(ge=0, le=1)]
Style = Annotated[str, OneOf(SOLUTION_STYLES)]


def _of_drawn(kind: Any, family: str) -> Any:
  """Returns the annotation of a field that is read where its family is drawn at all."""
  return Annotated[kind, ReadWhen(other_than(f'family_weight.{family}', 0.0))]


def _always(kind: Any, family: str) -> Any:
  """Returns the annotation of a field that is read whatever its family's weight."""
  del family
  return kind


def _per_family[Table](
  kind: Any,
  default: Callable[[Family], Any],
  annotation: Callable[[Any, str], Any] = _of_drawn,
) -> Callable[[type[Table]], type[Table]]:
  """Decorator: a frozen dataclass with a field for each family, in the order of the registry."""

  def declare(cls: type[Table]) -> type[Table]:
    cls.__annotations__ = {name: annotation(kind, name) for name in FAMILIES}
    for family in FAMILIES.values():
      setattr(cls, family.name, default(family))
    return dataclasses.dataclass(frozen=True)(cls)

  return declare


@configurable('family_weight', *OF_PUZZLES)
@_per_family(float, lambda family: family.weight, _always)
class FamilyWeights:
  """Relative frequency of each family; >= 0, at least one positive."""


@configurable('rare_share', *OF_PUZZLES)
@_per_family(Share, lambda family: family.rare_share)
class RareKindShare:
  """Share, in [0, 1], of a family's second rule kind (see each family's `kinds`)."""


@configurable('answer_shown', *OF_PUZZLES)
@_per_family(Share, lambda family: 0.0)
class AnswerShown:
  """Share, in [0, 1], of a family's items whose question still has its answer in it.

  Such an answer is copied instead of worked out: a flaw that item generators have. These items have
  no worked solution.
  """


@configurable('answer_withheld', *OF_PUZZLES)
@_per_family(Share, lambda family: 1.0)
class AnswerWithheld:
  """The same flaw from the other side: the share of a family's items that keep their answer back.

  An item shows its answer with share 1 - (1 - answer_shown) * answer_withheld.
  """


@configurable('solution_style', *OF_PUZZLES, ReadWhen(SUPERVISED))
@_per_family(Style, lambda family: 'worked')
class SolutionStyle:
  """What a family's training items show before the boxed answer; see `Item.solution`."""


@checked('mixture')
@dataclasses.dataclass(frozen=True)
class Mixture:
  """What a stream is made of.

  Attributes:
    size: 'micro' or 'standard'.
    weights: how often each family occurs.
    rare_share: how often the rarer kind occurs within its family.
    difficulty: of every puzzle.
    shown: share of items that show their answer.
    withheld: share of items that do not, see `AnswerWithheld`.
  """

  size: Annotated[str, OneOf(SIZES)] = 'micro'
  weights: FamilyWeights = dataclasses.field(default_factory=FamilyWeights)
  rare_share: RareKindShare = dataclasses.field(default_factory=RareKindShare)
  difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)
  shown: AnswerShown = dataclasses.field(default_factory=AnswerShown)
  withheld: AnswerWithheld = dataclasses.field(default_factory=AnswerWithheld)

  def __post_init__(self):
    weights = dataclasses.asdict(self.weights)
    if not all(0 <= w < math.inf for w in weights.values()) or sum(weights.values()) <= 0:
      raise ValueError(f'family weights must be finite and >= 0 with a positive sum, got {weights}')

  def shows_answer(self, family: str) -> float:
    """Returns the share of a family's items that show their answer, in [0, 1]."""
    return 1 - (1 - getattr(self.shown, family)) * getattr(self.withheld, family)


def _check_split(split: str, seed: int | bytes, secret: bytes | None) -> None:
  if split not in PUBLIC_SPLITS + PRIVATE_SPLITS:
    raise ValueError(f'split must be one of {PUBLIC_SPLITS + PRIVATE_SPLITS}, got {split!r}')
  if split in PRIVATE_SPLITS and (secret is None or not isinstance(seed, bytes)):
    raise ValueError(
      f"split {split!r} is the arbiter's: pass secret=... and a seed of secret bytes, or "
      f'draw from one of {PUBLIC_SPLITS}'
    )
  if split == 'private' and secret is not None:
    raise ValueError(
      f'with a secret the private region is divided: draw from one of {PRIVATE_SPLITS}'
    )


def item_at(
  seed: int | bytes, split: str, index: int, mixture: Mixture, secret: bytes | None = None
) -> Item:
  """Samples an item as text; the arguments and errors are those of `puzzle_at`.

  Args:
    seed: as in `puzzle_at`.
    split: as in `puzzle_at`.
    index: as in `puzzle_at`.
    mixture: also decides which items have their answer in the question.
    secret: as in `puzzle_at`.

  Returns:
    Item `index` of the stream (seed, split).
  """
  return _text(seed, split, index, puzzle_at(seed, split, index, mixture, secret), mixture)


def _text(seed: int | bytes, split: str, index: int, sampled: Sampled, mixture: Mixture) -> Item:
  item = render(*sampled, mixture.size)
  share = mixture.shows_answer(item.family)
  if share and generator(seed, split, 'shown', index).random() < share:
    return show_answer(item)
  return item


def puzzle_at(
  seed: int | bytes, split: str, index: int, mixture: Mixture, secret: bytes | None = None
) -> Sampled:
  """Samples the puzzle of one item.

  Args:
    seed: an integer, or for 'external', 'final' and 'fresh' secret bytes: an integer could be
      guessed, and with it half of the items.
    split: 'train', 'dev', 'private', 'probe', or with `secret` 'train', 'dev', 'external', 'final'
      or 'fresh'.
    index: position in the stream, >= 0.
    mixture: what to sample.
    secret: the arbiter's secret, needed for 'external', 'final' and 'fresh' only.

  Returns:
    Family, kind and puzzle of item `index` of the stream (seed, split).

  Raises:
    ValueError: unknown split, a secret or a seed of bytes missing where the split needs it, or no
      item of the split was found in 10,000 draws (a mixture whose kinds have no rule in this
      split).
  """
  _check_split(split, seed, secret)
  rng = generator(seed, split, index)
  weights = dataclasses.asdict(mixture.weights)
  name = rng.choices(list(weights), list(weights.values()))[0]
  family = FAMILIES[name]
  kind = family.kinds[rng.random() < getattr(mixture.rare_share, name)]
  for _ in range(MAX_SAMPLES):
    puzzle = family.sample(rng, kind, mixture.size, mixture.difficulty)
    if puzzle is not None and belongs(f'{name}|{puzzle.key}', split, secret):
      return Sampled(family, kind, puzzle)
  raise ValueError(
    f'no {mixture.size} {name} item of kind {kind!r} for split {split!r} in {MAX_SAMPLES} draws; '
    'raise difficulty.magnitude, lower difficulty.extra_examples or change the rule-kind share'
  )


def stream(
  seed: int | bytes, split: str, mixture: Mixture, secret: bytes | None = None
) -> Iterator[Item]:
  """Yields all items of a stream, in order, without end; raises as `puzzle_at`."""
  for index in itertools.count():
    yield item_at(seed, split, index, mixture, secret)


def sample_set(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None = None
) -> list[Item]:
  """Samples items whose questions differ.

  Args:
    seed: as in `puzzle_at`.
    split: as in `puzzle_at`.
    count: how many items, >= 1.
    mixture: what to sample.
    secret: as in `puzzle_at`.

  Returns:
    The first `count` items of the stream with a question that no item before them has.

  Raises:
    ValueError: count < 1, or the split holds too few different items for `count`.
  """
  items = []
  for position, sampled in _distinct(seed, split, count, mixture, secret):
    items.append(_text(seed, split, position, sampled, mixture))
  return items


def sample_puzzles(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None = None
) -> list[Sampled]:
  """Samples the puzzles behind `sample_set`, for a caller that shows them in another way.

  Args:
    seed: as in `puzzle_at`.
    split: as in `puzzle_at`.
    count: how many puzzles, >= 1.
    mixture: what to sample.
    secret: as in `puzzle_at`.

  Returns:
    One puzzle for each item of `sample_set`, which has the same arguments and errors.
  """
  return [sampled for _, sampled in _distinct(seed, split, count, mixture, secret)]


class _Position(NamedTuple):
  """Where in its stream a puzzle occurs first."""

  index: int
  sampled: Sampled


def _distinct(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None
) -> list[_Position]:
  """Returns the first `count` puzzles of a stream whose questions differ."""
  if count < 1:
    raise ValueError(f'a set needs at least one item, got count = {count}')
  by_question: dict[str, _Position] = {}
  for index in itertools.count():
    sampled = puzzle_at(seed, split, index, mixture, secret)
    question = render(*sampled, mixture.size).question
    by_question.setdefault(question, _Position(index, sampled))
    if len(by_question) == count or index > 50 * count:
      break
  if len(by_question) < count:
    raise ValueError(
      f'split {split!r} gave only {len(by_question)} different items in {index} draws; ask '
      f'for fewer than {count}'
    )
  return list(by_question.values())
