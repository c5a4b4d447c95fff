"""What goes through the model once, a prompt or an update's rows, changes nothing but rounding."""

import dataclasses

import jax
import numpy as np
import pytest
from rl_cases import PARAMS, SMALL, STRUCTURE, Ragged, hybrid, metrics, rates, same, trainer

from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.recipe.rl_settings import Algorithm, Rl
from aevo_jax.training.rl import loop, prefix
from aevo_jax.training.rl.rollouts import rollout_log


@pytest.mark.parametrize(
  'algorithm',
  [
    dataclasses.replace(SMALL, loss=PolicyGradient(kl='k3'), rl=Rl(minibatches=2, microbatches=2)),
    dataclasses.replace(SMALL, advantage=Advantage(kind='gae')),
    dataclasses.replace(SMALL, preference=Dpo()),
    dataclasses.replace(SMALL, rollout=dataclasses.replace(SMALL.rollout, dynamic_sampling=True)),
  ],
  ids=['group', 'gae', 'dpo', 'dynamic'],
)
def test_prompts_that_go_through_the_model_once_change_nothing_but_rounding(algorithm, tmp_path):
  model = hybrid() if algorithm.rl.minibatches > 1 else (STRUCTURE, PARAMS)
  own = dataclasses.replace(algorithm, rl=dataclasses.replace(algorithm.rl, shared_prefix=False))
  states = [
    trainer(tmp_path / name, chosen, Ragged(), model=model).train(rates(2, rate=1e-3))
    for name, chosen in (('each', own), ('once', algorithm))
  ]
  for each, once in zip(metrics(tmp_path / 'each'), metrics(tmp_path / 'once'), strict=True):
    assert each.keys() == once.keys()
    for name in each.keys() & {
      'reward',
      'loss',
      'entropy',
      'grad_norm',
      'logprob_gap_kl',
      'advantage_variance',
      'kl_reference',
      'margin',
      'pairs',
    }:
      assert once[name] == pytest.approx(each[name], rel=1e-3, abs=1e-5), name
  for a, b in zip(*(jax.tree.leaves(s.params) for s in states), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert not same(states[0].params, model[1])


class DescribedBefore(Algorithm):
  """Takes log-probabilities before the update, even where the update would give them."""

  updates_where_it_generates = False


@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize(
  'algorithm',
  [
    SMALL,
    dataclasses.replace(
      SMALL, loss=PolicyGradient(kl='k3', correction='truncate', entropy_bonus=0.01)
    ),
    dataclasses.replace(SMALL, rollout=dataclasses.replace(SMALL.rollout, dynamic_sampling=True)),
  ],
  ids=['plain', 'reference', 'dynamic'],
)
def test_an_update_that_gives_the_rollouts_log_probabilities_changes_nothing_but_rounding(
  algorithm, shared, tmp_path
):
  """Where a step updates once, at the weights that generated, its forward pass stands for the one
  before it.
  """
  algorithm = dataclasses.replace(
    algorithm, rl=dataclasses.replace(algorithm.rl, shared_prefix=shared)
  )
  assert algorithm.updates_where_it_generates
  plain = algorithm == dataclasses.replace(SMALL, rl=algorithm.rl)
  model = hybrid() if plain else (STRUCTURE, PARAMS)
  before = DescribedBefore(**vars(algorithm))
  once = trainer(tmp_path / 'once', algorithm, Ragged(), model=model).train(rates(3, rate=1e-3))
  twice = trainer(tmp_path / 'twice', before, Ragged(), model=model).train(rates(3, rate=1e-3))
  for one, other in zip(metrics(tmp_path / 'once'), metrics(tmp_path / 'twice'), strict=True):
    assert one.keys() == other.keys()
    for name in one.keys() - {n for n in one if 'second' in n or n == 'tokens_per_s'}:
      assert one[name] == pytest.approx(other[name], rel=1e-3, abs=2e-5, nan_ok=True), name
  for step in ('000000', '000002'):
    one, other = (
      rollout_log.read(tmp_path / name / loop.ROLLOUTS / step) for name in ('once', 'twice')
    )
    assert one.arrays.keys() == other.arrays.keys()
    for name, value in one.arrays.items():
      np.testing.assert_allclose(value, other.arrays[name], atol=1e-4, err_msg=name)
  for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(twice.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert not same(once.params, model[1])


def test_updates_that_need_the_old_policy_before_ask_for_it():
  other = [
    dataclasses.replace(SMALL, **change)
    for change in (
      {'rl': Rl(minibatches=2)},
      {'rl': Rl(epochs=2)},
      {'advantage': Advantage(kind='gae')},
      {'preference': Dpo()},
      {'rollout': dataclasses.replace(SMALL.rollout, asynchronous=True)},
      {'loss': PolicyGradient(kl='k1', kl_in='reward')},
      {'distillation': Distillation('a teacher')},
    )
  ]
  assert SMALL.updates_where_it_generates and not any(a.updates_where_it_generates for a in other)


def test_folded_rows_come_back_where_they_were():
  """Prompts of 3 and 2 tokens, the second followed by a filler group."""
  mask = np.zeros((6, 8), np.float32)
  lengths = [6, 4, 3, 8, 0, 0]
  for row, (start, end) in enumerate(zip((3, 3, 2, 2, 0, 0), lengths, strict=True)):
    mask[row, start:end] = 1
  segments = (np.arange(8) < np.array(lengths)[:, None]).astype(np.int32)
  tokens = np.arange(1, 49).reshape(6, 8) * segments
  tokens[1, :3], tokens[3, :2] = tokens[0, :3], tokens[2, :2]
  arrays = {
    'tokens': tokens,
    'segment_ids': segments,
    'mask': mask,
    'weights': mask * 0.5,
    'pair_weights': np.arange(6),
  }
  folded = prefix.fold(arrays, 2)
  assert folded['prompt_ids'].sum(axis=1).tolist() == [3, 2, 0] and folded['prompt_tokens'][
    0, -3:
  ].tolist() == [1, 2, 3]
  assert (
    folded['tokens'][0, :5].tolist() == [3, 4, 5, 6, 0]
    and folded['mask'][3, :8].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    and folded['pair_weights'].tolist() == list(range(6))
  )
  np.testing.assert_array_equal(prefix.unfold(folded['weights'], arrays), arrays['weights'])
  np.testing.assert_array_equal(prefix.unfold(folded['tokens'], arrays), tokens * mask)
