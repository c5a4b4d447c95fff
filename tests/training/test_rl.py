"""The loop of reinforcement learning: it learns with every named algorithm, resumes, replays, and
stops by name.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_cases import (
  ALGORITHMS,
  CONFIG,
  EOS,
  FIRST,
  LETTERS,
  PAD,
  PARAMS,
  SMALL,
  STRUCTURE,
  Copy,
  always,
  metrics,
  named,
  rates,
  same,
  trainer,
)

from aevo_jax import layout
from aevo_jax.generation.engine import Engine
from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient, aggregation_weights
from aevo_jax.training.recipe.rl_settings import Gates
from aevo_jax.training.rl import critic, gates, loop, update
from aevo_jax.training.rl.rollouts import rollout_log
from aevo_jax.training.rl.token_advantages import loss_inputs
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.run_control import RunControl


@pytest.mark.parametrize('name', ALGORITHMS)
def test_every_named_algorithm_raises_the_reward_of_training(name, tmp_path):
  algorithm = named(
    name,
    'rollout.prompts = 8',
    'rollout.group_size = 8',
    'rollout.max_new_tokens = 3',
    'rl.microbatches = 1',
    *(['reward.overlong_buffer = 2'] if name == 'dapo' else []),
  )
  trainer(tmp_path, algorithm).train(rates(60))
  found = metrics(tmp_path)
  rewarded = [m['reward/verifiable'] for m in found]
  assert np.mean(rewarded[-8:]) > np.mean(rewarded[:8]) + 0.15, rewarded
  assert max(m['logprob_gap_max'] for m in found) < 1e-4 and all(m['staleness'] == 0 for m in found)


def test_the_named_algorithms_are_short_and_differ():
  assert len({named(name) for name in ALGORITHMS}) == len(ALGORITHMS) == 8
  assert named('distill', 'distillation.teacher = "x"').distillation == Distillation('x')
  for name in (*ALGORITHMS, 'distill'):
    text = (
      layout.root_file('constitution.gin').parent / 'configs' / 'algorithms' / f'{name}.gin'
    ).read_text()
    assert len(text.splitlines()) <= 15 and 'Promise:' in text


@pytest.mark.parametrize('kind', ['group_std', 'batch_mean', 'gae'])
def test_equal_rewards_move_no_parameter_and_are_reported(kind, tmp_path):
  made = trainer(
    tmp_path,
    dataclasses.replace(SMALL, advantage=Advantage(kind=kind)),
    Copy(worth=lambda index: 0.0),
  )
  before = jax.tree.map(np.array, made._state.params)
  after = made.train(rates(2)).params
  assert same(before, after)
  assert all(m['no_signal'] == 1 and m['grad_norm'] == 0 for m in metrics(tmp_path))


@pytest.mark.parametrize(
  'loss', [PolicyGradient(), PolicyGradient(kl='k1', kl_in='reward')], ids=['plain', 'penalty']
)
def test_groups_that_differ_only_from_each_other_move_nothing_either(loss, tmp_path):
  """All right in some groups, all wrong in the others: GRPO compares within groups."""
  environment = Copy()
  environment.episode = lambda index, make=environment.episode: always(
    make(index), float(index % 2)
  )
  made = trainer(tmp_path, dataclasses.replace(SMALL, loss=loss), environment)
  before = jax.tree.map(np.array, made._state.params)
  assert same(before, made.train(rates(2)).params)
  assert all(m['no_signal'] == 1 and m['reward'] == 0.5 for m in metrics(tmp_path))


def test_the_critic_does_not_move_the_policy():
  params = PARAMS | {
    name: value + 0.1 for name, value in critic.init(CONFIG.hidden_size, 0).items()
  }
  rng = np.random.default_rng(0)
  batch = {
    'tokens': jnp.asarray(rng.integers(FIRST, FIRST + LETTERS, (4, 6)), np.int32),
    'segment_ids': jnp.ones((4, 6), np.int32),
    'mask': jnp.ones((4, 6), np.float32),
  }

  def loss(p):
    return (update.describe(STRUCTURE, p, {}, batch, temperature=1.0, chunk=0)[1] ** 2).sum()

  moved = {name for name, g in jax.grad(loss)(params).items() if np.abs(g).max() > 0}
  assert moved == {'critic.up', 'critic.down'}


@pytest.mark.parametrize('kind', ['group_std', 'gae', 'batch_mean'])
def test_a_step_whose_groups_were_all_left_out_goes_by(kind, tmp_path):
  rollout = dataclasses.replace(SMALL.rollout, dynamic_sampling=True, max_batches=2)
  algorithm = dataclasses.replace(
    SMALL, rollout=rollout, advantage=Advantage(kind=kind), gates=Gates(entropy=0.5, window=1)
  )
  trainer(tmp_path, algorithm, Copy(worth=lambda index: 0.0)).train(rates(2))
  assert all(
    m['groups_kept'] == 0 and m['groups_drawn'] == 16 and m['no_signal'] == 1
    for m in metrics(tmp_path)
  )


@pytest.mark.parametrize('ahead', [False, True])
def test_an_interrupted_run_goes_on_to_the_same_weights(ahead, tmp_path):
  algorithm = dataclasses.replace(
    SMALL, rollout=dataclasses.replace(SMALL.rollout, asynchronous=ahead)
  )
  whole = trainer(tmp_path / 'whole', algorithm).train(rates(6))
  asked = iter([False, False, True])
  trainer(tmp_path / 'parts', algorithm).train(rates(6), RunConfig(stop=lambda: next(asked)))
  resumed = trainer(tmp_path / 'parts', algorithm).train(rates(6))
  assert int(resumed.step) == 6 and same(whole, resumed)
  assert [m['reward'] for m in metrics(tmp_path / 'whole')] == [
    m['reward'] for m in metrics(tmp_path / 'parts')
  ]
  assert [m['staleness'] for m in metrics(tmp_path / 'whole')] == [0, *[int(ahead)] * 5]


@pytest.mark.parametrize(
  'algorithm',
  [
    dataclasses.replace(SMALL, loss=PolicyGradient(kl='k3', correction='truncate')),
    dataclasses.replace(SMALL, advantage=Advantage(kind='gae')),
    dataclasses.replace(
      SMALL,
      loss=PolicyGradient(kl='k1', kl_in='reward', ratio='trajectory'),
      advantage=Advantage(kind='leave_one_out'),
    ),
  ],
  ids=['group', 'gae', 'rloo'],
)
def test_a_batch_read_from_its_log_gives_the_same_loss(algorithm, tmp_path):
  made = trainer(tmp_path, algorithm)
  before = jax.tree.map(np.array, made._state.params)
  made.train(rates(1))
  arrays, _ = loss_inputs(rollout_log.read(tmp_path / loop.ROLLOUTS / '000000'), algorithm)
  arrays['weights'] = aggregation_weights(arrays['mask'], algorithm.loss)
  config = update.StepConfig(algorithm.loss, algorithm.critic)
  before, arrays = jax.tree.map(jnp.asarray, (before, arrays))
  value, _ = update.make_loss(STRUCTURE, config)(before, {}, arrays)
  assert float(value) == pytest.approx(metrics(tmp_path)[0]['loss'], rel=1e-4, abs=1e-6)


class WrongWeights(Engine):
  """Generates with weights that are a little off, as a sync that went wrong would leave them."""

  def update(self, params, version):
    super().update(
      {
        name: value
        + (0.05 if name.endswith('lm_head.kernel') or name == 'embedding' else 0)
        * np.sign(np.sin(np.arange(value.size))).reshape(value.shape).astype(np.float32)
        for name, value in params.items()
      },
      version,
    )


def test_wrong_weights_in_the_sampler_stop_the_run_with_the_worst_tokens(tmp_path):
  wrong = WrongWeights(STRUCTURE, eos_ids=[EOS], pad_id=PAD, slots=64)
  with pytest.raises(gates.StoppedError, match=r'gates\.logprob_gap') as stopped:
    trainer(tmp_path, engine_=wrong).train(rates(3))
  assert stopped.value.rule == 'logprob_gap' and str(stopped.value).count('sampler -') >= 3
  assert not (tmp_path / 'checkpoints').exists()


def test_a_profile_and_few_checkpoints_are_kept_where_they_are_asked_for(tmp_path):
  trainer(tmp_path).train(
    rates(5),
    RunConfig(
      checkpoint_every=1,
      control=RunControl(keep_checkpoints=2, profile_first=2, profile_steps=1),
    ),
  )
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == [
    'step_00000004',
    'step_00000005',
  ]
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_dynamic_sampling_draws_groups_without_signal_again(tmp_path):
  rollout = dataclasses.replace(SMALL.rollout, dynamic_sampling=True, max_batches=6)
  made = trainer(
    tmp_path,
    dataclasses.replace(SMALL, rollout=rollout),
    Copy(worth=lambda index: float(index // LETTERS % 2)),
  )
  made.train(rates(1))
  batch, said = rollout_log.read(tmp_path / loop.ROLLOUTS / '000000'), metrics(tmp_path)[0]
  assert batch.samples and all(group // LETTERS % 2 for group in {s.group for s in batch.samples})
  assert (
    said['groups_drawn'] > said['groups_kept'] and len(batch.samples) == 8 * said['groups_kept']
  )
