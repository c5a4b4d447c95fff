"""The search space: what it refuses, how it says so, and that moving inside of it stays inside."""

import math

import numpy as np
import pytest

from aevo_jax.config.search_space import (
  Axis,
  Parameter,
  SearchSpace,
  SearchSpaceError,
  neighbour,
  perturb,
  sample,
)
from aevo_jax.config.statements import Binding

LITERALS = {
  'schedule': {
    'optimizer.learning_rate': {'kind': 'float', 'low': 1e-4, 'high': 1e-2, 'scale': 'log'},
    'optimizer.warmup_steps': {'kind': 'int', 'low': 0, 'high': 40},
    'optimizer.nesterov': {'kind': 'bool'},
  },
  'adaptation': {
    'adaptation.method': {'kind': 'choice', 'choices': ['full', 'lora']},
    'lora.rank': {
      'kind': 'int',
      'low': 1,
      'high': 32,
      'scale': 'log',
      'when': {'adaptation.method': ['lora']},
    },
    'lora.targets': {
      'kind': 'choice',
      'choices': [['q', 'v'], ['q', 'k', 'v']],
      'when': {'adaptation.method': ['lora']},
    },
  },
  'loss': {
    'loss.answer_weight': {'kind': 'float', 'low': 0, 'high': 4},
    'loss.label_smoothing': {
      'kind': 'float',
      'low': 0.0,
      'high': 0.2,
      'when': {'loss.name': ['sft']},
    },
  },
}
DEFAULTS = {'adaptation.method': 'full', 'loss.name': 'sft', 'optimizer.learning_rate': 1e-3}


@pytest.fixture
def space():
  return SearchSpace.from_literals(LITERALS)


def problems(space, bindings, defaults=None):
  with pytest.raises(SearchSpaceError) as caught:
    space.check(
      [Binding(selector, value) for selector, value in bindings],
      DEFAULTS if defaults is None else defaults,
    )
  return caught.value.problems


def test_accepts_what_is_inside(space):
  space.check([], DEFAULTS)
  space.check(
    [
      Binding('optimizer.learning_rate', 1e-2),
      Binding('optimizer.warmup_steps', 0),
      Binding('loss.answer_weight', 4),
      Binding('adaptation.method', 'lora'),
      Binding('lora.rank', 32),
      Binding('lora.targets', ('q', 'v')),
      Binding('optimizer.nesterov', True),
      Binding('loss.label_smoothing', 0.1),
    ],
    DEFAULTS,
  )
  space.check([Binding('lora.rank', 4)], {**DEFAULTS, 'adaptation.method': 'lora'})


@pytest.mark.parametrize(
  'selector, value, said',
  [
    ('optimizer.learning_rat', 1e-3, "did you mean 'optimizer.learning_rate'?"),
    ('arbiter.quota', 9, 'may not be bound'),
    ('optimizer.learning_rate', True, 'expects a float, got True (bool)'),
    ('optimizer.learning_rate', '1e-3', "expects a float, got '1e-3' (str)"),
    ('optimizer.learning_rate', 0.1, 'expects 0.0001 to 0.01, got 0.1'),
    ('optimizer.warmup_steps', True, 'expects an int, got True (bool)'),
    ('optimizer.warmup_steps', 4.0, 'expects an int, got 4.0 (float)'),
    ('optimizer.warmup_steps', 41, 'expects 0 to 40, got 41'),
    ('optimizer.warmup_steps', -1, 'expects 0 to 40, got -1'),
    ('optimizer.nesterov', 1, 'expects a bool, got 1'),
    ('adaptation.method', 'qlora', "expects one of ['full', 'lora'], got 'qlora'"),
    ('adaptation.method', None, "expects one of ['full', 'lora'], got None"),
    ('lora.rank', 8, "only when adaptation.method is one of ['lora'], but it is 'full'"),
  ],
)
def test_each_refusal_names_expected_and_got(space, selector, value, said):
  [problem] = problems(space, [(selector, value)])
  assert problem.startswith(selector) and said in problem


def test_not_finite_is_refused_even_past_the_parser(space):
  class Raw:
    selector, value = 'optimizer.learning_rate', math.inf

  with pytest.raises(SearchSpaceError, match='finite'):
    space.check([Raw()], DEFAULTS)


def test_all_problems_are_listed(space):
  found = problems(
    space,
    [
      ('x.y', 1),
      ('optimizer.warmup_steps', 99),
      ('loss.answer_weight', 1.0),
      ('loss.answer_weight', 2.0),
    ],
  )
  assert len(found) == 3 and 'loss.answer_weight is bound twice' in found


def test_conditions_look_at_bindings_over_defaults(space):
  assert (
    'lora.rank'
    in problems(
      space,
      [('lora.rank', 4), ('adaptation.method', 'full')],
      {**DEFAULTS, 'adaptation.method': 'lora'},
    )[0]
  )
  assert 'has no value' in problems(space, [('loss.label_smoothing', 0.1)], {})[0]


def test_normalise_gives_canonical_types(space):
  bindings = [
    Binding('optimizer.warmup_steps', 3),
    Binding('loss.answer_weight', 2),
    Binding('lora.targets', ('q', 'v')),
  ]
  normal = space.normalise(bindings)
  assert normal == (
    Binding('lora.targets', ['q', 'v']),
    Binding('loss.answer_weight', 2.0),
    Binding('optimizer.warmup_steps', 3),
  )
  assert type(normal[1].value) is float and type(normal[0].value) is list
  with pytest.raises(SearchSpaceError, match='may not be bound'):
    space.normalise([Binding('a.b', 1)])


@pytest.mark.parametrize(
  'spec, said',
  [
    (3, "'kind'"),
    ({}, "'kind'"),
    ({'kind': 'flot'}, "'kind'"),
    ({'kind': ['float']}, "'kind'"),
    ({'kind': 'float', 'low': 0.0}, "needs 'high'"),
    ({'kind': 'float', 'low': 0.0, 'hihg': 1.0}, "did you mean 'high'?"),
    ({'kind': 'float', 'low': 1.0, 'high': 1.0}, 'below'),
    ({'kind': 'float', 'low': 0.0, 'high': 1.0, 'scale': 'log'}, "'low' above 0"),
    ({'kind': 'float', 'low': 0.0, 'high': 1.0, 'scale': 'cubic'}, "'linear' or 'log'"),
    ({'kind': 'float', 'low': '0', 'high': 1.0}, 'of type float'),
    ({'kind': 'int', 'low': 0, 'high': 1.5}, 'of type int'),
    ({'kind': 'int', 'low': False, 'high': 2}, 'of type int'),
    ({'kind': 'choice', 'choices': ['a']}, 'at least two'),
    ({'kind': 'choice', 'choices': ['a', 'a', 'b']}, 'different'),
    ({'kind': 'choice', 'choices': 'ab'}, 'is a list'),
    ({'kind': 'bool', 'low': 0}, "no 'low'"),
    ({'kind': 'bool', 'when': ['x']}, "'when'"),
    ({'kind': 'bool', 'when': {'b.c': []}}, 'no values'),
    ({'kind': 'bool', 'when': {'nodot': [1]}}, 'configurable.parameter'),
  ],
)
def test_malformed_specs_name_axis_and_parameter(spec, said):
  with pytest.raises(SearchSpaceError) as caught:
    SearchSpace.from_literals({'speed': {'a.b': spec}})
  assert 'axis speed, a.b' in str(caught.value) and said in str(caught.value)


def test_malformed_spaces():
  boolean = {'kind': 'bool'}
  for axes, said in [
    ({'x': {'a.b': boolean}, 'y': {'a.b': boolean}}, 'a.b is in axis x and again in y'),
    ({'x': {}}, 'no parameters'),
    ({'x': 3}, 'axis x'),
    ({'x': {'ab': boolean}}, 'configurable.parameter'),
    (
      {
        'x': {
          'a.b': {'kind': 'bool', 'when': {'a.c': [True]}},
          'a.c': {'kind': 'bool', 'when': {'a.b': [True]}},
        }
      },
      'circle',
    ),
    ({'x': {'a.b': boolean, 'a.c': {'kind': 'bool', 'when': {'a.b': ['yes']}}}}, 'can never hold'),
  ]:
    with pytest.raises(SearchSpaceError) as caught:
      SearchSpace.from_literals(axes)
    assert said in str(caught.value)


def test_lookups_name_the_nearest(space):
  assert space.axis('loss').parameters[0].selector == 'loss.answer_weight'
  with pytest.raises(SearchSpaceError, match="did you mean 'schedule'"):
    space.axis('shedule')


def test_sample_is_seeded_legal_and_leaves_out_the_dead(space):
  for name in LITERALS:
    axis = space.axis(name)
    assert sample(axis, np.random.default_rng(3), DEFAULTS) == sample(
      axis, np.random.default_rng(3), DEFAULTS
    )
    for seed in range(40):
      space.check(sample(axis, np.random.default_rng(seed), DEFAULTS), DEFAULTS)
  sizes = {len(sample(space.axis('adaptation'), np.random.default_rng(seed))) for seed in range(20)}
  assert sizes == {1, 3}
  with pytest.raises(SearchSpaceError, match='standing'):
    sample(space.axis('loss'), np.random.default_rng(0))


def test_log_samples_spread_over_decades(space):
  rates = [
    sample(space.axis('schedule'), np.random.default_rng(seed))[0].value for seed in range(400)
  ]
  # Log-uniform on two decades: half lie below the geometric mean 1e-3 (a linear draw would put 9%
  # there).
  assert 0.42 < np.mean(np.array(rates) < 1e-3) < 0.58


@pytest.mark.parametrize(
  'parameter, values',
  [
    (Parameter('a.b', 'float', 1e-4, 1e-2, 'log'), [1e-4, 1e-3, 1e-2]),
    (Parameter('a.b', 'float', -1.0, 1.0), [-1.0, 0.0, 1.0, 1]),
    (Parameter('a.b', 'float', 1.000001, 1.000002), [1.000001, 1.0000015, 1.000002]),
    (Parameter('a.b', 'int', 1, 32, 'log'), [1, 2, 31, 32]),
    (Parameter('a.b', 'int', 0, 1), [0, 1]),
    (Parameter('a.b', 'choice', choices=('x', 'y', 'z')), ['x', 'y', 'z']),
    (Parameter('a.b', 'choice', choices=(1, True, 1.0)), [1, True, 1.0]),
    (Parameter('a.b', 'bool'), [True, False]),
  ],
)
def test_moves_are_legal_different_and_seeded(parameter, values):
  space = SearchSpace((Axis('x', (parameter,)),))
  for value in values:
    moved = [perturb(parameter, value), perturb(parameter, value)]
    assert repr(moved[0]) == repr(moved[1])
    for seed in range(30):
      for step in (0.001, 0.1, 3.0):
        near = neighbour(value, parameter, np.random.default_rng(seed), step)
        assert repr(near) == repr(neighbour(value, parameter, np.random.default_rng(seed), step))
        moved.append(near)
    for other in moved:
      space.check([Binding('a.b', other)], {})
      assert repr(other) != repr(value)
      assert not (isinstance(other, np.generic))


def test_moves_refuse_what_is_outside():
  parameter = Parameter('a.b', 'int', 0, 9)
  with pytest.raises(SearchSpaceError, match='0 to 9'):
    perturb(parameter, 10)
  with pytest.raises(SearchSpaceError, match='0 to 9'):
    neighbour(10, parameter, np.random.default_rng(0), 0.1)
  with pytest.raises(ValueError, match='step'):
    neighbour(1, parameter, np.random.default_rng(0), 0.0)


def test_neighbour_step_is_a_share_of_the_range():
  parameter = Parameter('a.b', 'float', 0.0, 10.0)
  rng = np.random.default_rng(0)
  moves = np.array([neighbour(5.0, parameter, rng, 0.05) - 5.0 for _ in range(2000)])
  assert abs(moves.std() - 0.5) < 0.03 and abs(moves.mean()) < 0.05
