"""The best of noisy tries: closed forms, Student's t, and samples."""

import doctest

import numpy as np
import pytest
from scipy import stats

from aevo_jax.meta_agent.keep_logs import lucky_tries


def test_examples():
  result = doctest.testmod(lucky_tries)
  assert result.attempted and not result.failed


@pytest.mark.parametrize('tries', [1, 2, 7, 300])
def test_the_best_of_k_is_above_the_one_that_stands_in_k_of_k_plus_1(tries):
  assert lucky_tries.best_gain_p(0.0, tries) == pytest.approx(tries / (tries + 1))
  assert lucky_tries.best_gain_p(0.0, tries, freedom=3) == pytest.approx(tries / (tries + 1))


@pytest.mark.parametrize('gain', [-2.0, 0.5, 4.0, 12.0])
def test_one_try_is_a_normal_difference_and_student_t(gain):
  z = gain / np.sqrt(2)
  assert lucky_tries.best_gain_p(gain, 1) == pytest.approx(stats.norm.sf(z), rel=1e-9)
  for freedom in (1, 2.5, 40):
    computed = lucky_tries.best_gain_p(gain, 1, freedom)
    assert computed == pytest.approx(stats.t.sf(z, freedom), rel=1e-6)


def test_the_best_of_two_is_a_bivariate_normal_probability():
  """P(e_1 - e_0 < g and e_2 - e_0 < g); the differences have covariance 1 and variance 2."""
  for gain in (0.0, 1.5):
    below = stats.multivariate_normal.cdf([gain, gain], cov=[[2, 1], [1, 2]])
    assert lucky_tries.best_gain_p(gain, 2) == pytest.approx(1 - below, abs=1e-5)


def test_quantiles_invert_and_what_is_detectable_is_detected():
  gain = lucky_tries.best_gain_quantile(0.95, 20, 6.0)
  assert lucky_tries.best_gain_p(gain, 20, 6.0) == pytest.approx(0.05)
  true = lucky_tries.detectable_gain(0.05, 0.8, 5)
  needed = true - stats.norm.ppf(0.8)
  assert lucky_tries.kept_gain_p(needed, 5) == pytest.approx(0.05)


@pytest.mark.parametrize('harm', [0.0, 0.7, 50.0])
def test_the_p_value_of_a_kept_gain_holds_where_a_loop_stops_at_the_first_better_try(harm):
  """Where tries do nothing, some harm, or all harm but the one that is kept."""
  rng = np.random.default_rng(0)
  sooner = {}
  for _ in range(20_000):
    standing = rng.normal()
    for tries in range(1, 30):
      score = rng.normal() - harm * (tries < 4)
      if score > standing:
        sooner.setdefault(tries, []).append(score - standing)
        break
  checked = 0
  for tries, gains in sooner.items():
    if len(gains) < 300:
      continue
    gains = np.sort(gains)
    for level in (0.05, 0.2):
      share = np.mean([lucky_tries.kept_gain_p(g, tries) <= level for g in gains[::5]])
      assert share <= level + 3 * np.sqrt(level / (len(gains) / 5)), (tries, level, share)
    checked += 1
  assert checked >= 3


def test_as_many_records_as_a_sample_has():
  scores = np.random.default_rng(0).normal(size=(4000, 40))
  best = np.maximum.accumulate(scores, axis=1)
  kept = (best[:, 1:] > best[:, :-1]).sum(1)
  records = lucky_tries.records([39], 0.9)
  low, high = records.interval
  assert records.mean == pytest.approx(kept.mean(), abs=0.1)
  assert 0.9 <= np.mean((kept >= low) & (kept <= high)) <= 0.97
  assert lucky_tries.records([0], 0.9).interval == (0, 0)
  assert lucky_tries.records([1000, 1000], 0.9).mean == pytest.approx(2 * 6.4865, abs=1e-3)
