"""Intervals against their formulas, and their coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats.intervals import normal_mean, paired_bootstrap, wilson


@pytest.mark.parametrize('correct', [0, 1, 7, 50, 99, 100])
def test_wilson_is_its_formula(correct):
  n, z = 100, 1.959963984540054
  p = correct / n
  middle, half = (
    (p + z * z / (2 * n)) / (1 + z * z / n),
    z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
  )
  assert wilson(correct, n) == pytest.approx(
    (max(0, middle - half), min(1, middle + half)), abs=1e-9
  )


def test_wilson_is_scipys_to_the_last_bit():
  for total in (1, 2, 7, 60, 999, 4096):
    for correct in {0, 1, total // 3, total // 2, total - 1, total}:
      for confidence in (0.5, 0.95, 0.999):
        expected = stats.binomtest(correct, total).proportion_ci(confidence, method='wilson')
        assert wilson(correct, total, confidence) == (expected.low, expected.high)


def test_the_normal_interval_of_a_mean_by_hand():
  low, high = normal_mean([0.1, 0.3, 0.2])
  assert (low, high) == pytest.approx((0.2 - 1.96 * 0.1 / 3**0.5, 0.2 + 1.96 * 0.1 / 3**0.5))
  assert all(map(math.isnan, normal_mean([0.1])))


def test_wilson_of_nothing_is_everything_and_covers_what_it_promises():
  assert wilson(0, 0) == (0.0, 1.0)
  inside = [k for k in range(61) if wilson(k, 60).low <= 0.3 <= wilson(k, 60).high]
  coverage = sum(
    math.comb(60, k) * 0.3**k * 0.7 ** (60 - k) for k in inside
  )  # exact, by enumeration
  assert 0.93 < coverage < 0.97


def test_paired_bootstrap_of_a_hand_made_difference():
  a, b = np.array([[1, 1, 1, 0]] * 2), np.array([[0, 1, 0, 0]])
  difference, interval = paired_bootstrap(a, b, seed=0)
  assert difference == pytest.approx(0.5)  # .75 - .25
  assert interval.low <= 0.5 <= interval.high
  assert paired_bootstrap(a, b, seed=0) == (difference, interval)  # seeded
  assert paired_bootstrap(a, a, seed=0) == (0.0, (0.0, 0.0))  # nothing differs, whatever is drawn


def test_pairing_narrows_the_interval():
  rng = np.random.default_rng(1)
  b = rng.random(400) < 0.5
  a = b | (rng.random(400) < 0.1)  # the same items right, and a few more
  paired = paired_bootstrap(a, b, seed=0)[1]
  shuffled = paired_bootstrap(rng.permutation(a), b, seed=0)[1]
  assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)
  assert paired.low > 0


def test_the_seed_spread_widens_it():
  rng = np.random.default_rng(2)
  base = rng.random((1, 2000)) < 0.5
  same = np.repeat(rng.random((1, 2000)) < 0.55, 3, axis=0)
  spread = np.stack([rng.random(2000) < p for p in (0.45, 0.55, 0.65)])

  def width(a):
    return np.subtract(*paired_bootstrap(a, base, seed=0)[1][::-1])

  assert width(spread) > 1.5 * width(same)


def test_different_items_are_refused():
  with pytest.raises(ValueError, match='got 3 and 4'):
    paired_bootstrap(np.zeros((1, 3)), np.zeros((1, 4)), seed=0)


def test_coverage_of_the_bootstrap():
  rng, hits = np.random.default_rng(3), 0
  for trial in range(100):
    a, b = rng.random((1, 300)) < 0.6, rng.random((1, 300)) < 0.5
    interval = paired_bootstrap(a, b, seed=trial, resamples=300)[1]
    hits += interval.low <= 0.1 <= interval.high
  assert 88 <= hits <= 100


@pytest.mark.parametrize('seed_sd', [0.005, 0.02])
def test_coverage_with_three_seeds_on_each_side(seed_sd):
  """The final comparison: items of differing difficulty, which both sides share, and luck of each
  training seed.
  """
  rng, hits, trials = np.random.default_rng(4), 0, 300
  for trial in range(trials):
    easy = rng.uniform(0.1, 0.8, 1000)
    sides = []
    for shift in (0.05, 0.0):
      bar = easy + shift
      rows = [rng.random(1000) < bar + seed_sd * rng.standard_normal() for _ in range(3)]
      sides.append(np.stack(rows))
    interval = paired_bootstrap(*sides, seed=trial, resamples=300)[1]
    hits += interval.low <= 0.05 <= interval.high
  assert 0.92 <= hits / trials <= 0.99
