"""Answers of simulated trials: their accuracy, and what items do to two trials alike."""

import numpy as np
import pytest

from aevo_jax.simulation.item_set import ItemSet


@pytest.mark.parametrize('common', [0.0, 0.7])
def test_trials_share_the_luck_of_items_as_far_as_is_said(common):
  """The correlation of two trials' answers at an accuracy of 1/2 is `common`."""
  rng = np.random.default_rng(0)
  items = ItemSet.sample(2, 40_000, common, rng)
  answers = items.answers(np.full((2, 2), 0.5), rng)
  np.testing.assert_allclose(answers.mean(axis=-1), 0.5, atol=0.02)
  one, other = answers[:, 0]
  assert np.corrcoef(one, other)[0, 1] == pytest.approx(common, abs=0.02)
  skilled = items.answers(np.array([[0.1, 0.97]]), rng)
  np.testing.assert_allclose(skilled.mean(axis=-1)[0], [0.1, 0.97], atol=0.01)
