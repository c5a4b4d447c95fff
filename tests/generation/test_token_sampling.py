"""Tokens drawn by inversion against the distribution they should have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from aevo_jax.generation.token_sampling import invert, sample

LAST = 1 - 2**-23  # the greatest that jax.random.uniform gives


@pytest.mark.parametrize('vocabulary', [1, 2, 11, 64, 300])
def test_each_token_has_its_share_of_the_unit_interval(vocabulary):
  """Against float64: a grid of uniform numbers falls on tokens in order, each as often as its
  probability says.
  """
  logits = np.random.default_rng(vocabulary).normal(size=vocabulary).astype(np.float32) * 2
  grid = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
  found = np.asarray(jax.jit(invert)(jnp.broadcast_to(logits, (len(grid), vocabulary)), grid))
  probs = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
  assert (np.diff(found) >= 0).all()
  np.testing.assert_allclose(np.bincount(found, minlength=vocabulary) / len(grid), probs, atol=2e-4)


def test_draws_pass_a_chi_square_test_and_do_not_depend_on_other_rows():
  logits = jnp.log(jnp.array([0.5, 0.0, 0.2, 0.2, 0.0, 0.1]))
  keys = jax.vmap(jax.random.key)(jnp.arange(5000, dtype=jnp.uint32))
  found = np.asarray(sample(keys, 3, jnp.broadcast_to(logits, (5000, 6))))
  counts = np.bincount(found, minlength=6)
  assert counts[1] == counts[4] == 0
  kept = counts[[0, 2, 3, 5]]
  assert stats.chisquare(kept, 5000 * np.array([0.5, 0.2, 0.2, 0.1])).pvalue > 1e-3
  assert found[17] == sample(keys[17:18], jnp.array([3]), logits[None])[0]
  assert (found != np.asarray(sample(keys, 4, jnp.broadcast_to(logits, (5000, 6))))).mean() > 0.5


@pytest.mark.parametrize('seed', range(5))
def test_a_token_that_is_left_out_is_never_drawn(seed):
  """Nor at the ends of the interval, wherever those that stay are."""
  rng = np.random.default_rng(seed)
  logits = np.full((400, 1000), -np.inf, np.float32)
  for row in logits:
    kept = rng.choice(1000, rng.integers(1, 6), replace=False)
    row[kept] = rng.normal(size=len(kept)) * 3
  for uniform in (np.zeros(400), np.full(400, LAST), rng.random(400)):
    found = np.asarray(invert(jnp.array(logits), jnp.array(uniform, jnp.float32)))
    assert np.isfinite(logits[np.arange(400), found]).all()
