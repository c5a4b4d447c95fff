"""Recipes as arrays, against features written out by hand."""

import math

import numpy as np

from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent.encoding import Encoder

SPACE = SearchSpace.from_literals(
  {
    'rate': {
      'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'}
    },
    'method': {
      'adaptation.method': {'kind': 'choice', 'choices': ['full', 'lora']},
      'lora.rank': {
        'kind': 'int',
        'low': 2,
        'high': 32,
        'scale': 'log',
        'when': {'adaptation.method': ['lora']},
      },
    },
    'averaging': {'train.ema_decay': {'kind': 'float', 'low': 0.5, 'high': 0.9}},
  }
)
DEFAULTS = {
  'optimizer.learning_rate': 1e-3,
  'adaptation.method': 'full',
  'lora.rank': 8,
  'train.ema_decay': 0.0,
}
ENCODER = Encoder(SPACE, DEFAULTS)


def differences(before, *after):
  return ENCODER.differences(ENCODER.codes(before), np.asarray([ENCODER.codes(a) for a in after]))


def test_features_by_hand():
  # [rate: in range, position, square, full, lora, rank: in range, position, square, full x rank,
  # lora x rank, averaging: in range, position, square]
  recipes = [
    {},
    {'adaptation.method': 'lora', 'lora.rank': 32},
    {'optimizer.learning_rate': 1e-2, 'train.ema_decay': 0.6},
  ]
  found = ENCODER.features(np.asarray([ENCODER.codes(r) for r in recipes]))
  np.testing.assert_allclose(
    found,
    [
      [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      [1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, -0.5, 0.25],
    ],
    atol=1e-12,
  )
  assert ENCODER.owners[7:9].tolist() == [[2, 2], [1, 2]]


def test_a_difference_counts_changed_axes_and_undoing_is_a_change_too():
  most = {'adaptation.method': 'lora', 'lora.rank': 32, 'optimizer.learning_rate': 1e-2}
  there, back = differences({}, most, {})[0], differences(most, {})[0]
  assert there[0] == back[0] == 2
  np.testing.assert_array_equal(there[1:], -back[1:])
  assert (differences(most, most) == 0).all()


def test_a_dead_binding_has_no_features_and_values_out_of_range_are_told_apart():
  dead = differences({}, {'lora.rank': 32})[0]
  assert dead[0] == 1 and not dead[1:].any()
  assert ENCODER.prune({'lora.rank': 32}) == {}
  codes = {ENCODER.codes({'train.ema_decay': value})[3] for value in (0.0, 0.1, 0.5, 0.9, 0.95)}
  assert len(codes) == 5 and sum(0 <= c <= 1 for c in codes) == 2


def test_a_condition_on_what_no_agent_may_bind_is_settled_by_the_defaults():
  literals = {
    'rank': {
      'lora.rank': {'kind': 'int', 'low': 2, 'high': 32, 'when': {'adaptation.method': ['lora']}}
    }
  }
  for method, live in (('full', False), ('lora', True)):
    encoder = Encoder(
      SearchSpace.from_literals(literals), {'adaptation.method': method, 'lora.rank': 8}
    )
    assert encoder.active(encoder.codes({'lora.rank': 4})[None]).tolist() == [[live]]


def test_codes_are_positions_on_the_scale():
  assert math.isclose(ENCODER.codes({'lora.rank': 8})[2], 0.5) and math.isclose(
    ENCODER.codes({})[0], 0.5
  )
  base = ENCODER.codes({'lora.rank': 32})
  np.testing.assert_array_equal(
    ENCODER.codes({'adaptation.method': 'lora'}, base),
    ENCODER.codes({'adaptation.method': 'lora', 'lora.rank': 32}),
  )
