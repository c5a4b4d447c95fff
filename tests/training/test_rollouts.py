"""Rollouts: turns, logs, rewards, pairs and advantages of tokens."""

import dataclasses

import numpy as np
import pytest
from rl_cases import EOS, FORM, PARAMS, SMALL, Copy, engine, made_sampling

from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.recipe.rl_settings import Reward, Rl, Rollout
from aevo_jax.training.rl.rollouts import generation, pairs, rewards, rollout_log, rollouts
from aevo_jax.training.rl.rollouts.environment import Action, Tally
from aevo_jax.training.rl.rollouts.generation import Format, RolloutSource
from aevo_jax.training.rl.token_advantages import loss_inputs


def test_samples_come_back_from_their_log_as_they_were(tmp_path):
  made = engine()
  made.update(PARAMS, 3)
  samples = generation.generate(
    RolloutSource(made, Copy(), FORM), range(2), SMALL.rollout, made_sampling(), 5
  )
  batch = rollouts.Batch(tuple(samples), rollouts.arrays(samples, 20), {'version': 3})
  rollout_log.write(tmp_path / 'x', batch)
  found = rollout_log.read(tmp_path / 'x')
  assert [dataclasses.replace(s, logprobs=()) for s in found.samples] == [
    dataclasses.replace(s, logprobs=()) for s in samples
  ]
  np.testing.assert_array_equal(
    [p for s in found.samples for p in s.logprobs],
    np.float32([p for s in samples for p in s.logprobs]),
  )
  assert all(np.array_equal(found.arrays[name], value) for name, value in batch.arrays.items())


class Said:
  """An engine that says what it is told, token by token."""

  version = 0

  def __init__(self, answer):
    self._answer = answer

  def generate(self, requests, sampling):
    from aevo_jax.generation.protocol import Completion

    out = [(*self._answer(r.prompt), EOS) for r in requests]
    return [Completion(tokens, tuple(-0.5 for _ in tokens), 'end', 0) for tokens in out]


def test_tallies_are_credited_turn_by_turn():
  """A policy that answers decisions right, and one that does not; routine turns earn nothing."""
  words = {
    w: i for i, w in enumerate(['<eos>', '', 'add', 'calc', 'code', ' ', *'0123456789'], start=1)
  }
  names = {i: w for w, i in words.items()}

  def tokens(text):
    return [words[part] for word in text.split(' ') for part in (word, ' ')][:-1]

  form = Format(
    lambda text, first: tokens(text), lambda ids: ''.join(names[i] for i in ids), (EOS,)
  )
  environment = Tally(turns=4, decisions=2, seed=3)

  def right(prompt):
    said = ' '.join(names[i] for i in prompt if names[i] not in (' ', '<eos>'))
    offset, last = int(said.split()[1]), said.split('calc')[-1].split()
    return (
      [words[str((int(last[0]) + offset) % 10)]]
      if 'calc' in said and len(last) == 1
      else [words['code']]
    )

  for answer, worth in ((right, 1.0), (lambda prompt: [words['code']], 0.0)):
    samples = generation.generate(
      RolloutSource(Said(answer), environment, form),
      range(5),
      dataclasses.replace(SMALL.rollout, group_size=1),
      made_sampling(),
      0,
    )
    for sample in samples:
      decides = environment.decision_turns(sample.group)
      assert [r['verifiable'] for r in sample.rewards] == [
        worth / 2 if turn in decides else 0.0 for turn in range(4)
      ]
      assert [u for u in dict.fromkeys(sample.turns) if u >= 0] == [
        0,
        1,
        2,
        3,
      ] and sample.mask.sum() == 8  # an answer and its end, four times
      assert all(
        (p == -0.5) == drawn for p, drawn in zip(sample.logprobs, sample.mask, strict=True)
      )
  assert {len(environment.decision_turns(i)) for i in range(20)} == {2} and len(
    {environment.decision_turns(i) for i in range(20)}
  ) > 3
  assert environment.episode(7).observation == environment.episode(7).observation
  with pytest.raises(ValueError, match='cannot decide'):
    Tally(turns=2, decisions=3)


def test_pairs_are_the_best_and_the_worst_of_a_group():
  def sample(group, member, reward):
    return rollouts.Sample(
      group, member, 0, 'x', (3, 1), (-1, 0), (0.0, -1.0), ({'verifiable': reward},), 'end', ''
    )

  samples = [
    sample(7, 0, 0.0),
    sample(7, 1, 1.0),
    sample(7, 2, 1.0),
    sample(3, 0, 0.5),
    sample(3, 1, 0.5),
    sample(9, 0, 1.0),
    sample(9, 1, 0.2),
  ]
  found = pairs.of_rollouts(samples, Reward())
  assert found == [(1, 0), (5, 6)]  # group 3 has no worse one
  rows, weights = pairs.rows(found, 3)
  assert rows.tolist() == [1, 0, 5, 6, 0, 0] and weights.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]


def test_turn_advantages_reach_the_tokens_of_their_turns():
  algorithm = dataclasses.replace(
    SMALL,
    advantage=Advantage(kind='turn', turn_std=False),
    rollout=Rollout(prompts=1, group_size=2),
    rl=Rl(microbatches=1),
  )

  def sample(member, earned):
    return rollouts.Sample(
      0,
      member,
      0,
      'x',
      (3, 5, 1, 4, 6, 1),
      (-1, 0, 0, -1, 1, 1),
      (0, -1, -1, 0, -1, -1),
      tuple({'verifiable': e} for e in earned),
      'end',
      '',
    )

  batch = rollouts.Batch((sample(0, (1, 0)), sample(1, (0, 0))), {}, {})
  arrays = rollouts.arrays(batch.samples, 2)
  arrays['old_logprobs'] = arrays['sampler_logprobs']
  found, variance = loss_inputs(dataclasses.replace(batch, arrays=arrays), algorithm)
  np.testing.assert_allclose(
    found['advantages'][:, :6], [[0, 0.5, 0.5, 0, 0, 0], [0, -0.5, -0.5, 0, 0, 0]]
  )
  assert variance == pytest.approx(0.125)


def test_parts_of_the_reward_by_hand():

  def of(text, tokens=4, ended=True, **settings):
    return rewards.parts(
      Action(text, tokens, ended),
      'numeral_conversion',
      'XIV',
      max_new_tokens=20,
      settings=Reward(**settings),
    )

  assert of('so \\boxed{XIV}') == {'verifiable': 1.0, 'format': 1.0, 'length': 0.8, 'overlong': 0.0}
  assert of('\\boxed{XIV} or so')['format'] == 0 and of('\\boxed{XIV} or so')['verifiable'] == 1
  assert of('\\boxed{XIV}', ended=False)['verifiable'] == 0 and of('XIV')['verifiable'] == 0
  assert [of('', n, overlong=1.0, overlong_buffer=8)['overlong'] for n in (12, 14, 20, 25)] == [
    0,
    -0.25,
    -1,
    -1,
  ]  # DAPO, equation 13
  settings = Reward(verifiable=2.0, overlong=1.0, overlong_buffer=8)
  assert (
    rewards.total({'verifiable': 1.0, 'format': 1.0, 'length': 0.3, 'overlong': -0.5}, settings)
    == 1.5
  )
  said = rewards.summary(
    [{'verifiable': 1.0, 'overlong': 0.0}, {'verifiable': 0.0, 'overlong': 0.0}], settings
  )
  assert said == {
    'reward/verifiable': 0.5,
    'reward/overlong': 0.0,
    'reward_share/verifiable': 1.0,
    'reward_share/overlong': 0.0,
  }
  assert rewards.summary([{'verifiable': 0.1}] * 3, Reward()) == {
    'reward/verifiable': pytest.approx(0.1),
    'reward_share/verifiable': 0.0,
  }
