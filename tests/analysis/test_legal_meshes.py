"""Meshes that divide a model, nearest to a wish first."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from aevo_jax.analysis.legal_meshes import factorizations, legal
from aevo_jax.sharding.rules import Sharding

RULES = Sharding(
  {'embed': 'fsdp', 'vocab': 'tensor', 'batch': 'fsdp'}, replicated_limit_mib=1e9, pad_vocab=False
)


def of(wish, rules=RULES, vocab=122, embed=128):
  shapes = {'embedding': jax.ShapeDtypeStruct((vocab, embed), jnp.float32)}
  return legal(wish, rules, shapes, {'embedding': ('vocab', 'embed')}, row_length=64)


def test_all_products():
  assert list(factorizations(6, 2)) == [(1, 6), (2, 3), (3, 2), (6, 1)]
  assert sum(1 for _ in factorizations(64, 3)) == 28


def test_the_nearest_comes_first_and_nothing_illegal_at_all():
  """122 words can be cut in two, not in four."""
  assert of({'fsdp': 2, 'tensor': 4}) == [{'fsdp': 4, 'tensor': 2}, {'fsdp': 8, 'tensor': 1}]


def test_a_vocabulary_that_is_padded_restricts_nothing():
  padded = dataclasses.replace(RULES, pad_vocab=True)
  wish = {'fsdp': 2, 'tensor': 4}
  assert of(wish, padded)[0] == wish
  assert of(wish, padded, embed=3) == [{'fsdp': 1, 'tensor': 8}]


def test_a_wish_that_is_legal_is_its_own_nearest():
  assert of({'fsdp': 4, 'tensor': 2})[0] == {'fsdp': 4, 'tensor': 2}


@pytest.mark.parametrize(('vocab', 'embed'), [(121, 127), (1, 1)])
def test_none_may_be_legal(vocab, embed):
  assert of({'fsdp': 2, 'tensor': 4}, vocab=vocab, embed=embed) == []


def test_rows_count_too():
  rules = Sharding({'length': 'context'}, replicated_limit_mib=1e9)
  shapes = {'embedding': jax.ShapeDtypeStruct((4, 4), jnp.float32)}
  found = legal({'context': 8}, rules, shapes, {'embedding': ('vocab', 'embed')}, row_length=12)
  assert found == []


def test_a_batch_that_is_given_counts():
  assert legal({'data': 8}, Sharding({'batch': 'data'}), {}, {}, 64, rows=4) == []
  assert legal({'data': 8}, Sharding({'batch': 'data'}), {}, {}, 64, rows=16) == [{'data': 8}]
