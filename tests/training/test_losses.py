"""Completion-only cross-entropy against numpy float64, and what must not reach it."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.training.losses.sft import Loss, predicted, sft_loss
from aevo_jax.training.tokens.masked import WeightedSum
from aevo_jax.training.tokens.token_logprobs import per_token
from aevo_jax.training.tokens.token_stats import of_logits


def example(seed=0, rows=3, length=8, vocabulary=7):
  rng = np.random.default_rng(seed)
  batch = {
    'tokens': rng.integers(0, vocabulary, (rows, length)).astype(np.int32),
    'weights': (rng.random((rows, length)) < 0.7).astype(np.float32)
    * rng.uniform(0.2, 3, (rows, length)).astype(np.float32),
    'segment_ids': np.array(
      [[1] * 8, [1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 2, 3, 3, 0, 0, 0]], np.int32
    ),
  }
  batch['weights'][batch['segment_ids'] == 0] = 0
  return 3 * rng.normal(size=(rows, length, vocabulary)), batch


def loss_of(logits, batch, label_smoothing=0.0, chunk=0):
  """Total of the weighted losses, and of the weights, of given logits."""
  weights = predicted(batch)
  stats = per_token(of_logits, jnp.asarray(logits, jnp.float32), batch['tokens'], weights, chunk)
  return WeightedSum(
    sft_loss(stats, {'weights': weights}, Loss(label_smoothing=label_smoothing))[0],
    jnp.sum(weights),
  )


def predictions(batch):
  """(row, place) of every token that its predecessor, in the same segment, is asked to predict."""
  rows, length = batch['tokens'].shape
  return [
    (row, t)
    for row in range(rows)
    for t in range(1, length)
    if batch['segment_ids'][row, t] == batch['segment_ids'][row, t - 1]
    and batch['weights'][row, t] > 0
  ]


def reference(logits, batch, smoothing):
  """Cross-entropy with the distribution (1 - s) one-hot + s / V, one place at a time."""
  total = count = 0.0
  for row, t in predictions(batch):
    z = logits[row, t - 1]
    log_probs = z - z.max() - np.log(np.exp(z - z.max()).sum())
    target = np.full(len(z), smoothing / len(z))
    target[batch['tokens'][row, t]] += 1 - smoothing
    weight = float(batch['weights'][row, t])
    total, count = total - weight * (target @ log_probs), count + weight
  return total, count


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_loss_is_the_weighted_cross_entropy(smoothing):
  logits, batch = example()
  total, count = reference(logits, batch, smoothing)
  loss = loss_of(logits, batch, smoothing)
  np.testing.assert_allclose(loss.total, total, rtol=1e-5)
  np.testing.assert_allclose(loss.count, count, rtol=1e-6)
  np.testing.assert_allclose(loss.mean(), total / count, rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_gradient_is_weight_times_softmax_minus_target(smoothing):
  logits, batch = example()
  expected = np.zeros_like(logits)
  _, count = reference(logits, batch, smoothing)
  for row, t in predictions(batch):
    z = np.exp(logits[row, t - 1] - logits[row, t - 1].max())
    target = np.full(len(z), smoothing / len(z))
    target[batch['tokens'][row, t]] += 1 - smoothing
    expected[row, t - 1] = batch['weights'][row, t] * (z / z.sum() - target) / count
  gradient = jax.grad(lambda x: loss_of(x, batch, smoothing).mean())(
    jnp.asarray(logits, jnp.float32)
  )
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_no_token_is_predicted_across_segments():
  """Row 1's place 3 and row 2's places 2, 3 begin a segment: their weights, tokens and the logits
  before them count for nothing.
  """
  logits, batch = example()
  batch['weights'][:, :] = np.where(batch['segment_ids'] > 0, 1.0, 0.0)
  assert float(loss_of(logits, batch).count) == 7 + (2 + 4) + (1 + 0 + 1)
  changed_logits, changed = logits.copy(), {name: value.copy() for name, value in batch.items()}
  for row, start in ((1, 3), (2, 2), (2, 3)):
    changed_logits[row, start - 1] += 5
    changed['tokens'][row, start] = (changed['tokens'][row, start] + 1) % 7
    changed['weights'][row, start] = 100
  before, after = (loss_of(x, b) for x, b in ((logits, batch), (changed_logits, changed)))
  assert (float(before.total), float(before.count)) == (float(after.total), float(after.count))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_what_is_masked_may_be_anything(bad, smoothing):
  """Neither the loss nor its gradient sees logits that predict nothing."""
  logits, batch = example()
  total, count = reference(logits, batch, smoothing)
  spoiled, used = logits.copy(), np.zeros(logits.shape[:2], bool)
  for row, t in predictions(batch):
    used[row, t - 1] = True
  assert not used.all()
  spoiled[~used] = bad
  value, gradient = jax.value_and_grad(lambda x: loss_of(x, batch, smoothing).mean())(
    jnp.asarray(spoiled, jnp.float32)
  )
  np.testing.assert_allclose(value, total / count, rtol=1e-5)
  assert np.isfinite(gradient).all() and not gradient[~used].any()


def test_nan_in_a_counted_place_is_seen():
  logits, batch = example()
  row, t = predictions(batch)[0]
  logits[row, t - 1, 0] = np.nan
  assert np.isnan(loss_of(logits, batch).mean())


def test_pairs_merge_over_microbatches():
  logits, batch = example()
  whole = loss_of(logits, batch)
  parts = [
    loss_of(logits[i : i + 1], {name: value[i : i + 1] for name, value in batch.items()})
    for i in range(3)
  ]
  merged = WeightedSum(sum(p.total for p in parts), sum(p.count for p in parts))
  np.testing.assert_allclose(merged.mean(), whole.mean(), rtol=1e-6)


def test_nothing_counted_is_zero_and_not_nan():
  logits, batch = example()
  batch['weights'][:] = 0
  value, gradient = jax.value_and_grad(lambda x: loss_of(x, batch).mean())(
    jnp.asarray(logits, jnp.float32)
  )
  assert float(value) == 0 and not gradient.any()


@pytest.mark.parametrize('chunk', [1, 3, 7, 100])
def test_logits_in_chunks_give_the_same_loss_and_gradient(chunk):
  logits, batch = example()

  def value_and_grad(chunk):
    return jax.value_and_grad(lambda x: loss_of(x, batch, 0.1, chunk).mean())(
      jnp.asarray(logits, jnp.float32)
    )

  (whole, gradient), (value, chunked) = value_and_grad(0), value_and_grad(chunk)
  np.testing.assert_allclose(value, whole, rtol=1e-6)
  np.testing.assert_allclose(chunked, gradient, rtol=1e-5, atol=1e-8)


def test_chunks_never_hold_the_logits_of_all_tokens():
  """In the compiled gradient no float32 array is as large as the logits of half of the tokens;
  without chunks some are as large as all of them.
  """
  rows, length, width, vocabulary = 2, 64, 4, 512
  rng = np.random.default_rng(0)
  hidden, kernel = (
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((rows, length, width), (width, vocabulary))
  )
  tokens, weights = (
    jnp.asarray(rng.integers(0, vocabulary, (rows, length))),
    jnp.full((rows, length), 1 / (rows * length)),
  )

  def largest(chunk):
    def loss(h, w):
      return sft_loss(
        per_token(lambda x, t: of_logits(x @ w, t), h, tokens, weights, chunk),
        {'weights': weights},
        Loss(),
      )[0]

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, kernel).compile().as_text()
    return max(
      math.prod(map(int, shape.split(','))) for shape in re.findall(r'f32\[([0-9,]+)\]', text)
    )

  assert largest(0) >= rows * length * vocabulary and largest(8) <= rows * length * vocabulary // 4
