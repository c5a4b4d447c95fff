"""What trials are worth, against simulated looks and the promotion rule itself."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from aevo_jax.meta_agent import promotion_value
from aevo_jax.meta_agent.promotion_value import Outlook


def outlook(rounds, **fields):
  usual = Outlook(rounds, seed_sd=0.01, freedom=4, anchors=3, level=0.0036, min_gain=0.01)
  return dataclasses.replace(usual, **fields)


@pytest.mark.parametrize(('rounds', 'more'), [(3, 2), (1, 1)])
@pytest.mark.parametrize(
  ('looks', 'total', 'gain'), [(0, 0.0, 0.05), (1, 0.06, 0.04), (2, 0.06, 0.03)]
)
def test_a_value_is_the_gain_times_how_often_it_passes(rounds, more, looks, total, gain):
  rng, now = np.random.default_rng(0), outlook(rounds)
  mean = (total + (gain + now.seed_sd * rng.standard_normal((40_000, more))).sum(axis=1)) / (
    looks + more
  )
  error = now.seed_sd * np.sqrt(1 / (looks + more) + 1 / (now.anchors + more))
  passes = (stats.t.sf(mean / error, now.freedom + more) <= now.level / 2.0 ** (looks + more)) & (
    mean >= now.min_gain
  )
  found = promotion_value.values(
    np.asarray([[gain]]), np.asarray([looks]), np.asarray([total]), now
  )[0, 0]
  assert found == pytest.approx(gain * passes.mean(), abs=3 * gain * 0.5 / 200)


def order(gains, looks=None, total=None, rounds=3):
  zero = np.zeros(gains.shape[1])
  return list(
    promotion_value.choose(
      gains, zero if looks is None else looks, zero if total is None else total, outlook(rounds)
    )
  )


def test_changes_that_hang_together_are_not_chosen_together():
  """Two copies of the best change, and one that is a little worse and independent of it."""
  rng = np.random.default_rng(1)
  first, second = 0.05 + 0.04 * rng.standard_normal((2, 2000))
  assert order(np.stack([first, first, second - 0.003], axis=1)) == [0, 2, 1]


def test_in_the_last_round_a_change_near_the_threshold_goes_before_a_new_one_of_the_same_gain():
  rng = np.random.default_rng(2)
  gains = np.stack(
    [0.05 + 0.01 * rng.standard_normal(2000), 0.052 + 0.012 * rng.standard_normal(2000)], axis=1
  )
  looks, total = np.asarray([2.0, 0.0]), np.asarray([0.13, 0.0])
  assert order(gains, looks, total, rounds=1)[0] == 0


def test_every_change_comes_up_once_even_where_none_can_be_promoted():
  gains = np.stack([np.full(10, -0.1), np.full(10, 0.001), np.full(10, 0.002)], axis=1)
  assert order(gains, rounds=0) == [2, 1, 0]
