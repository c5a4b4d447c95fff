"""The evaluation sets: as the constitution says, disjoint, and closed to whoever does not know the
secret.
"""

import dataclasses
import hashlib
import hmac
import json

import pytest

from aevo_jax import layout
from aevo_jax.campaign.setup import setup
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.evaluation import sets
from aevo_jax.ledger.append import read
from aevo_jax.tasks.mixture import sample_set

SECRET = hashlib.sha256(b'a test secret').digest()
COUNT = 120


@pytest.fixture(scope='module')
def constitution():
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    [f'{name}.items = {COUNT}' for name in ('dev_set', 'external_set', 'final_set')],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin().committed(sets.commitment(SECRET))


@pytest.fixture(scope='module')
def external(constitution):
  return sets.private_items(constitution, 'external', SECRET)


def test_sizes_mixtures_and_repeatability(constitution, external):
  dev = sets.dev_items(constitution)
  assert len(dev) == len(external) == COUNT
  assert dev == sets.dev_items(constitution) and external == sets.private_items(
    constitution, 'external', SECRET
  )
  bits = [i.kind for i in dev if i.family == 'bit_manipulation']
  assert len(set(bits)) == 1  # rare_share 0: the kind that external has and dev lacks
  large = dataclasses.replace(
    constitution, external_set=dataclasses.replace(constitution.external_set, items=1200)
  )
  kinds = [
    i.kind for i in sets.private_items(large, 'external', SECRET) if i.family == 'bit_manipulation'
  ]
  rare = sum(k != bits[0] for k in kinds) / len(kinds)
  assert 0.18 < rare < 0.38  # .28 of about 200: sd .032


def test_no_item_or_key_is_in_two_sets(constitution, external):
  groups = [
    sets.dev_items(constitution),
    external,
    sets.private_items(constitution, 'final', SECRET),
  ]
  for field in ('question', 'key'):
    values = [{getattr(item, field) for item in group} for group in groups]
    assert not values[0] & values[1] and not values[0] & values[2] and not values[1] & values[2]


def test_shown_answers_are_a_flaw_of_the_set_that_names_them(constitution, external):
  flawed = dataclasses.replace(
    constitution,
    dev_set=dataclasses.replace(constitution.dev_set, answer_shown={'unit_conversion': 1.0}),
  )
  pairs = list(zip(sets.dev_items(constitution), sets.dev_items(flawed), strict=True))
  differing = [b for a, b in pairs if a != b]
  assert {b.family for b in differing} == {'unit_conversion'} and len(differing) == sum(
    a.family == 'unit_conversion' for a, _ in pairs
  ) > 5
  assert all(b.question.removesuffix('?').endswith(b.answer) for b in differing)
  assert sets.private_items(flawed, 'external', SECRET) == external


def test_an_unknown_family_is_named(constitution):
  wrong = dataclasses.replace(constitution.dev_set, rare_share={'bit_manipulatio': 0.0})
  with pytest.raises(ValueError, match="did you mean 'bit_manipulation'"):
    sets.mixture(wrong, 'micro')


def _guesses(run, inputs, settings) -> set[bytes]:
  """Byte strings and numbers in a worker's reach, and their digests."""
  strings: set[str] = {
    inputs.constitution.holdout.commitment,
    inputs.constitution.digest(),
    inputs.constitution.text(),
    inputs.holdout,
    inputs.base_digest,
    inputs.substrate_identity,
    inputs.substrate_object,
    str(settings.seed),
    '',
    'external',
    'holdout',
    str(inputs.constitution.dev_set.seed),
  }
  for trial in (run / 'trials').iterdir():
    spec = json.loads((trial / 'spec.json').read_text())
    strings |= {str(value) for value in spec.values() if not isinstance(value, dict)}
    strings |= {
      hashlib.sha256((trial / name).read_bytes()).hexdigest()
      for name in ('spec.json', 'export/model.safetensors', 'metrics.jsonl')
    }
  guesses = {text.encode() for text in strings} | {
    bytes.fromhex(text) for text in strings if len(text) == 64
  }
  guesses |= {
    number.to_bytes(size, order)
    for number in range(64)
    for size in (1, 4, 8, 32)
    for order in ('big', 'little')
  }
  guesses |= {str(number).encode() for number in range(64)}
  guesses |= {hashlib.sha256(guess).digest() for guess in set(guesses)} | {
    hashlib.sha256(b'aevo-holdout|' + guess).digest() for guess in set(guesses)
  }
  return guesses


def test_everything_a_worker_sees_does_not_give_the_external_items(
  tiny_run, external, constitution
):
  """Seeds and secrets made of every byte string and number in a worker's reach, against a positive
  control with the real secret.

  In a worker's reach: the constitution with the commitment, its spec, the environment's names, the
  ledger's public start, digests of the substrate, other trials' directories (which confinement
  denies, taken here all the same). The bar is one single external item of the first 40.
  """
  inputs, settings = setup.reload(tiny_run)
  revealed = next(r.payload for r in read(tiny_run / setup.LEDGER) if r.kind == 'secrets_revealed')
  true_secret = bytes.fromhex(revealed['secrets']['holdout'])
  assert sets.commitment(true_secret) == inputs.constitution.holdout.commitment
  definition = inputs.constitution.external_set
  mixture = sets.mixture(definition, inputs.constitution.objective.size)
  wanted = {
    item.question for item in sets.private_items(inputs.constitution, 'external', true_secret)
  }

  def found(secret: bytes, seed: bytes) -> int:
    return len(
      wanted & {item.question for item in sample_set(seed, 'external', 40, mixture, secret)}
    )

  assert found(true_secret, hmac.digest(true_secret, b'external', 'sha256')) == 40  # the control

  guesses = _guesses(tiny_run, inputs, settings)
  assert true_secret not in guesses
  chosen = sorted(guesses)[:: max(1, len(guesses) // 60)]
  chance = 0
  for guess in chosen:
    chance = max(
      chance, found(guess, hmac.digest(guess, b'external', 'sha256')), found(guess, guess)
    )
  # Few-rule families repeat short questions by chance; nothing near the 40 of whoever knows the
  # secret.
  assert chance <= 6, chance
  # And no guess opens the commitment, all of them tried.
  assert not [
    guess for guess in guesses if sets.commitment(guess) == inputs.constitution.holdout.commitment
  ]


def test_an_integer_seed_is_refused_for_private_splits(constitution):
  mixture = sets.mixture(constitution.external_set, 'micro')
  for seed in (0, 1, 20260620):
    with pytest.raises(ValueError, match='secret'):
      sample_set(seed, 'external', 5, mixture, SECRET)
  with pytest.raises(ValueError, match='secret'):
    sample_set(b'x' * 32, 'external', 5, mixture)


def test_commitment_binds_and_items_digest_sees_every_field(external):
  assert sets.commitment(SECRET) != sets.commitment(SECRET[:-1] + bytes([SECRET[-1] ^ 1]))
  assert sets.commitment(SECRET) == hashlib.sha256(b'aevo-holdout|' + SECRET).hexdigest()
  digest = sets.items_digest(external)
  for field in (f.name for f in dataclasses.fields(external[0])):
    assert (
      sets.items_digest([dataclasses.replace(external[0], **{field: 'x'}), *external[1:]]) != digest
    )
  assert sets.items_digest(external[::-1]) != digest
