"""Rules that stop a run, and settings that cannot be."""

import json
import math

import numpy as np
import pytest

from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe.rl_settings import Algorithm, Critic, Gates, Reward, Rl, Rollout, Task
from aevo_jax.training.rl import (
  gates,
  update,
)


@pytest.mark.parametrize(
  'settings,metrics_,rule',
  [
    ({}, [{'loss': math.nan}], 'finite'),
    ({'grad_norm': 5.0}, [{'grad_norm': 6.0}], 'grad_norm'),
    ({'kl': 0.5}, [{'kl_reference': 0.6, 'kl_old': 0.0}], 'kl'),
    ({'kl': 0.5}, [{'kl_old': 0.6}], 'kl'),
    (
      {'entropy': 0.2, 'window': 2},
      [{'entropy': 0.5}, {'entropy': 0.1}, {'entropy': 0.1}],
      'entropy',
    ),
    (
      {'reward_drop': 0.3, 'window': 2},
      [{'reward': 0.8}, {'reward': 0.8}, {'reward': 0.4}, {'reward': 0.4}],
      'reward_drop',
    ),
  ],
)
def test_rules_stop_by_name_at_the_last_of_these_steps(settings, metrics_, rule):
  whole = [{'loss': 0.1, 'grad_norm': 1.0, 'entropy': 1.0, 'reward': 0.5} | m for m in metrics_]
  rules = gates.StopRules(Gates(**settings))
  for m in whole[:-1]:
    rules.check(m)
  with pytest.raises(
    gates.StoppedError, match=r'optimizer\.learning_rate|entropy_bonus'
  ) as stopped:
    rules.check(whole[-1])
  assert stopped.value.rule == rule
  before = gates.StopRules(Gates(**settings))
  for m in whole[:-1]:
    before.check(m)
  with pytest.raises(gates.StoppedError):
    gates.StopRules(Gates(**settings), json.loads(json.dumps(before.memory()))).check(whole[-1])


def test_a_resumed_run_remembers_its_best_window_and_not_the_last_alone():
  settings = Gates(reward_drop=0.3, window=2)

  def step(reward):
    return {'loss': 0.0, 'grad_norm': 0.0, 'entropy': math.nan, 'reward': reward}

  rules = gates.StopRules(settings)
  for reward in (0.9, 0.9, 0.7, 0.65):
    rules.check(step(reward))
  resumed = gates.StopRules(settings, rules.memory())
  with pytest.raises(gates.StoppedError, match=r'0\.9 at best'):
    resumed.check(step(0.4))


def test_the_gradients_signal_to_noise_is_that_of_its_parts():
  rng = np.random.default_rng(0)
  signal, noise, parts = np.array([3.0, 4.0]), 2.0, 4
  found = []
  for _ in range(4000):
    g = (signal + noise * rng.normal(size=(parts, 2))) / parts
    norm, squares = np.linalg.norm(g.sum(axis=0)), (g**2).sum()
    snr = float(update.signal_to_noise(norm, squares, parts))
    found.append(snr)
  # |g|^2 = 25 and the variance of the mean of four, in two dimensions, is 2 * 4 / 4.
  assert np.median(found) == pytest.approx(math.sqrt(25 / 2), rel=0.15)
  assert math.isnan(float(update.signal_to_noise(1.0, 1.0, 1)))


@pytest.mark.parametrize(
  'wrong,reason',
  [
    ({'rollout': Rollout(group_size=1), 'rl': Rl(microbatches=1)}, 'bind it to 2 or more'),
    (
      {'advantage': Advantage(kind='gae'), 'loss': PolicyGradient(ratio='sequence')},
      "policy_gradient.ratio = 'token'",
    ),
    (
      {'advantage': Advantage(kind='turn'), 'loss': PolicyGradient(ratio='trajectory')},
      "policy_gradient.ratio = 'token'",
    ),
    ({'critic': Critic(coefficient=0.5)}, 'read by nothing'),
    ({'loss': PolicyGradient(clip='none'), 'rl': Rl(epochs=2)}, 'bounds that by nothing'),
    (
      {'loss': PolicyGradient(clip='none'), 'rollout': Rollout(asynchronous=True)},
      'rollout.asynchronous = False',
    ),
    (
      {'advantage': Advantage(kind='turn'), 'loss': PolicyGradient(kl='k1', kl_in='reward')},
      'advantage.turn_std = False',
    ),
    ({'reward': Reward(overlong=1.0, overlong_buffer=100)}, 'is longer than'),
    ({'loss': PolicyGradient(aggregation='constant_length', constant_length=8)}, 'bind it to that'),
    ({'rl': Rl(microbatches=3)}, 'do not divide'),
    ({'task': Task('tally'), 'reward': Reward(format=0.5)}, 'has one reward'),
    ({'rl': Rl(microbatches=16, shared_prefix=True)}, 'keeps groups whole'),
    (
      {'distillation': Distillation('x'), 'loss': PolicyGradient(clip='dual')},
      'only temperature, aggregation',
    ),
    ({'distillation': Distillation()}, 'needs distillation.teacher'),
    ({'distillation': Distillation('x'), 'reward': Reward(format=0.5)}, 'judges every token'),
    ({'distillation': Distillation('x'), 'gates': Gates(kl=1.0)}, 'gates.kl'),
    ({'distillation': Distillation('x'), 'critic': Critic(coefficient=0.5)}, 'judges every token'),
    ({'preference': Dpo(), 'advantage': Advantage(kind='group_mean')}, 'advantage (but for'),
    ({'preference': Dpo(), 'rl': Rl(minibatches=2)}, 'rl.minibatches = 1'),
  ],
)
def test_combinations_that_cannot_be_are_refused_with_the_reason(wrong, reason):
  with pytest.raises(ValueError) as refused:
    Algorithm(**wrong)
  assert reason in str(refused.value)


@pytest.mark.parametrize(
  'wrong',
  [
    lambda: Reward(verifiable=0.0),
    lambda: Reward(overlong_buffer=4),
    lambda: Rollout(max_batches=2),
    lambda: Advantage(trace=0.5),
    lambda: Rollout(group_size=1, dynamic_sampling=True),
    lambda: Gates(window=0),
    lambda: recipe_lib.Method('ppo'),
    lambda: Reward(verifier='exact'),
  ],
)
def test_settings_that_nothing_reads_or_that_cannot_be_are_refused(wrong):
  with pytest.raises(ValueError):
    wrong()
