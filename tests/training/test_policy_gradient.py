"""Every combination of the policy gradient's parts against a reference in numpy float64, written
token by token from the papers' formulas.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.training.losses import advantages as advantages_lib
from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.policy_gradient import (
  PolicyGradient,
  aggregation_weights,
  policy_gradient_loss,
)
from aevo_jax.training.losses.value import Critic, value_loss


def example(seed=0, rows=6, length=9):
  """Log-probabilities that moved enough for some ratios to leave every clip range, of completions
  of different lengths, one of them empty.
  """
  rng = np.random.default_rng(seed)
  lengths = [9, 5, 1, 7, 0, 3]
  mask = np.zeros((rows, length))
  for row, n in enumerate(lengths):
    mask[row, length - n :] = 1
  mask[0, 3:5] = 0  # between two turns
  logprobs = -rng.gamma(1.0, 0.7, mask.shape)

  def near(sd):
    return logprobs + sd * rng.normal(size=mask.shape)

  advantages = np.repeat(rng.normal(size=(rows, 1)), length, axis=1)
  return (
    logprobs,
    rng.gamma(2.0, 0.5, mask.shape),
    {
      'mask': mask,
      'advantages': advantages,
      'old_logprobs': near(0.4) + 0.5 * rng.normal(size=(rows, 1)),
      'ref_logprobs': near(0.6),
      'sampler_logprobs': near(0.8),
    },
  )


def correction(old, sampler, s):
  """c of one token."""
  if s.correction == 'none':
    return 1.0
  c = math.exp(old - sampler)
  if s.correction == 'truncate':
    return min(c, s.correction_cap)
  return c if 1 / s.correction_cap <= c <= s.correction_cap else 0.0


def reference(logprobs, entropy, batch, s):
  """(loss, its gradient by logprobs) in float64."""
  mask, total, gradient = batch['mask'], 0.0, np.zeros_like(logprobs)
  rows = [i for i in range(len(mask)) if mask[i].any()]
  for i in rows:
    tokens = [t for t in range(mask.shape[1]) if mask[i, t]]
    log_ratios = [logprobs[i, t] - batch['old_logprobs'][i, t] for t in tokens]
    for k, t in enumerate(tokens):
      weight = {
        'token_mean': 1 / mask.sum(),
        'sequence_mean': 1 / len(tokens) / len(rows),
        'constant_length': 1 / len(rows) / s.constant_length,
      }[s.aggregation]
      # d(log ratio of this term) / d(log-probability of token j of the row)
      if s.ratio == 'token':
        level, moves = log_ratios[k], {t: 1.0}
      elif s.ratio == 'sequence':
        level, moves = sum(log_ratios) / len(tokens), {j: 1 / len(tokens) for j in tokens}
      else:
        level, moves = sum(log_ratios), dict.fromkeys(tokens, 1.0)
      r, a = math.exp(level), batch['advantages'][i, t]
      value, slope = r * a, a * r
      if s.clip != 'none':
        bounded = min(max(r, 1 - s.clip_low), 1 + s.clip_high) * a
        if bounded < value:
          value, slope = bounded, 0.0
      if s.clip == 'dual' and a < 0 and s.dual_clip * a > value:
        value, slope = s.dual_clip * a, 0.0
      c = correction(batch['old_logprobs'][i, t], batch['sampler_logprobs'][i, t], s)
      total += weight * (-c * value - s.entropy_bonus * entropy[i, t])
      for j, share in moves.items():
        gradient[i, j] -= weight * c * slope * share
      if s.kl != 'none' and s.kl_in == 'loss':
        d = batch['ref_logprobs'][i, t] - logprobs[i, t]
        kl, kl_slope = {
          'k1': (-d, 1.0),
          'k2': (d * d / 2, -d),
          'k3': (math.exp(d) - d - 1, 1 - math.exp(d)),
        }[s.kl]
        total += weight * s.kl_coefficient * kl * (r if s.kl_unbiased else 1)
        gradient[i, t] += weight * s.kl_coefficient * kl_slope * (r if s.kl_unbiased else 1)
        if s.kl_unbiased:
          for j, share in moves.items():
            gradient[i, j] += weight * s.kl_coefficient * kl * r * share
  return total, gradient


def ours(logprobs, entropy, batch, settings):
  arrays = {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()} | {
    'weights': jnp.asarray(aggregation_weights(batch['mask'], settings))
  }

  def loss(x):
    return policy_gradient_loss(x, jnp.asarray(entropy, jnp.float32), arrays, settings)

  (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(logprobs, jnp.float32)
  )
  return float(value), np.asarray(gradient), {name: float(m.mean()) for name, m in metrics.items()}


PARTS = [
  {'ratio': r} | clip | {'aggregation': a}
  for r, clip, a in itertools.product(
    ('token', 'sequence', 'trajectory'),
    (
      {'clip': 'none'},
      {'clip': 'ppo'},
      {'clip': 'ppo', 'clip_high': 0.28},
      {'clip': 'dual', 'dual_clip': 1.5},
    ),
    ('token_mean', 'sequence_mean', 'constant_length'),
  )
]
EXTRAS = [
  {},
  {'kl': 'k2', 'kl_coefficient': 0.3},
  {'kl': 'k3', 'kl_coefficient': 0.3},
  {'kl': 'k1', 'kl_coefficient': 0.3, 'kl_unbiased': True},
  {'kl': 'k3', 'kl_unbiased': True, 'ratio': 'sequence'},
  {'correction': 'truncate'},
  {'correction': 'mask'},
  {'entropy_bonus': 0.1},
  {
    'kl': 'k3',
    'kl_coefficient': 0.1,
    'correction': 'truncate',
    'entropy_bonus': 0.01,
    'clip': 'dual',
    'clip_high': 0.28,
  },
]


@pytest.mark.parametrize('chosen', PARTS + EXTRAS, ids=lambda p: '-'.join(map(str, p.values())))
def test_value_and_gradient_are_the_papers(chosen):
  settings = PolicyGradient(**chosen)
  for seed in range(3):
    logprobs, entropy, batch = example(seed)
    value, gradient, _ = ours(logprobs, entropy, batch, settings)
    expected, slopes = reference(logprobs, entropy, batch, settings)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


def test_the_parts_act():
  """Each choice gives another loss than every other on some of six batches: none is dead."""
  examples = [example(seed) for seed in range(6)]
  values = {
    str(extra): tuple(round(ours(*e, PolicyGradient(**extra))[0], 6) for e in examples)
    for extra in PARTS + EXTRAS
  }
  assert (
    len(set(values.values())) == len(values) - 1
  )  # token, ppo, token_mean is the default itself


@pytest.mark.parametrize('ratio', ['token', 'sequence', 'trajectory'])
def test_a_ratio_that_would_overflow_is_cut(ratio):
  logprobs, entropy, batch = example()
  batch['advantages'][1] = 0
  for far in (-300.0, 300.0):
    value, gradient, _ = ours(logprobs + far, entropy, batch, PolicyGradient(ratio=ratio))
    assert math.isfinite(value) and np.isfinite(gradient).all()


def test_diagnostics_by_hand():
  logprobs, entropy, batch = example()
  _, _, said = ours(logprobs, entropy, batch, PolicyGradient(kl='k3', correction='truncate'))
  chosen = batch['mask'] > 0
  old, new = batch['old_logprobs'][chosen], logprobs[chosen]
  ratio, a = np.exp(new - old), batch['advantages'][chosen]
  assert said['clip_fraction'] == pytest.approx(
    (((ratio < 0.8) & (a < 0)) | ((ratio > 1.2) & (a > 0))).mean(), rel=1e-5
  )
  assert said['kl_old'] == pytest.approx((np.exp(new - old) - (new - old) - 1).mean(), rel=1e-4)
  assert said['entropy'] == pytest.approx(entropy[chosen].mean(), rel=1e-5)
  assert said['correction'] == pytest.approx(
    np.minimum(np.exp(old - batch['sampler_logprobs'][chosen]), 2).mean(), rel=1e-4
  )


@pytest.mark.parametrize(
  'wrong,fix',
  [
    ({'ratio': 'tokens'}, "must be one of ('token', 'sequence', 'trajectory')"),
    ({'clip': 'none', 'clip_high': 0.3}, "bind policy_gradient.clip to another value than 'none'"),
    ({'dual_clip': 2.0}, "bind policy_gradient.clip = 'dual'"),
    ({'constant_length': 7}, "bind policy_gradient.aggregation = 'constant_length'"),
    ({'kl_coefficient': 0.2}, "bind policy_gradient.kl to another value than 'none'"),
    ({'correction_cap': 3.0}, 'bind policy_gradient.correction to'),
    ({'clip': 'dual', 'dual_clip': 1.1}, 'raise it above'),
    ({'kl': 'k1'}, 'Bind kl_unbiased = True'),
    ({'clip_low': 1.5}, 'must lie in'),
    ({'temperature': 0.0}, 'must lie in'),
  ],
)
def test_what_cannot_be_or_is_read_by_nothing_is_refused_with_the_reason(wrong, fix):
  with pytest.raises(ValueError, match='policy_gradient') as refused:
    PolicyGradient(**wrong)
  assert fix in str(refused.value)


def test_group_advantages_by_hand():
  rewards, groups = [1.0, 0.0, 0.0, 0.5, 0.5, 0.5], [7, 7, 7, 3, 3, 3]
  sd = math.sqrt(((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2)
  std = advantages_lib.of_completions(rewards, groups, Advantage('group_std'))
  np.testing.assert_allclose(
    std, [2 / 3 / (sd + 1e-4), -1 / 3 / (sd + 1e-4), -1 / 3 / (sd + 1e-4), 0, 0, 0]
  )
  np.testing.assert_allclose(
    advantages_lib.of_completions(rewards, groups, Advantage('group_mean'))[:3],
    [2 / 3, -1 / 3, -1 / 3],
  )
  np.testing.assert_allclose(
    advantages_lib.of_completions(rewards, groups, Advantage('leave_one_out'))[:3], [1, -0.5, -0.5]
  )
  np.testing.assert_allclose(
    advantages_lib.of_completions(rewards, groups, Advantage('batch_mean')).sum(), 0, atol=1e-12
  )
  assert not advantages_lib.of_completions(
    [0.1] * 6, groups, Advantage('group_std')
  ).any()  # the mean of equal numbers is off by rounding; the advantage is not
  with pytest.raises(ValueError, match=r'rollout\.group_size'):
    advantages_lib.of_completions([1.0, 0.0], [1, 2], Advantage('leave_one_out'))


@pytest.mark.parametrize('discount,trace', [(1.0, 1.0), (0.9, 0.0), (0.97, 0.9)])
def test_gae_is_the_sum_of_discounted_residuals(discount, trace):
  rng = np.random.default_rng(0)
  mask = np.array([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 0]])
  rewards, values = rng.normal(size=mask.shape) * mask, rng.normal(size=mask.shape)
  advantages, returns = advantages_lib.gae(rewards, values, mask, Advantage('gae', discount, trace))
  for row in range(2):
    places = np.flatnonzero(mask[row])
    residual = [
      rewards[row, t]
      + discount * (values[row, places[k + 1]] if k + 1 < len(places) else 0)
      - values[row, t]
      for k, t in enumerate(places)
    ]
    for k, t in enumerate(places):
      expected = sum((discount * trace) ** (j - k) * residual[j] for j in range(k, len(places)))
      assert advantages[row, t] == pytest.approx(expected) and returns[row, t] == pytest.approx(
        expected + values[row, t]
      )
  assert not advantages[mask == 0].any()


def test_turn_advantages_compare_returns_from_the_turn_on():
  found = advantages_lib.of_turns(
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0]], [5, 5, 5], Advantage('turn', turn_std=False)
  )
  np.testing.assert_allclose(found[0], [1 - 2 / 3, 1 - 1 / 3, 0])
  np.testing.assert_allclose(found[1], [-2 / 3, -1 / 3, 0])
  np.testing.assert_allclose(found[2], [1 - 2 / 3, -1 / 3])


def test_value_loss_is_the_clipped_square():
  rng = np.random.default_rng(0)
  mask = (rng.random((3, 5)) < 0.7).astype(float)
  values, old, returns = (rng.normal(size=mask.shape) for _ in range(3))
  weights = mask / mask.sum()
  batch = {
    name: jnp.asarray(x, jnp.float32)
    for name, x in (('mask', mask), ('weights', weights), ('returns', returns), ('old_values', old))
  }
  for clip in (0.0, 0.2):
    squares = (values - returns) ** 2
    if clip:
      squares = np.maximum(squares, (old + np.clip(values - old, -clip, clip) - returns) ** 2)
    assert float(
      value_loss(jnp.asarray(values, jnp.float32), batch, Critic(clip=clip))
    ) == pytest.approx((weights * squares / 2).sum(), rel=1e-5)
