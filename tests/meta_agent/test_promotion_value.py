"""What trials are worth, against simulated looks and the promotion rule's formula."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from aevo_jax.meta_agent import promotion_value
from aevo_jax.meta_agent.promotion_value import Block, Outlook, Tried
from aevo_jax.stats.comparisons.mean_gain import Sample

CHANGE = Sample(0.01, 4, 1)
ANCHOR = Sample(0.01, 4, 3)


def outlook(rounds, **fields):
  usual = Outlook(
    rounds,
    releases=3,
    change=CHANGE,
    anchor=ANCHOR,
    looks=3,
    level=0.03,
    candidates=3,
    min_gain=0.01,
  )
  return dataclasses.replace(usual, **fields)


def tried(count, **fields):
  return Tried.none(count)._replace(**{k: np.asarray(v) for k, v in fields.items()})


@pytest.mark.parametrize(
  ('looks', 'total', 'more', 'gain'), [(0, 0.0, 3, 0.03), (2, 0.06, 1, 0.03)]
)
def test_a_value_is_the_gain_times_how_often_the_next_test_passes(looks, total, more, gain):
  rng = np.random.default_rng(0)
  now = outlook(1)
  after = looks + more
  mean = (total + (gain + CHANGE.sd * rng.standard_normal((40_000, more))).sum(axis=1)) / after
  parts = (CHANGE.sd**2 / after, ANCHOR.sd**2 / 4)
  freedom = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 5)
  passes = (stats.t.sf(mean / math.sqrt(sum(parts)), freedom) <= 0.75 * now.level) & (mean >= 0.01)
  known = tried(1, known=[True], looks=[looks], total=[total], tests=[0])
  found = promotion_value.values(np.asarray([[gain]]), known, np.asarray([more]), now)[0, 0]
  assert found == pytest.approx(gain * passes.mean(), abs=3 * gain * 0.5 / 200)


@pytest.mark.parametrize('fields', [{'barred': [True]}, {'looks': [0], 'known': [False]}])
def test_what_cannot_be_tested_is_worth_nothing(fields):
  known = tried(1, **({'known': [True], 'looks': [2], 'total': [0.2]} | fields))
  assert (
    promotion_value.values(np.asarray([[0.1]]), known, np.asarray([1]), outlook(1))[0, 0] <= 1e-9
  )


def blocks(gains, known, rounds, count=7, **fields):
  return list(promotion_value.choose(gains, known, outlook(rounds, **fields), count))


def test_the_last_round_looks_at_the_best_known_change_as_often_as_scores_are_released():
  gains = np.tile([0.05, 0.03, 0.06], (50, 1))
  known = tried(3, known=[True, True, False])
  assert blocks(gains, known, rounds=1)[0].trials == 3
  assert sum(b.trials for b in blocks(gains, known, rounds=1)) <= 7
  # One look is missing, so the others go to the next best.
  nearly = known._replace(looks=np.asarray([2, 0, 0]), total=np.asarray([0.1, 0, 0]))
  assert Block(0, 1) in blocks(np.tile([0.05, 0.03, 0.01], (50, 1)), nearly, rounds=1)


def test_without_candidates_or_releases_no_look_is_repeated():
  gains = np.tile([0.05, 0.03, 0.06], (50, 1))
  known = tried(3, known=[True, True, False])
  for fields in ({'candidates': 0}, {'releases': 0}):
    assert {b.trials for b in blocks(gains, known, rounds=2, **fields)} == {1}


def test_changes_that_hang_together_are_not_chosen_together():
  """Two copies of the best change, and one that is a little worse and independent of it."""
  rng = np.random.default_rng(1)
  first, second = 0.05 + 0.04 * rng.standard_normal((2, 2000))
  gains = np.stack([first, first, second - 0.003], axis=1)
  chosen = blocks(gains, tried(3), rounds=3, count=2, releases=1, looks=2)
  assert [b.change for b in chosen] == [0, 2]


def test_every_change_comes_up_once_even_where_none_can_be_promoted():
  gains = np.stack([np.full(10, -0.1), np.full(10, 0.001), np.full(10, 0.002)], axis=1)
  assert [b.change for b in blocks(gains, tried(3), rounds=0)] == [2, 1, 0]
