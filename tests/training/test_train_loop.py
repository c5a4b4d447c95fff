"""The loop: it learns, resumes bit for bit, stops at what is not finite, and keeps its hands off
its caller's arrays.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.checkpoint import orbax_io
from aevo_jax.data import pipeline, tokenizer
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe.recipe import Optimizer, Train, TrainConfig
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_loop import NonFiniteError, train
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import balance, make_train_step

CONFIG = ModelConfig(
  vocab_size=tokenizer.build().get_vocab_size(),
  hidden_size=16,
  pattern='M*',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=32,
  mamba_num_heads=2,
  mamba_head_dim=8,
  ssm_state_size=8,
  chunk_size=32,
)
STRUCTURE, PARAMS = unbind(create(CONFIG, seed=0))
MODEL = PolicyModel(STRUCTURE, PARAMS, {})
BEFORE = {name: np.array(value) for name, value in PARAMS.items()}


class Repeated:
  """One batch again and again; at step `spoil_at` its weights are NaN. Counts, like a Grain
  iterator, where it is.
  """

  def __init__(self, spoil_at=None):
    tokens = np.random.default_rng(0).integers(0, 20, (2, 12)).astype(np.int32)
    self.batch = {
      'tokens': tokens,
      'segment_ids': np.ones_like(tokens),
      'weights': np.ones(tokens.shape, np.float32),
    }
    self.position, self.spoil_at = 0, spoil_at

  def __next__(self):
    self.position += 1
    return (
      self.batch | {'weights': self.batch['weights'] * np.float32('nan')}
      if self.position - 1 == self.spoil_at
      else self.batch
    )

  def get_state(self):
    return {'position': self.position}

  def set_state(self, state):
    self.position = state['position']


def run_of(steps, **fields):
  """The optimizer and its learning rates."""
  config = Optimizer(
    **{'learning_rate': 1e-2, 'schedule': 'constant', 'weight_decay': 0.0} | fields
  )
  return transformation(config), learning_rates(config, steps)


def metrics(directory):
  return [
    json.loads(line, parse_constant=pytest.fail)
    for line in (directory / 'metrics.jsonl').read_text().splitlines()
  ]


def assert_same_bits(one, other):
  one, other = jax.tree.leaves(one), jax.tree.leaves(other)
  assert len(one) == len(other) > 0
  for a, b in zip(one, other, strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_tiny_batch_is_learnt_by_heart(tmp_path):
  seen = []
  tx, rates = run_of(120)
  state = train(
    MODEL,
    tx,
    Repeated(),
    rates,
    tmp_path,
    TrainConfig(),
    RunConfig(on_step=lambda step, scalars: seen.append(step)),
  )
  rows = metrics(tmp_path)
  assert [row['step'] for row in rows] == seen == list(range(120)) and int(state.step) == 120
  assert rows[0]['loss'] > 3 and rows[-1]['loss'] < 0.05
  assert {'loss', 'grad_norm', 'loss_tokens', 'seconds'} <= rows[0].keys()
  assert list((tmp_path / 'tensorboard').iterdir())
  # Only the last state is saved, and it is the one returned.
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['step_00000120']
  assert_same_bits(
    orbax_io.restore(orbax_io.step_directory(tmp_path / 'checkpoints', 120), state), state
  )
  # The state is donated to every step, but it is a copy: the base's arrays are whole.
  assert not any(value.is_deleted() for value in PARAMS.values())
  assert_same_bits(PARAMS, BEFORE)


class Killed(Exception):
  pass


def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path):
  """On the real pipeline (3 rows a batch, 16 packed at once), with moments and a moving average;
  killed one step after a checkpoint.
  """

  def run(directory, batches, killed_after=None):
    def on_step(step, scalars):
      del scalars
      if step + 1 == killed_after:
        raise Killed

    tx, rates = run_of(8, schedule='cosine', weight_decay=0.1)
    return train(
      MODEL,
      tx,
      batches,
      rates,
      directory,
      TrainConfig(train=Train(ema_decay=0.5)),
      RunConfig(checkpoint_every=3, on_step=on_step),
    )

  def batches():
    return pipeline.batches(
      pipeline.SftSource(0, Mixture(), tokenizer.build()), rows=3, row_length=128
    )

  whole = run(tmp_path / 'whole', batches())
  with pytest.raises(Killed):
    run(tmp_path / 'killed', batches(), killed_after=7)
  assert orbax_io.latest_step(tmp_path / 'killed' / 'checkpoints') == 6
  resumed = run(tmp_path / 'killed', batches())
  assert_same_bits(resumed, whole)
  losses = {row['step']: row['loss'] for row in metrics(tmp_path / 'whole')}
  assert len(set(losses.values())) == 8, (
    'the batches were all alike, so resuming their position showed nothing'
  )
  for row in metrics(tmp_path / 'killed'):
    assert row['loss'] == losses[row['step']]

  # A finished run has nothing left to do.
  assert_same_bits(run(tmp_path / 'killed', batches()), whole)


def test_it_stops_at_nan_and_saves_nothing_from_there_on(tmp_path):
  """In its last step here, which would always have saved."""
  seen, (tx, rates) = [], run_of(3)
  with pytest.raises(NonFiniteError, match=r'step 2: loss nan.*optimizer\.learning_rate'):
    train(
      MODEL,
      tx,
      Repeated(spoil_at=2),
      rates,
      tmp_path,
      TrainConfig(),
      RunConfig(checkpoint_every=1, on_step=lambda step, scalars: seen.append(step)),
    )
  assert seen == [0, 1]
  assert orbax_io.latest_step(tmp_path / 'checkpoints') == 2
  rows = metrics(tmp_path)
  assert [row['step'] for row in rows] == [0, 1, 2] and rows[2]['loss'] == 'nan'
  restored = orbax_io.restore(orbax_io.step_directory(tmp_path / 'checkpoints', 2))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))


def test_metrics_moving_average_and_donation_of_a_step():
  """ema = sum_k d^(t-k) params_k / sum_k d^(t-k), k = 1..t; the state given to a step is gone after
  it.
  """
  tx, batch = run_of(8)[0], Repeated().batch
  batch = batch | {'weights': np.broadcast_to(np.arange(12) > 8, (2, 12)).astype(np.float32)}
  logits = np.asarray(
    jax.jit(lambda p: STRUCTURE.bind(p)(batch['tokens'], batch['segment_ids']))(PARAMS), np.float64
  )
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  first_loss = -np.mean(
    [log_probs[row, t - 1, batch['tokens'][row, t]] for row in range(2) for t in (9, 10, 11)]
  )
  step = jax.jit(
    make_train_step(STRUCTURE, tx, TrainConfig(train=Train(ema_decay=0.25))), donate_argnums=0
  )
  state, ema = (
    TrainState.create(PARAMS, tx, 0.25),
    {name: value.astype(np.float64) for name, value in BEFORE.items()},
  )
  history = []
  for t in range(4):
    given = state
    state, scalars = step(state, {}, batch, np.float32(1e-2))
    if t == 0:  # the loss of the parameters the step was given, over six predicted tokens
      np.testing.assert_allclose(scalars['loss'], first_loss, rtol=1e-5)
      assert int(scalars['loss_tokens']) == 6 and float(scalars['grad_norm']) > 0
    assert all(
      leaf.is_deleted()
      for leaf in jax.tree.leaves((given.params, given.ema, given.opt_state))
      if leaf.size > 1
    ), f'step {t} kept its input'
    history.append({name: np.asarray(value, np.float64) for name, value in state.params.items()})
    weights = [0.25 ** (t - k) for k in range(t + 1)]
    for name in state.params:
      ema[name] = sum(w * past[name] for w, past in zip(weights, history, strict=True)) / sum(
        weights
      )
      np.testing.assert_allclose(state.ema[name], ema[name], rtol=1e-4, atol=1e-6)
  assert state.final_params() is state.ema
  assert (
    not TrainState.create(PARAMS, tx, 0.0).ema
    and TrainState.create(PARAMS, tx, 0.0).final_params().keys() == PARAMS.keys()
  )


def test_balance_is_of_the_worst_block():
  even, one_for_all = [2.0, 2.0, 2.0, 2.0], [8.0, 0.0, 0.0, 0.0]
  assert {
    name: float(value) for name, value in balance(jnp.array([even, one_for_all])).items()
  } == {'expert_load_max': 4.0, 'experts_unused': 0.75}
  assert {name: float(value) for name, value in balance(jnp.array([even])).items()} == {
    'expert_load_max': 1.0,
    'experts_unused': 0.0,
  }
