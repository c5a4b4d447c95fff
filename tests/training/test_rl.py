"""The loop of reinforcement learning on a task of copying one token: it learns with every named
algorithm, resumes, replays, and stops by name.
"""

import dataclasses
import functools
import json
import math
import shutil

import jax
import numpy as np
import pytest

from aevo_jax import layout
from aevo_jax.config import loading
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.generation.engine import Engine
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import unbind
from aevo_jax.training.losses.advantages import Advantage
from aevo_jax.training.losses.distillation import Distillation
from aevo_jax.training.losses.policy_gradient import PolicyGradient, aggregation_weights
from aevo_jax.training.losses.preference import Dpo
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe.recipe import Optimizer
from aevo_jax.training.rl import gates, loop, pairs, prefix, rewards, rollouts, update
from aevo_jax.training.rl import run as rl_run
from aevo_jax.training.rl.environment import Tally, Turn
from aevo_jax.training.rl.settings import Algorithm, Critic, Gates, Reward, Rl, Rollout, Task
from aevo_jax.training.run_control import RunControl

PAD, EOS, FIRST, LETTERS = 0, 1, 4, 8
CONFIG = ModelConfig(
  vocab_size=FIRST + LETTERS,
  hidden_size=24,
  pattern='M*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=12,
  intermediate_size=32,
  mamba_num_heads=2,
  mamba_head_dim=12,
  ssm_state_size=8,
  chunk_size=16,
)
STRUCTURE, PARAMS = unbind(create(CONFIG, 0))
RULE = transformation(Optimizer(weight_decay=0.1))
ALGORITHMS = sorted(
  path.stem
  for path in (layout.root_file('constitution.gin').parent / 'configs' / 'algorithms').glob('*.gin')
  if path.stem != 'distill'
)  # which has no rewards


class Copy:
  """Shown a letter, say it: 1 for it as the first token. `worth(index)` scales an episode's reward."""

  max_turns = 1

  def __init__(self, worth=lambda index: 1.0):
    self._worth = worth

  def episode(self, index):
    letter, worth = chr(97 + index % LETTERS), self._worth(index)

    class Episode:
      observation, family = letter, 'copy'

      def act(self, action):
        return Turn(
          '',
          {
            'verifiable': worth * float(action.text[:1] == letter),
            'overlong': -float(action.tokens > 2),
          },
          True,
        )

    return Episode()


FORM = rollouts.Format(
  lambda text, first: [3, *(FIRST + ord(c) - 97 for c in text), 2],
  lambda ids: ''.join(chr(97 + i - FIRST) if i >= FIRST else '#' for i in ids),
  (EOS,),
)
SMALL = Algorithm(
  rollout=Rollout(prompts=8, group_size=8, max_new_tokens=3),
  rl=Rl(microbatches=2),
  gates=Gates(window=1000),
)


def engine():
  return Engine(STRUCTURE, eos_ids=[EOS], pad_id=PAD, slots=64, dispatch=4)


def trainer(directory, algorithm=SMALL, environment=None, engine_=None, seed=0):
  return loop.Trainer(
    STRUCTURE,
    PARAMS,
    {},
    RULE,
    engine=engine_ or engine(),
    environment=environment or Copy(),
    form=FORM,
    algorithm=algorithm,
    seed=seed,
    directory=directory,
  )


def rates(steps, rate=1e-2):
  return learning_rates(
    Optimizer(learning_rate=rate, schedule='constant', warmup_fraction=0.0), steps
  )


def metrics(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]


def same(one, other):
  return all(
    np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )


@functools.cache
def named(name, *bindings):
  loading.load(
    [str(layout.root_file('constitution.gin').parent / 'configs' / 'algorithms' / f'{name}.gin')],
    list(bindings),
    search_paths=(),
  )
  return recipe_lib.from_gin().algorithm()


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


def always(episode, reward):
  episode.act = lambda action: Turn('', {'verifiable': reward}, True)
  return episode


def test_the_critic_does_not_move_the_policy():
  params = PARAMS | {
    name: value + 0.1 for name, value in update.critic_params(CONFIG.hidden_size, 0).items()
  }
  rng = np.random.default_rng(0)
  batch = {
    'tokens': rng.integers(FIRST, FIRST + LETTERS, (4, 6)).astype(np.int32),
    'segment_ids': np.ones((4, 6), np.int32),
    'mask': np.ones((4, 6), np.float32),
  }
  loss = lambda p: (
    update.describe(STRUCTURE, p, {}, batch, temperature=1.0, chunk=0)[1] ** 2
  ).sum()
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
  trainer(tmp_path / 'parts', algorithm).train(rates(6), stop=lambda: next(asked))
  resumed = trainer(tmp_path / 'parts', algorithm).train(rates(6))
  assert int(resumed.step) == 6 and same(whole, resumed)
  assert [m['reward'] for m in metrics(tmp_path / 'whole')] == [
    m['reward'] for m in metrics(tmp_path / 'parts')
  ]
  assert [m['staleness'] for m in metrics(tmp_path / 'whole')] == [0, *[int(ahead)] * 5]


class Ragged(Copy):
  """Prompts of one to five letters."""

  def episode(self, index):
    made = super().episode(index)
    made.observation = made.observation * (1 + index % 5)
    return made


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
  own = dataclasses.replace(algorithm, rl=dataclasses.replace(algorithm.rl, shared_prefix=False))
  states = [
    trainer(tmp_path / name, chosen, Ragged()).train(rates(2, rate=1e-3))
    for name, chosen in (('each', own), ('once', algorithm))
  ]
  for each, once in zip(metrics(tmp_path / 'each'), metrics(tmp_path / 'once')):
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
  assert not same(states[0].params, PARAMS)


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
  algorithm, shared, tmp_path, monkeypatch
):
  """Where a step updates once, at the weights that generated, its forward pass stands for the one
  before it.
  """
  algorithm = dataclasses.replace(
    algorithm, rl=dataclasses.replace(algorithm.rl, shared_prefix=shared)
  )
  assert algorithm.updates_where_it_generates
  once = trainer(tmp_path / 'once', algorithm, Ragged()).train(rates(3, rate=1e-3))
  monkeypatch.setattr(Algorithm, 'updates_where_it_generates', False)
  twice = trainer(tmp_path / 'twice', algorithm, Ragged()).train(rates(3, rate=1e-3))
  for one, other in zip(metrics(tmp_path / 'once'), metrics(tmp_path / 'twice'), strict=True):
    assert one.keys() == other.keys()
    for name in one.keys() - {n for n in one if 'second' in n or n == 'tokens_per_s'}:
      assert one[name] == pytest.approx(other[name], rel=1e-3, abs=2e-5, nan_ok=True), name
  for step in ('000000', '000002'):
    one, other = (
      rollouts.read(tmp_path / name / loop.ROLLOUTS / step) for name in ('once', 'twice')
    )
    assert one.arrays.keys() == other.arrays.keys()
    for name, value in one.arrays.items():
      np.testing.assert_allclose(value, other.arrays[name], atol=1e-4, err_msg=name)
  for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(twice.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert not same(once.params, PARAMS)


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


DISTILLED = dataclasses.replace(SMALL, distillation=Distillation('a teacher'))


@functools.cache
def teacher():
  """Another model over the same tokens, surer than a fresh one."""
  structure, params = unbind(create(dataclasses.replace(CONFIG, pattern='*-*-', hidden_size=16), 5))
  return structure, {name: 2 * value for name, value in params.items()}


@pytest.mark.parametrize('shared', [True, False])
def test_distillation_brings_the_student_to_its_teacher(shared, tmp_path):
  algorithm = dataclasses.replace(DISTILLED, rl=dataclasses.replace(SMALL.rl, shared_prefix=shared))
  made = loop.Trainer(
    STRUCTURE,
    PARAMS,
    {},
    RULE,
    engine=engine(),
    environment=Ragged(),
    form=FORM,
    algorithm=algorithm,
    seed=0,
    directory=tmp_path,
    teacher=teacher(),
  )
  made.train(rates(40))
  found = metrics(tmp_path)
  first = rollouts.read(tmp_path / loop.ROLLOUTS / '000000').arrays
  say = lambda structure, params: np.asarray(
    structure.bind(params)(first['tokens'], first['segment_ids']), np.float64
  )[:, :-1]
  log = lambda logits: logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  p, q, mask = log(say(STRUCTURE, PARAMS)), log(say(*teacher())), first['mask'][:, 1:]
  assert found[0]['loss'] == pytest.approx(
    ((np.exp(p) * (p - q)).sum(-1) * mask).sum() / mask.sum(), rel=1e-4
  ) and found[0]['kl_teacher'] == pytest.approx(found[0]['loss'], rel=1e-5)
  assert np.mean([m['kl_teacher'] for m in found[-5:]]) < 0.3 * found[0]['kl_teacher']
  assert {'reward', 'entropy', 'grad_norm', 'grad_snr', 'seconds/update'} <= found[0].keys()


def test_a_teacher_that_cannot_teach_is_refused(tmp_path):
  base = layout.root_file('substrate') / 'base'
  own = tokenizer_lib.load(str(base))
  config = checkpoint.read_config(base)
  structure, params = rl_run.load_teacher(
    str(base), own, dataclasses.replace(config, compute_dtype='bfloat16')
  )
  assert structure.bind(params).config == dataclasses.replace(config, compute_dtype='bfloat16')
  with pytest.raises(ValueError, match='no checkpoint is there'):
    rl_run.load_teacher(str(tmp_path / 'nowhere'), own, config)
  with pytest.raises(ValueError, match="give a teacher with the student's vocab_size"):
    rl_run.load_teacher(
      str(base), own, dataclasses.replace(config, vocab_size=config.vocab_size + 4)
    )
  shutil.copytree(base, tmp_path / 'other')
  text = (tmp_path / 'other' / 'tokenizer.json').read_text()
  (tmp_path / 'other' / 'tokenizer.json').write_text(text.replace('"bits"', '"bytes"'))
  with pytest.raises(ValueError, match='another vocabulary'):
    rl_run.load_teacher(str(tmp_path / 'other'), own, config)
  shutil.copytree(base, tmp_path / 'torn')
  (tmp_path / 'torn' / 'tokenizer.json').write_text(text[:100])
  with pytest.raises(ValueError, match='cannot be read'):
    rl_run.load_teacher(str(tmp_path / 'torn'), own, config)


def test_folded_rows_come_back_where_they_were():
  """Prompts of 3 and 2 tokens, the second followed by a filler group."""
  mask = np.zeros((6, 8), np.float32)
  lengths = [6, 4, 3, 8, 0, 0]
  for row, (start, end) in enumerate(zip((3, 3, 2, 2, 0, 0), lengths)):
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
  arrays, _ = loop.trained_on(rollouts.read(tmp_path / loop.ROLLOUTS / '000000'), algorithm)
  arrays['weights'] = aggregation_weights(arrays['mask'], algorithm.loss)
  value, _ = update.make_loss(STRUCTURE, algorithm.loss, algorithm.critic)(before, {}, arrays)
  assert float(value) == pytest.approx(metrics(tmp_path)[0]['loss'], rel=1e-4, abs=1e-6)


def test_samples_come_back_from_their_log_as_they_were(tmp_path):
  made = engine()
  made.update(PARAMS, 3)
  samples = rollouts.generate(made, Copy(), FORM, range(2), SMALL.rollout, made_sampling(), 5)
  batch = rollouts.Batch(tuple(samples), rollouts.arrays(samples, 20), {'version': 3})
  rollouts.write(tmp_path / 'x', batch)
  found = rollouts.read(tmp_path / 'x')
  assert [dataclasses.replace(s, logprobs=()) for s in found.samples] == [
    dataclasses.replace(s, logprobs=()) for s in samples
  ]
  np.testing.assert_array_equal(
    [p for s in found.samples for p in s.logprobs],
    np.float32([p for s in samples for p in s.logprobs]),
  )
  assert all(np.array_equal(found.arrays[name], value) for name, value in batch.arrays.items())


def made_sampling():
  return loop.Sampling(max_new_tokens=3)


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
  with pytest.raises(gates.StoppedError, match='gates.logprob_gap') as stopped:
    trainer(tmp_path, engine_=wrong).train(rates(3))
  assert stopped.value.rule == 'logprob_gap' and str(stopped.value).count('sampler -') >= 3
  assert not (tmp_path / 'checkpoints').exists()


def test_a_profile_and_few_checkpoints_are_kept_where_they_are_asked_for(tmp_path):
  trainer(tmp_path).train(
    rates(5),
    checkpoint_every=1,
    upkeep=RunControl(keep_checkpoints=2, profile_first=2, profile_steps=1),
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
  batch, said = rollouts.read(tmp_path / loop.ROLLOUTS / '000000'), metrics(tmp_path)[0]
  assert batch.samples and all(group // LETTERS % 2 for group in {s.group for s in batch.samples})
  assert (
    said['groups_drawn'] > said['groups_kept'] and len(batch.samples) == 8 * said['groups_kept']
  )


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
  tokens = lambda text: [words[part] for word in text.split(' ') for part in (word, ' ')][:-1]
  form = rollouts.Format(
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
    samples = rollouts.generate(
      Said(answer),
      environment,
      form,
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
      assert all((p == -0.5) == drawn for p, drawn in zip(sample.logprobs, sample.mask))
  assert {len(environment.decision_turns(i)) for i in range(20)} == {2} and len(
    {environment.decision_turns(i) for i in range(20)}
  ) > 3
  assert environment.episode(7).observation == environment.episode(7).observation
  with pytest.raises(ValueError, match='cannot decide'):
    Tally(turns=2, decisions=3)


def test_pairs_are_the_best_and_the_worst_of_a_group():
  sample = lambda group, member, reward: rollouts.Sample(
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
  sample = lambda member, earned: rollouts.Sample(
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
  found, variance = loop.trained_on(dataclasses.replace(batch, arrays=arrays), algorithm)
  np.testing.assert_allclose(
    found['advantages'][:, :6], [[0, 0.5, 0.5, 0, 0, 0], [0, -0.5, -0.5, 0, 0, 0]]
  )
  assert variance == pytest.approx(0.125)


def test_parts_of_the_reward_by_hand():
  of = lambda text, tokens=4, ended=True, **settings: rewards.parts(
    text,
    'numeral_conversion',
    'XIV',
    tokens=tokens,
    max_new_tokens=20,
    ended=ended,
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
  with pytest.raises(gates.StoppedError, match='optimizer.learning_rate|entropy_bonus') as stopped:
    rules.check(whole[-1])
  assert stopped.value.rule == rule
  before = gates.StopRules(Gates(**settings))
  for m in whole[:-1]:
    before.check(m)
  with pytest.raises(gates.StoppedError):
    gates.StopRules(Gates(**settings), json.loads(json.dumps(before.seen()))).check(whole[-1])


def test_a_resumed_run_remembers_its_best_window_and_not_the_last_alone():
  settings = Gates(reward_drop=0.3, window=2)
  step = lambda reward: {'loss': 0.0, 'grad_norm': 0.0, 'entropy': math.nan, 'reward': reward}
  rules = gates.StopRules(settings)
  for reward in (0.9, 0.9, 0.7, 0.65):
    rules.check(step(reward))
  resumed = gates.StopRules(settings, rules.seen())
  with pytest.raises(gates.StoppedError, match='0.9 at best'):
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
