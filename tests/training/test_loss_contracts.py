"""What every loss keeps, one row of CONTRACTS for each: what is masked is not seen, padding changes
nothing, parts add up to the whole, the order of groups does not matter, and the gradient is that of
the value. docs/losses.md shows how to add a row."""

import dataclasses
import functools
import re
import textwrap
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax import layout
from aevo_jax.training.accumulate import accumulate_gradients
from aevo_jax.training.losses.distillation import distillation_loss
from aevo_jax.training.losses.policy_gradient import (
  PolicyGradient,
  aggregation_weights,
  policy_gradient_loss,
)
from aevo_jax.training.losses.preference import Dpo, dpo_loss
from aevo_jax.training.losses.sft import Loss, sft_loss
from aevo_jax.training.losses.value import Critic, value_loss
from aevo_jax.training.tokens.token_stats import TokenStats

ROWS, LENGTH, GROUP = 8, 6, 4  # two groups of four completions; also four pairs


@dataclasses.dataclass(frozen=True)
class Contract:
  """loss(x [b, t], batch) -> a scalar that adds up over rows, x being what is differentiated, token
  by token. weights(mask) -> what the loss wants beside the examples' arrays, made for the whole
  batch. together: so many neighbouring rows are one example."""

  loss: Callable[[jax.Array, dict], jax.Array]
  weights: Callable[[np.ndarray], dict[str, np.ndarray]]
  together: int = 1


def token_weights(mask):
  return {'weights': (mask / mask.sum()).astype(np.float32)}


def policy_gradient(**parts):
  settings = PolicyGradient(**parts)
  return Contract(
    lambda x, batch: policy_gradient_loss(x, -x, batch, settings)[0],
    lambda mask: {'weights': aggregation_weights(mask, settings)},
  )


def pair_weights(mask):
  pairs = mask.reshape(-1, 2, mask.shape[1]).any(axis=(1, 2))
  return {'pair_weights': np.repeat(pairs / pairs.sum(), 2).astype(np.float32)}


CONTRACTS = {
  'sft': Contract(
    lambda x, batch: sft_loss(TokenStats(x, -x, 2 * x), batch, Loss())[0], token_weights
  ),
  'sft_smoothed': Contract(
    lambda x, batch: sft_loss(TokenStats(x, -x, 2 * x), batch, Loss(label_smoothing=0.1))[0],
    token_weights,
  ),
  'dpo': Contract(lambda x, batch: dpo_loss(x, batch, Dpo())[0], pair_weights, together=2),
  'dpo_length_normalised': Contract(
    lambda x, batch: dpo_loss(x, batch, Dpo(length_normalised=True, label_smoothing=0.1))[0],
    pair_weights,
    together=2,
  ),
  'distillation': Contract(lambda x, batch: distillation_loss(x, batch)[0], token_weights),
  'value': Contract(lambda x, batch: value_loss(x, batch, Critic(clip=0.2)), token_weights),
  'grpo': policy_gradient(aggregation='sequence_mean', kl='k3'),
  'dr_grpo': policy_gradient(aggregation='constant_length', constant_length=LENGTH),
  'dapo': policy_gradient(clip_high=0.28),
  'gspo': policy_gradient(ratio='sequence', aggregation='sequence_mean'),
  'rloo': policy_gradient(ratio='trajectory', aggregation='sequence_mean', clip='none'),
  'reinforce': policy_gradient(clip='none', entropy_bonus=0.01),
  'dual_clip': policy_gradient(clip='dual', dual_clip=1.5),
  'k2': policy_gradient(kl='k2'),
  'unbiased_kl': policy_gradient(kl='k1', kl_unbiased=True),
  'truncated': policy_gradient(correction='truncate', correction_cap=1.2),
  'masked': policy_gradient(correction='mask', correction_cap=1.5),
}


def of_the_docs():
  """The loss that docs/losses.md adds, as it stands there."""
  text = (layout.root_file('constitution.gin').parent / 'docs' / 'losses.md').read_text()
  names = {}
  exec(
    textwrap.dedent(re.search(r'```python\n(.*?unlikelihood_loss.*?)```', text, re.DOTALL)[1]),
    names,
  )
  return names['unlikelihood_loss']


CONTRACTS['unlikelihood'] = Contract(lambda x, batch: of_the_docs()(x, batch)[0], token_weights)
every_loss = pytest.mark.parametrize('name', CONTRACTS)


@functools.cache
def example():
  """x, and the examples' arrays.

  What is not masked has 1 to LENGTH - 1 tokens, and one row none.
  """
  rng = np.random.default_rng(0)
  mask = np.zeros((ROWS, LENGTH), np.float32)
  for row, n in enumerate([5, 2, 1, 4, 3, 3, 0, 5]):
    mask[row, 1 : 1 + n] = 1
  x = rng.normal(-1.0, 0.4, mask.shape).astype(np.float32)

  def near(sd):
    return (x + rng.normal(0, sd, x.shape)).astype(np.float32)

  return x, {
    'mask': mask,
    'advantages': np.repeat(rng.normal(size=(ROWS, 1)), LENGTH, axis=1).astype(np.float32),
    'old_logprobs': near(0.2),
    'ref_logprobs': near(0.3),
    'sampler_logprobs': near(0.2),
    'returns': near(1.0),
    'old_values': near(0.3),
  }


def of(name, x, batch):
  """Value and gradient of a whole batch."""
  contract = CONTRACTS[name]
  return jax.value_and_grad(contract.loss)(jnp.asarray(x), batch | contract.weights(batch['mask']))


@every_loss
@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e30])
def test_what_is_masked_is_not_seen(name, bad):
  x, batch = example()
  value, gradient = of(name, x, batch)

  def spoil(a):
    return np.where(batch['mask'] > 0, a, bad).astype(np.float32)

  spoiled, after = of(name, spoil(x), {k: v if k == 'mask' else spoil(v) for k, v in batch.items()})
  np.testing.assert_allclose(spoiled, value, rtol=1e-6)
  np.testing.assert_allclose(after, gradient, rtol=1e-6)
  assert not np.asarray(gradient)[batch['mask'] == 0].any() and np.abs(gradient).max() > 1e-4


@every_loss
def test_padding_changes_nothing(name):
  x, batch = example()
  value, gradient = of(name, x, batch)

  def pad(a):
    return (
      np.pad(a, ((0, 4), (3, 2)), constant_values=7)
      if a is not batch['mask']
      else np.pad(a, ((0, 4), (3, 2)))
    )

  padded, after = of(name, pad(x), {k: pad(v) for k, v in batch.items()})
  np.testing.assert_allclose(padded, value, rtol=1e-5)
  np.testing.assert_allclose(after[:ROWS, 3:-2], gradient, rtol=1e-4, atol=1e-8)


@every_loss
@pytest.mark.parametrize('parts', [2, 4])
def test_microbatches_add_up_to_the_batch(name, parts):
  x, batch = example()
  contract = CONTRACTS[name]
  whole_batch = batch | contract.weights(batch['mask']) | {'x': x}

  def loss(scale, rows):
    return (contract.loss(scale * rows['x'], rows), ())

  value, _, gradient, _ = accumulate_gradients(
    loss, jnp.float32(1.1), whole_batch, parts, group_size=contract.together
  )
  whole, _, expected, _ = accumulate_gradients(loss, jnp.float32(1.1), whole_batch, 1)
  np.testing.assert_allclose(value, whole, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)
  assert abs(float(expected)) > 1e-3


@every_loss
def test_the_order_of_groups_does_not_matter(name):
  x, batch = example()
  value, gradient = of(name, x, batch)
  order = np.r_[GROUP:ROWS, 0:GROUP]
  permuted, after = of(name, x[order], {k: v[order] for k, v in batch.items()})
  np.testing.assert_allclose(permuted, value, rtol=1e-5)
  np.testing.assert_allclose(after, gradient[order], rtol=1e-5, atol=1e-8)


@every_loss
def test_the_gradient_is_that_of_the_value(name):
  """Central differences in float64, in the direction of the gradient and in three others."""
  x, batch = example()
  with jax.enable_x64(True):
    wide = {
      k: jnp.asarray(v, jnp.float64)
      for k, v in (batch | CONTRACTS[name].weights(batch['mask'])).items()
    }

    def loss(y):
      return CONTRACTS[name].loss(y, wide)

    at = jnp.asarray(x, jnp.float64)
    gradient = jax.grad(loss)(at)
    rng = np.random.default_rng(1)
    for direction in (
      gradient / jnp.linalg.norm(gradient),
      *(jnp.asarray(rng.normal(size=x.shape)) for _ in range(3)),
    ):
      step = 1e-6
      slope = (loss(at + step * direction) - loss(at - step * direction)) / (2 * step)
      np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-5, atol=1e-8)


def test_rows_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='6 rows do not divide into 4 microbatches'):
    accumulate_gradients(lambda p, rows: (jnp.sum(p * rows), ()), jnp.float32(1), jnp.ones(6), 4)
  with pytest.raises(ValueError, match='groups of 2'):
    accumulate_gradients(
      lambda p, rows: (jnp.sum(p * rows), ()), jnp.float32(1), jnp.ones(6), 2, group_size=2
    )
