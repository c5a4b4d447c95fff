"""Reproducible streams of items: item i of a stream is a pure function of (seed, split, i,
mixture).

A `Mixture` says how often each family and, within it, the rarer rule kind occurs. `item_at` has
random access, so Grain can shard, shuffle and resume it; `draw_set` collects a fixed evaluation set
without repeats.
"""

import dataclasses
import hashlib
import itertools
import math
import random
from collections.abc import Iterator

from aevo_jax.config.configurables import configurable
from aevo_jax.tasks.families.bit_manipulation import BitManipulation
from aevo_jax.tasks.families.equation_transformation import EquationTransformation
from aevo_jax.tasks.families.gravitational_constant import GravitationalConstant
from aevo_jax.tasks.families.numeral_conversion import NumeralConversion
from aevo_jax.tasks.families.text_encryption import TextEncryption
from aevo_jax.tasks.families.unit_conversion import UnitConversion
from aevo_jax.tasks.item import (
  SIZES,
  SOLUTION_STYLES,
  Difficulty,
  Family,
  Item,
  Puzzle,
  render,
  show_answer,
)
from aevo_jax.tasks.splits import PRIVATE_SPLITS, PUBLIC_SPLITS, belongs

FAMILIES = {
  f.name: f
  for f in (
    BitManipulation(),
    TextEncryption(),
    NumeralConversion(),
    UnitConversion(),
    GravitationalConstant(),
    EquationTransformation(),
  )
}


@configurable('family_weight')
@dataclasses.dataclass(frozen=True)
class FamilyWeights:
  """Relative frequency of each family; >= 0, at least one positive."""

  bit_manipulation: float = 1.0
  text_encryption: float = 1.0
  numeral_conversion: float = 1.0
  unit_conversion: float = 1.0
  gravitational_constant: float = 1.0
  equation_transformation: float = 1.0


@configurable('rare_share')
@dataclasses.dataclass(frozen=True)
class RareKindShare:
  """Share, in [0, 1], of a family's second rule kind (see each family's `kinds`)."""

  bit_manipulation: float = 0.3
  text_encryption: float = 0.5
  numeral_conversion: float = 0.5
  unit_conversion: float = 0.5
  gravitational_constant: float = 0.5
  equation_transformation: float = 0.5


@configurable('answer_shown')
@dataclasses.dataclass(frozen=True)
class AnswerShown:
  """Share, in [0, 1], of a family's items whose question still has its answer in it, to be copied
  instead of worked out: a flaw that item generators have. Such items have no worked solution."""

  bit_manipulation: float = 0.0
  text_encryption: float = 0.0
  numeral_conversion: float = 0.0
  unit_conversion: float = 0.0
  gravitational_constant: float = 0.0
  equation_transformation: float = 0.0


@configurable('answer_withheld')
@dataclasses.dataclass(frozen=True)
class AnswerWithheld:
  """The same flaw read from the other side: the share of a family's items that keep their answer
  back. An item shows its answer with share 1 - (1 - answer_shown) * answer_withheld."""

  bit_manipulation: float = 1.0
  text_encryption: float = 1.0
  numeral_conversion: float = 1.0
  unit_conversion: float = 1.0
  gravitational_constant: float = 1.0
  equation_transformation: float = 1.0


@configurable('solution_style')
@dataclasses.dataclass(frozen=True)
class SolutionStyle:
  """What a family's training items show before the boxed answer; see `Item.solution`."""

  bit_manipulation: str = 'worked'
  text_encryption: str = 'worked'
  numeral_conversion: str = 'worked'
  unit_conversion: str = 'worked'
  gravitational_constant: str = 'worked'
  equation_transformation: str = 'worked'

  def __post_init__(self):
    for name, style in dataclasses.asdict(self).items():
      if style not in SOLUTION_STYLES:
        raise ValueError(f'solution_style.{name} must be one of {SOLUTION_STYLES}, got {style!r}')


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What a stream is made of."""

  size: str = 'micro'
  weights: FamilyWeights = FamilyWeights()
  rare_share: RareKindShare = RareKindShare()
  difficulty: Difficulty = Difficulty()
  shown: AnswerShown = AnswerShown()
  withheld: AnswerWithheld = AnswerWithheld()

  def shows_answer(self, family: str) -> float:
    """Share of a family's items that show their answer."""
    return 1 - (1 - getattr(self.shown, family)) * getattr(self.withheld, family)

  def __post_init__(self):
    if self.size not in SIZES:
      raise ValueError(f'size must be one of {SIZES}, got {self.size!r}')
    weights = dataclasses.asdict(self.weights)
    if not all(0 <= w < math.inf for w in weights.values()) or sum(weights.values()) <= 0:
      raise ValueError(f'family weights must be finite and >= 0 with a positive sum, got {weights}')
    for name, share in dataclasses.asdict(self.rare_share).items():
      if not 0 <= share <= 1:
        raise ValueError(f'rare kind share of {name} must lie in [0, 1], got {share}')
    for field in ('shown', 'withheld'):
      for name, share in dataclasses.asdict(getattr(self, field)).items():
        if not 0 <= share <= 1:
          raise ValueError(f'answer_{field}.{name} must lie in [0, 1], got {share}')


MAX_DRAWS = 10_000


def _rng(seed: int | bytes, split: str, index: int) -> random.Random:
  material = seed.hex() if isinstance(seed, bytes) else str(seed)
  return random.Random(
    int.from_bytes(hashlib.sha256(f'{material}|{split}|{index}'.encode()).digest()[:16], 'big')
  )


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
  """Item `index` of the stream (seed, split): `puzzle_at` as text, with its answer in it if it is
  one of those that show it.
  """
  return _item(seed, split, index, puzzle_at(seed, split, index, mixture, secret), mixture)


def _item(
  seed: int | bytes, split: str, index: int, puzzle: tuple[Family, str, Puzzle], mixture: Mixture
) -> Item:
  """A stream's puzzle as text."""
  item, shows = render(*puzzle, mixture.size), mixture.shows_answer(puzzle[0].name)
  return (
    show_answer(item) if shows and _rng(seed, f'{split}|shown', index).random() < shows else item
  )


def puzzle_at(
  seed: int | bytes, split: str, index: int, mixture: Mixture, secret: bytes | None = None
) -> tuple[Family, str, Puzzle]:
  """Family, kind and puzzle of item `index` of the stream (seed, split).

  Args:
    seed: an integer, or for 'external', 'final' and 'fresh' secret bytes: an integer could be
      guessed, and with it half of the items.
    split: 'train', 'dev', 'private', 'probe', or with `secret` 'train', 'dev', 'external', 'final'
      or 'fresh'.
    index: position in the stream, >= 0.
    mixture: what to draw.
    secret: the arbiter's secret, needed for 'external', 'final' and 'fresh' only.

  Raises:
    ValueError: unknown split, a secret or a seed of bytes missing where the split needs it, or no
      item of the split was found in 10,000 draws (a mixture whose kinds have no rule in this
      split).
  """
  _check_split(split, seed, secret)
  rng = _rng(seed, split, index)
  weights = dataclasses.asdict(mixture.weights)
  name = rng.choices(list(weights), list(weights.values()))[0]
  family = FAMILIES[name]
  kind = family.kinds[rng.random() < getattr(mixture.rare_share, name)]
  for _ in range(MAX_DRAWS):
    puzzle = family.draw(rng, kind, mixture.size, mixture.difficulty)
    if puzzle is not None and belongs(f'{name}|{puzzle.key}', split, secret):
      return family, kind, puzzle
  raise ValueError(
    f'no {mixture.size} {name} item of kind {kind!r} for split {split!r} in {MAX_DRAWS} draws; '
    'raise difficulty.magnitude, lower difficulty.extra_examples or change the rule-kind share'
  )


def stream(
  seed: int | bytes, split: str, mixture: Mixture, secret: bytes | None = None
) -> Iterator[Item]:
  """All items of a stream, in order."""
  return (item_at(seed, split, i, mixture, secret) for i in itertools.count())


def draw_set(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None = None
) -> list[Item]:
  """The first `count` items of a stream whose questions differ.

  Raises:
    ValueError: count < 1, or the split holds too few different items for `count`.
  """
  return [
    _item(seed, split, index, puzzle, mixture)
    for index, puzzle in _distinct(seed, split, count, mixture, secret)
  ]


def draw_puzzles(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None = None
) -> list[tuple[Family, str, Puzzle]]:
  """The puzzles behind `draw_set`, for those who show them in another way; raises as it does."""
  return [puzzle for _, puzzle in _distinct(seed, split, count, mixture, secret)]


def _distinct(
  seed: int | bytes, split: str, count: int, mixture: Mixture, secret: bytes | None
) -> list[tuple[int, tuple[Family, str, Puzzle]]]:
  """The first `count` puzzles of a stream whose questions differ, with their places in it."""
  if count < 1:
    raise ValueError(f'a set needs at least one item, got count = {count}')
  found: dict[str, tuple[int, tuple[Family, str, Puzzle]]] = {}
  for index in itertools.count():
    puzzle = puzzle_at(seed, split, index, mixture, secret)
    found.setdefault(render(*puzzle, mixture.size).question, (index, puzzle))
    if len(found) == count:
      return list(found.values())
    if index > 50 * count:
      raise ValueError(
        f'split {split!r} gave only {len(found)} different items in {index} draws; ask '
        f'for fewer than {count}'
      )
  raise AssertionError('unreachable')
