"""Schedules at points computed by hand, and update rules against numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aevo_jax.checkpoint import orbax_io
from aevo_jax.training.optimizer import schedule, transformation
from aevo_jax.training.recipe.recipe import OPTIMIZERS, Optimizer

BARE = {'learning_rate': 0.1, 'schedule': 'constant', 'warmup_fraction': 0.0, 'clip_norm': 1e6}
COSINE_EIGHTH = (1 + math.cos(math.pi / 8)) / 2


# 20 steps, of which 4 warm up: peak 1 is reached at step 4, through 1/5, 2/5, 3/5, 4/5; 16 steps
# are left.
@pytest.mark.parametrize(
  'name, points',
  [
    ('constant', {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 11: 1.0, 19: 1.0}),
    ('linear', {0: 0.2, 3: 0.8, 4: 1.0, 5: 15 / 16, 12: 0.5, 19: 1 / 16, 20: 0.0}),
    ('cosine', {0: 0.2, 3: 0.8, 4: 1.0, 6: COSINE_EIGHTH, 12: 0.5, 18: 1 - COSINE_EIGHTH, 20: 0.0}),
    # wsd: the last 0.25 * 20 = 5 steps fall to 0, so step 15 is still at the peak.
    ('wsd', {0: 0.2, 3: 0.8, 4: 1.0, 10: 1.0, 15: 1.0, 16: 0.8, 19: 0.2, 20: 0.0}),
  ],
)
def test_schedules_with_warm_up(name, points):
  rate = schedule(
    Optimizer(learning_rate=1.0, schedule=name, warmup_fraction=0.2, decay_fraction=0.25), 20
  )
  np.testing.assert_allclose(
    [rate(step) for step in points], list(points.values()), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  'name, points',
  [
    ('constant', {0: 3.0, 9: 3.0}),
    ('linear', {0: 3.0, 5: 1.5, 9: 0.3}),
    ('cosine', {0: 3.0, 5: 1.5}),
    ('wsd', {0: 3.0, 5: 3.0, 7: 3.0, 8: 2.0, 9: 1.0}),
  ],
)
def test_schedules_without_warm_up_begin_at_the_peak(name, points):
  rate = schedule(
    Optimizer(learning_rate=3.0, schedule=name, warmup_fraction=0.0, decay_fraction=0.3), 10
  )
  np.testing.assert_allclose(
    [rate(step) for step in points], list(points.values()), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('name', ['constant', 'linear', 'cosine', 'wsd'])
@pytest.mark.parametrize('warmup', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('steps', [1, 2, 7])
def test_every_step_of_a_short_run_moves(name, warmup, steps):
  rate = schedule(
    Optimizer(learning_rate=1.0, schedule=name, warmup_fraction=warmup, decay_fraction=1.0), steps
  )
  rates = np.array([rate(step) for step in range(steps)])
  assert (rates > 0).all() and (rates <= 1 + 1e-6).all()


def test_adamw_is_the_papers_first_two_steps():
  """Decoupled weight decay (1711.05101), bias-corrected moments, after clipping the gradient."""
  config = Optimizer(
    name='adamw',
    learning_rate=0.1,
    schedule='constant',
    warmup_fraction=0.0,
    weight_decay=0.05,
    b1=0.8,
    b2=0.95,
    clip_norm=1.0,
  )
  tx = transformation(config)
  params = {'w': np.array([[1.0, -2.0], [0.5, 3.0]]), 'b': np.array([0.3, -0.7])}
  grads = [
    {'w': np.array([[0.1, 0.2], [-0.3, 0.4]]), 'b': np.array([0.2, -0.1])},  # norm 0.59: kept
    {'w': np.array([[3.0, -1.0], [2.0, 0.5]]), 'b': np.array([-1.0, 4.0])},
  ]  # norm 5.59: scaled to 1
  state, ours = (
    tx.init({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}),
    {k: jnp.asarray(v, jnp.float32) for k, v in params.items()},
  )
  m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
  for t, grad in enumerate(grads, start=1):
    updates, state = tx.update(
      {k: jnp.asarray(g, jnp.float32) for k, g in grad.items()}, state, ours
    )
    ours = jax.tree.map(jnp.add, ours, updates)
    norm = math.sqrt(sum((g**2).sum() for g in grad.values()))
    for k, g in grad.items():
      g = g * min(1, 1 / norm)
      m[k], v[k] = 0.8 * m[k] + 0.2 * g, 0.95 * v[k] + 0.05 * g**2
      step = (m[k] / (1 - 0.8**t)) / (np.sqrt(v[k] / (1 - 0.95**t)) + 1e-8)
      params[k] = params[k] - 0.1 * (step + 0.05 * params[k])
      np.testing.assert_allclose(ours[k], params[k], rtol=1e-5)


def test_lion_moves_by_the_sign():
  config = Optimizer(
    name='lion',
    learning_rate=0.1,
    schedule='constant',
    warmup_fraction=0.0,
    weight_decay=0.0,
    clip_norm=100.0,
  )
  tx, params = transformation(config), {'w': jnp.zeros((2, 2))}
  updates, _ = tx.update({'w': jnp.array([[2.0, -3.0], [1e-3, 0.0]])}, tx.init(params), params)
  np.testing.assert_allclose(updates['w'], [[-0.1, 0.1], [-0.1, 0.0]], rtol=1e-6)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_update_rule_descends(name):
  """On ||W - T||^2 + ||b||^2, whose minimum is T, 0, with a matrix (muon treats those alone) and a
  vector.
  """
  target = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)

  def loss(p):
    return jnp.sum((p['w'] - target) ** 2) + jnp.sum(p['b'] ** 2)

  # Adafactor's steps are relative to a parameter's size, and the matrix begins at 0.
  rate = 0.2 if name == 'adafactor' else 0.1
  tx = transformation(
    Optimizer(
      name=name, learning_rate=rate, schedule='linear', warmup_fraction=0.1, weight_decay=0.0
    )
  )
  params = {'w': jnp.zeros((6, 4)), 'b': jnp.ones(3)}
  state, start = tx.init(params), float(loss(params))

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return jax.tree.map(jnp.add, params, updates), state

  for _ in range(60):
    params, state = step(params, state)
  assert float(loss(params)) < 0.05 * start


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_baked_and_injected_numbers_update_alike(name):
  """The liveness check traces the baked form, training runs the injected one."""
  config = Optimizer(
    name=name, learning_rate=0.03, weight_decay=0.1, b1=0.8, b2=0.95, clip_norm=0.5
  )
  params, grads = {'w': jnp.arange(6.0).reshape(2, 3)}, {'w': jnp.linspace(-1, 1, 6).reshape(2, 3)}
  injected, baked = transformation(config), transformation(config, baked=True)
  for tx in (injected, baked):
    assert tx.update(grads, tx.init(params), params)[0]['w'].shape == (2, 3)
  np.testing.assert_allclose(
    injected.update(grads, injected.init(params), params)[0]['w'],
    baked.update(grads, baked.init(params), params)[0]['w'],
    rtol=1e-5,
  )


def moved(config, steps=3):
  """What a few steps on one gradient make of two matrices, a vector and a stack of matrices."""
  rng = np.random.default_rng(0)
  shapes = {
    'layers.0.mixer.up_proj.kernel': (4, 6),
    'embedding': (5, 4),
    'layers.0.norm.scale': (4,),
  }
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
  }
  grads = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
  tx = transformation(config)
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params, grads


def test_sgd_is_momentum_with_decoupled_decay():
  """p - rate (m + decay p), with m = b1 m + g."""
  after, grads = moved(Optimizer(name='sgd', b1=0.8, weight_decay=0.5, **BARE))
  before, _ = moved(Optimizer(name='sgd', **BARE), steps=0)
  for name, p in before.items():
    p, m = np.asarray(p, np.float64), 0.0
    for _ in range(3):
      m = 0.8 * m + np.asarray(grads[name], np.float64)
      p = p - 0.1 * (m + 0.5 * p)
    np.testing.assert_allclose(after[name], p, rtol=1e-5, err_msg=name)


def test_adafactor_is_optaxs_with_decoupled_decay():
  plain, _ = moved(Optimizer(name='adafactor', weight_decay=0.0, **BARE), steps=1)
  decayed, _ = moved(Optimizer(name='adafactor', weight_decay=0.5, **BARE), steps=1)
  before, grads = moved(Optimizer(**BARE), steps=0)
  expected, _ = optax.adafactor(0.1).update(grads, optax.adafactor(0.1).init(before), before)
  for name in before:
    np.testing.assert_allclose(plain[name], before[name] + expected[name], rtol=1e-5)
    np.testing.assert_allclose(
      decayed[name], plain[name] - 0.1 * 0.5 * before[name], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_groups_scale_rate_and_decay_and_leave_the_others_alone(name):
  groups = (('.*norm.*', 0.0, 1.0), ('embedding', 0.5, 0.0), (r'.*\.kernel', 1.0, 1.0))
  common = {'name': name, 'weight_decay': 0.3, **BARE}
  after, _ = moved(Optimizer(groups=groups, **common))
  alone, _ = moved(Optimizer(**common))
  halved, _ = moved(Optimizer(**common | {'learning_rate': 0.05, 'weight_decay': 0.0}))
  before, _ = moved(Optimizer(**common), steps=0)
  np.testing.assert_array_equal(after['layers.0.norm.scale'], before['layers.0.norm.scale'])
  np.testing.assert_allclose(
    after['layers.0.mixer.up_proj.kernel'],
    alone['layers.0.mixer.up_proj.kernel'],
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_allclose(after['embedding'], halved['embedding'], rtol=1e-5, atol=1e-6)


def test_a_state_with_groups_is_saved_and_restored(tmp_path):
  tx = transformation(Optimizer(groups=(('.*norm.*', 1.0, 0.0), ('embedding|.*kernel', 0.5, 1.0))))
  params, grads = moved(Optimizer(), steps=1)
  _, state = tx.update(grads, tx.init(params), params)
  orbax_io.save(tmp_path / 'state', state)
  restored = orbax_io.restore(tmp_path / 'state', tx.init(params))
  assert all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True)
  )


@pytest.mark.parametrize(
  'groups,reason',
  [
    ((('.*norm.*', 1.0, 1.0),), '2 match no pattern: embedding'),
    ((('.*', 1.0, 1.0), ('embedding', 1.0, 1.0)), '1 match several patterns: embedding'),
  ],
)
def test_groups_cover_every_parameter_exactly_once(groups, reason):
  with pytest.raises(ValueError, match=reason):
    moved(Optimizer(groups=groups))


@pytest.mark.parametrize(
  'groups', [(('(', 1.0, 1.0),), (('.*', -1.0, 1.0),), (('a', 1.0, 1.0), ('a', 1.0, 1.0))]
)
def test_groups_that_cannot_be_are_refused(groups):
  with pytest.raises(ValueError, match=r'optimizer\.groups'):
    Optimizer(groups=groups)
