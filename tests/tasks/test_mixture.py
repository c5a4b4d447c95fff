"""Streams are pure functions of (seed, split, index, mixture), and every knob of a mixture does
something.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys

import pytest
from family_contracts import CONTRACTS, DEFAULT_FAMILIES

from aevo_jax.tasks.item import SIZES, Difficulty
from aevo_jax.tasks.mixture import (
  FAMILIES,
  AnswerShown,
  AnswerWithheld,
  FamilyWeights,
  Mixture,
  RareKindShare,
  item_at,
  sample_set,
  stream,
)

DIGEST_PROGRAM = """
import dataclasses, hashlib, json
from aevo_jax.tasks.mixture import Mixture, item_at
def digest(seed, split, size):
  items = [dataclasses.astuple(item_at(seed, split, i, Mixture(size))) for i in range(50)]
  return hashlib.sha256(json.dumps(items).encode()).hexdigest()
"""
CASES = list(itertools.product(('train', 'dev'), SIZES))

# The first 50 items of seed 1, all fields. A base checkpoint and recorded scores rest on these
# streams: if a digest changes on purpose, the base has to be trained again and the substrate's
# manifest rebuilt.
GOLDEN = {
  ('train', 'micro'): '57ca6c747cdce51d163986a992d78d94b24faaae8c47cf185a688a76362443e4',
  ('train', 'standard'): '425078a223c0d10a45bc6880ccd22995a8407bc9d560fdc7272425cc3564bda3',
  ('dev', 'micro'): '550fbc749333736b63a0cdbfac051aca743059d969b488b763a458636737c6e5',
  ('dev', 'standard'): 'c9e71f3135171bf8d754fadca69e183381f5d7197732245d4a9b4e1ef586bd9d',
}


def digest(seed: int, split: str, size: str) -> str:
  items = [dataclasses.astuple(item_at(seed, split, i, Mixture(size))) for i in range(50)]
  return hashlib.sha256(json.dumps(items).encode()).hexdigest()


@pytest.mark.parametrize(('split', 'size'), CASES)
def test_golden_items(split, size):
  assert digest(1, split, size) == GOLDEN[split, size]


@pytest.mark.parametrize('hash_seed', ['1', '4711'])
def test_a_fresh_process_with_another_hash_seed_draws_the_same(hash_seed):
  program = DIGEST_PROGRAM + f'print(json.dumps([digest(1, *case) for case in {CASES!r}]))'
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=os.environ | {'PYTHONHASHSEED': hash_seed},
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(done.stdout) == [GOLDEN[case] for case in CASES]


def test_items_are_random_access():
  """Order and company of the draws do not matter: forwards, backwards, as a stream, alone."""
  mixture = Mixture()
  forwards = [item_at(3, 'train', i, mixture) for i in range(100)]
  assert [item_at(3, 'train', i, mixture) for i in reversed(range(100))] == forwards[::-1]
  assert list(itertools.islice(stream(3, 'train', mixture), 100)) == forwards


def test_seed_split_and_index_matter():
  draws = [
    item_at(s, split, i, Mixture())
    for s in (3, 4, b'\x03')
    for split in ('train', 'dev', 'private')
    for i in range(20)
  ]
  assert len({d.question for d in draws}) > 0.98 * len(draws)


def only(family: str, value: float = 1.0) -> FamilyWeights:
  return FamilyWeights(**{name: value * (name == family) for name in FAMILIES})


# Numerals of 1..9 in one notation: a few thousand different questions at most, so a stream repeats
# itself.
FEW = Mixture(
  weights=only('numeral_conversion'),
  rare_share=RareKindShare(numeral_conversion=0.0),
  difficulty=Difficulty(0.02),
)


def test_draw_set_is_the_stream_without_repeats():
  drawn = sample_set(2, 'train', 200, FEW)
  expected = {}
  for item in itertools.islice(stream(2, 'train', FEW), 1000):
    expected.setdefault(item.question, item)
  assert 200 < len(expected) < 1000
  assert drawn == list(expected.values())[:200]
  assert sample_set(2, 'train', 50, FEW) == drawn[:50]


@pytest.mark.parametrize('family', FAMILIES)
def test_weights_are_live(family):
  assert {
    item_at(1, 'train', i, Mixture(weights=only(family, 0.01))).family for i in range(50)
  } == {family}
  without = dataclasses.replace(FamilyWeights(), **{family: 0.0})
  assert {
    item_at(1, 'train', i, Mixture(weights=without)).family for i in range(200)
  } == DEFAULT_FAMILIES - {family}


def test_weights_are_relative_frequencies():
  weights = FamilyWeights(6, 5, 4, 3, 2, 0)
  counts = collections.Counter(
    item_at(1, 'train', i, Mixture(weights=weights)).family for i in range(4000)
  )
  for name, weight in dataclasses.asdict(weights).items():
    p = weight / 20
    assert abs(counts[name] - 4000 * p) <= 5 * (4000 * p * (1 - p)) ** 0.5


@pytest.mark.parametrize('family', FAMILIES)
def test_rare_share_is_a_share(family):
  mixture = Mixture(
    weights=only(family), rare_share=dataclasses.replace(RareKindShare(), **{family: 0.2})
  )
  rare = sum(item_at(1, 'train', i, mixture).kind == FAMILIES[family].kinds[1] for i in range(1000))
  assert abs(rare - 200) <= 5 * (1000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('size', SIZES)
def test_shown_answers_are_a_share_and_the_items_are_otherwise_the_same(family, size):
  plain = Mixture(size, only(family))
  found = {}
  for name, mixture in (
    ('none', plain),
    ('shown', dataclasses.replace(plain, shown=AnswerShown(**{family: 0.4}))),
    ('withheld', dataclasses.replace(plain, withheld=AnswerWithheld(**{family: 0.6}))),
    (
      'both',
      dataclasses.replace(
        plain, shown=AnswerShown(**{family: 0.5}), withheld=AnswerWithheld(**{family: 0.5})
      ),
    ),
  ):
    found[name] = [item_at(1, 'train', i, mixture) for i in range(400)]
  assert found['shown'] == found['withheld']  # the same share from either side
  for name, share in (('shown', 0.4), ('both', 0.75)):
    changed = [(a, b) for a, b in zip(found['none'], found[name], strict=True) if a != b]
    assert abs(len(changed) - 400 * share) <= 5 * (400 * share * (1 - share)) ** 0.5
    for a, b in changed:
      assert b.question.removesuffix('?' if size == 'micro' else '').endswith(b.answer) and (
        b.reasoning,
        b.steps,
      ) == ('', '')
      assert (a.answer, a.rule, a.key, a.plain) == (b.answer, b.rule, b.key, b.plain)


@pytest.mark.parametrize(
  'mixture',
  [Mixture(), Mixture(shown=AnswerShown(unit_conversion=1.0, text_encryption=0.5))],
  ids=['plain', 'shown'],
)
def test_a_set_is_the_first_different_items_of_its_stream(mixture):
  first = list(itertools.islice(stream(1, 'dev', mixture), 80))
  items = sample_set(1, 'dev', 60, mixture)
  assert (
    items
    == [
      item for i, item in enumerate(first) if item.question not in {x.question for x in first[:i]}
    ][:60]
  )
  assert len({item.question for item in items}) == 60


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('size', SIZES)
def test_difficulty_is_live(family, size):
  """A smaller magnitude narrows numbers, rules or lengths; extra examples lengthen the prompt."""

  # The common kind only: half of the rare standard equations are symbol strings, which have no
  # magnitude.
  def draw(difficulty):
    return [
      item_at(1, 'train', i, Mixture(size, only(family), RareKindShare(*[0.0] * 6), difficulty))
      for i in range(60)
    ]

  full, narrow, longer = (
    draw(Difficulty()),
    draw(Difficulty(magnitude=0.1)),
    draw(Difficulty(extra_examples=2)),
  )
  reach = CONTRACTS[family].reach
  assert reach(narrow, size) < reach(full, size)

  def examples(items):
    return sum(
      i.question.count(mark) for i in items for mark in ('>', 'becomes', 'distance = ', ' = ')
    )

  assert examples(longer) > 1.1 * examples(
    full
  )  # a micro cipher has room for one more example: eight letters instead of seven


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Mixture(size='tiny'), r"size must be one of \('micro', 'standard'\), got 'tiny'"),
    (lambda: Mixture(weights=FamilyWeights(*[0.0] * 6)), 'positive sum'),
    (
      lambda: Mixture(weights=FamilyWeights(unit_conversion=-1.0)),
      r"finite and >= 0.*'unit_conversion': -1\.0",
    ),
    (lambda: Mixture(weights=FamilyWeights(unit_conversion=float('nan'))), 'finite'),
    (lambda: Mixture(weights=FamilyWeights(unit_conversion=float('inf'))), 'finite'),
    (
      lambda: Mixture(shown=AnswerShown(unit_conversion=1.5)),
      r'answer_shown.unit_conversion must lie in \[0, 1\], got 1\.5',
    ),
    pytest.param(
      lambda: Mixture(rare_share=RareKindShare(text_encryption=1.1)),
      r'rare_share\.text_encryption must lie in \[0, 1\], got 1\.1',
      id='<lambda>-share of text_encryption must lie in \\[0, 1\\], got 1\\.1',
    ),
    (lambda: Mixture(rare_share=RareKindShare(text_encryption=float('nan'))), 'must lie in'),
    (lambda: Difficulty(magnitude=0.0), r'difficulty\.magnitude must lie in \(0, 1\], got 0'),
    (lambda: Difficulty(magnitude=1.5), r'difficulty\.magnitude'),
    (lambda: Difficulty(extra_examples=-1), r'difficulty\.extra_examples must be >= 0, got -1'),
    (
      lambda: item_at(1, 'test', 0, Mixture()),
      (
        r"split must be one of \('train', 'dev', 'private', 'probe', 'external', 'final', "
        r"'fresh'\), got 'test'"
      ),
    ),
    (lambda: item_at(b's', 'final', 0, Mixture()), r'pass secret=\.\.\.'),
    (
      lambda: item_at(b's', 'private', 0, Mixture(), b's'),
      r"draw from one of \('external', 'final', 'fresh'\)",
    ),
    (lambda: sample_set(1, 'dev', 0, Mixture()), 'at least one item, got count = 0'),
    # One factor, 0.20, is left, and it belongs to another split; five numbers make 5 x (4 x 3 + 4 x
    # 3 x 2) = 180 questions.
    (
      lambda: item_at(
        1, 'train', 0, Mixture(weights=only('unit_conversion'), difficulty=Difficulty(0.0001))
      ),
      r'raise difficulty\.magnitude',
    ),
    (
      lambda: sample_set(1, 'train', 200, dataclasses.replace(FEW, difficulty=Difficulty(0.01))),
      'ask for fewer than 200',
    ),
  ],
)
def test_errors_name_the_fix(make, message):
  with pytest.raises(ValueError, match=message):
    make()
