"""Every stream of every family holds the items that it always held.

stream_digests.json was recorded before families declared themselves in one module. Base checkpoints
and recorded scores rest on these streams: where one changes on purpose, the base has to be trained
again and the substrate's manifest rebuilt. A family that is added later changes none of them.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib

import pytest

from aevo_jax.tasks import rewrites
from aevo_jax.tasks.families.registry import FAMILIES
from aevo_jax.tasks.item import SIZES
from aevo_jax.tasks.mixture import AnswerShown, FamilyWeights, Mixture, item_at, sample_puzzles
from aevo_jax.tasks.splits import PRIVATE_SPLITS, PUBLIC_SPLITS

DIGESTS = json.loads(pathlib.Path(__file__).with_name('stream_digests.json').read_text())
SECRET = b'a secret of a test'
COUNT = 200

# A fourteenth of the standard puzzles that are sampled has a rule of the final split; that takes
# half a minute.
SLOW = [('standard', split) for split in ('private', 'probe', 'external', 'final', 'fresh')]
CASES = []
for case in itertools.product(SIZES, PUBLIC_SPLITS + PRIVATE_SPLITS):
  marks = [pytest.mark.slow] if case in SLOW else []
  CASES.append(pytest.param(*case, id='-'.join(case), marks=marks))
FAMILY_NAMES = list(DIGESTS['paraphrases'])  # those that existed when the file was written


def digest(value: object) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def weights(name: str) -> FamilyWeights:
  if name == 'all':
    return FamilyWeights()
  return FamilyWeights(**{family: float(family == name) for family in FAMILIES})


@pytest.mark.parametrize(('size', 'split'), CASES)
def test_streams_are_those_of_before(size, split):
  shown = AnswerShown(**dict.fromkeys(FAMILIES, 0.25))
  secret = SECRET if split in PRIVATE_SPLITS else None
  for name in (*FAMILY_NAMES, 'all'):
    mixture = Mixture(size, weights(name), shown=shown)
    items = [item_at(secret or 1, split, i, mixture, secret) for i in range(COUNT)]
    expected = DIGESTS['streams'][f'{size} {split} {name}']
    assert digest([dataclasses.astuple(item) for item in items]) == expected, name


@pytest.mark.parametrize('name', FAMILY_NAMES)
def test_paraphrases_are_those_of_before(name):
  sampled = sample_puzzles(1, 'dev', 50, Mixture('standard', weights(name)))
  texts = [rewrites.paraphrased(name, one.puzzle) for one in sampled]
  assert digest(texts) == DIGESTS['paraphrases'][name]
