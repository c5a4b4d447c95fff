"""No rule crosses a split, and the private region stays undivided for everyone without the
arbiter's secret.
"""

import dataclasses
import fractions
import hashlib
import hmac
import itertools

import pytest
from family_contracts import DEFAULT_FAMILIES

from aevo_jax.tasks.item import SIZES
from aevo_jax.tasks.mixture import (
  FAMILIES,
  FamilyWeights,
  Mixture,
  RareKindShare,
  item_at,
  sample_set,
)
from aevo_jax.tasks.splits import public_split, split_of

SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))
SPLITS = ('train', 'dev', 'external', 'final')


def seed(split: str, secret: bytes = SECRET) -> bytes:
  """A stream seed of secret bytes, one per split."""
  return hmac.digest(secret, split.encode(), 'sha256')


# The slow generator of symbol strings is left to the micro size, whose keys have the same form.
MIXTURES = {
  'micro': Mixture('micro'),
  'standard': Mixture('standard', rare_share=RareKindShare(equation_transformation=0.0)),
}
COUNTS = {
  'micro': {'train': 6000, 'dev': 1000, 'external': 3000, 'final': 3000},
  'standard': dict.fromkeys(SPLITS, 500),
}


@pytest.fixture(scope='module', params=SIZES)
def sets(request):
  counts, mixture = COUNTS[request.param], MIXTURES[request.param]
  return {
    s: sample_set(7, s, counts[s], mixture)
    if s in ('train', 'dev')
    else sample_set(seed(s), s, counts[s], mixture, SECRET)
    for s in SPLITS
  }


def test_no_key_and_no_question_in_two_splits(sets):
  for a, b in itertools.combinations(SPLITS, 2):
    assert not {i.key for i in sets[a]} & {i.key for i in sets[b]}, (a, b)
    assert not {i.question for i in sets[a]} & {i.question for i in sets[b]}, (a, b)
  for items in sets.values():
    assert len({i.question for i in items}) == len(items)
    assert {i.family for i in items} == DEFAULT_FAMILIES


def test_a_rule_has_one_key(sets):
  """Where splits are by rule, one rule never has two keys, which could fall on two sides; (rule,
  query) families carry the query as well.
  """
  keys = {}
  for item in itertools.chain(*sets.values()):
    query = {
      'numeral_conversion': item.question.split(' ')[-1]
      if item.question.endswith('=?')
      else item.question.split('Rewrite ')[-1],
      'equation_transformation': '|'.join(item.key.split('|')[2:]),
    }.get(item.family, '')
    assert (
      keys.setdefault(
        (
          item.family,
          len(item.answer) if item.family == 'bit_manipulation' else 0,
          item.rule,
          query,
        ),
        item.key,
      )
      == item.key
    )
    assert item.key.startswith(item.family + '|')
  assert len(set(keys.values())) == len(keys)


def test_public_regions_by_exact_arithmetic():
  counts = dict.fromkeys(('train', 'dev', 'private'), 0)
  for i in range(20_000):
    key = f'family|{i}'
    u = fractions.Fraction(int(hashlib.sha256(key.encode()).hexdigest(), 16), 2**256)
    expected = (
      'train'
      if u < fractions.Fraction(60, 100)
      else 'dev'
      if u < fractions.Fraction(75, 100)
      else 'private'
    )
    assert public_split(key) == split_of(key) == expected
    counts[expected] += 1
    if expected != 'private':
      assert split_of(key, SECRET) == expected
  # Binomial, five standard deviations.
  assert (
    abs(counts['train'] - 12_000) < 350
    and abs(counts['dev'] - 3_000) < 255
    and abs(counts['private'] - 5_000) < 310
  )


def private_keys(count: int) -> list[str]:
  return list(
    itertools.islice(
      (k for k in (f'family|{i}' for i in itertools.count()) if public_split(k) == 'private'), count
    )
  )


def test_the_secret_decides_inside_the_private_region():
  keys = private_keys(4000)
  side = [split_of(k, SECRET) for k in keys]
  assert set(side) == {'external', 'final'}
  assert side == [
    ('external', 'final')[hmac.new(SECRET, k.encode(), hashlib.sha256).digest()[-1] % 2]
    for k in keys
  ]
  # Half each, and what is public (another secret, the public hash itself) says nothing: agreement
  # .5 +- five standard deviations.
  assert abs(side.count('external') / 4000 - 0.5) < 0.04
  for guess in (
    [split_of(k, OTHER_SECRET) for k in keys],
    [split_of(k, b'') for k in keys],
    [('external', 'final')[hashlib.sha256(k.encode()).digest()[-1] % 2] for k in keys],
  ):
    assert abs(sum(a == b for a, b in zip(side, guess, strict=True)) / 4000 - 0.5) < 0.04


@pytest.mark.parametrize('split', ['external', 'final'])
def test_everything_public_fails_to_regenerate_private_items(split):
  """An attacker has code, mixture, set size, integer seeds and the commitment; a positive control
  has the secret.
  """
  mixture, count = Mixture(), 300
  drawn = sample_set(seed(split), split, count, mixture, SECRET)
  commitment = hashlib.sha256(SECRET).digest()
  with pytest.raises(ValueError, match="the arbiter's: pass secret"):
    sample_set(7, split, count, mixture)
  attempts = [
    sample_set(s, 'private', count, mixture)
    for s in (*range(8), commitment, commitment.hex(), split.encode(), b'')
  ]
  attempts += [
    sample_set(seed(split, guess), split, count, mixture, guess)
    for guess in (OTHER_SECRET, commitment, b'')
  ]
  questions = {i.question for i in drawn}
  assert all(len(questions & {i.question for i in attempt}) <= 1 for attempt in attempts)
  assert sample_set(seed(split), split, count, mixture, SECRET) == drawn


def test_a_private_stream_refuses_a_guessable_seed():
  """With the stream's seed known, any wrong secret regenerates a third of the items, so an integer
  is refused.

  Of the private draws, in order, the first external one under both secrets must be the same: p =
  1/4 + p/4, as the next draw is external under both, or under neither and the draw after it counts.
  """
  stream_seed, mixture = seed('external'), Mixture()
  same = sum(
    item_at(stream_seed, 'external', i, mixture, SECRET)
    == item_at(stream_seed, 'external', i, mixture, OTHER_SECRET)
    for i in range(300)
  )
  assert abs(same / 300 - 1 / 3) < 5 * (2 / 9 / 300) ** 0.5
  with pytest.raises(ValueError, match='seed of secret bytes'):
    item_at(7, 'external', 0, mixture, SECRET)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('split', SPLITS)
def test_rare_kinds_can_be_held_back(family, split):
  """rare_share 0 gives none of the rare kind, 1 nothing else, in every split: a proxy may lack what
  the target holds.
  """
  weights = FamilyWeights(**{name: float(name == family) for name in FAMILIES})
  for share in (0.0, 1.0):
    mixture = Mixture(
      weights=weights, rare_share=dataclasses.replace(RareKindShare(), **{family: share})
    )
    public = split in ('train', 'dev')
    kinds = {
      item_at(7 if public else seed(split), split, i, mixture, None if public else SECRET).kind
      for i in range(60)
    }
    assert kinds == {FAMILIES[family].kinds[int(share)]}
