"""The slope against least squares with a level for each round, its HC3 error against the formula
with matrices, and the test's size where noise is not what a textbook assumes.
"""

import numpy as np
import pytest

from aevo_jax.stats import slope_test
from aevo_jax.stats.slope_test import Round, Slope, fell, slope


def rounds_of(rng, sizes, slope_=0.7, spread=1.0, noise=1.0):
  made = []
  for level, n in enumerate(sizes):
    x = rng.normal(3 * level, spread, n)
    made.append(Round(x, slope_ * x + noise * rng.normal(size=n) + 10 * level, None))
  return made


def design(rounds):
  """(X, y) of least squares: dev, and a level for each round."""
  x = np.concatenate([each.dev for each in rounds])
  columns = [x]
  for k in range(len(rounds)):
    columns.append(np.concatenate([np.full(len(e.dev), k == i) for i, e in enumerate(rounds)]))
  return np.stack(columns, 1).astype(float), np.concatenate([each.external for each in rounds])


def test_slope_and_error_are_those_of_least_squares_with_a_level_for_each_round():
  rounds = rounds_of(np.random.default_rng(0), (8, 5, 3))
  matrix, y = design(rounds)
  inverse = np.linalg.inv(matrix.T @ matrix)
  solution = inverse @ matrix.T @ y
  leverage = np.diag(matrix @ inverse @ matrix.T)
  left = (y - matrix @ solution) / (1 - leverage)
  hc3 = inverse @ (matrix.T * left**2) @ matrix @ inverse
  found = slope(rounds)
  assert found.value == pytest.approx(solution[0])
  assert found.variance == pytest.approx(hc3[0, 0])
  assert found.freedom == 12 and found.trials == 16


def null_rejections(noise_of, level=0.0025, campaigns=4000):
  """Share of campaigns with one slope throughout that the test rejects."""
  rng = np.random.default_rng(1)
  alarms = 0
  for _ in range(campaigns):
    rounds = []
    for _ in range(4):
      x = rng.normal(size=8)
      rounds.append(Round(x, 0.8 * x + noise_of(rng, x), None))
    alarms += fell(slope(rounds[:2]), slope(rounds[2:])).p <= level
  return alarms / campaigns


@pytest.mark.parametrize(
  'noise_of',
  [
    lambda rng, x: 0.6 * rng.normal(size=8),
    lambda rng, x: 0.6 * rng.standard_t(3, size=8),
    lambda rng, x: 0.6 * np.abs(x) * rng.normal(size=8),
    lambda rng, x: 0.6 * np.abs(x) * rng.standard_t(3, size=8),
  ],
  ids=['normal', 'heavy', 'unequal', 'heavy and unequal'],
)
def test_the_tail_holds_where_residuals_are_heavy_or_grow_with_dev(noise_of):
  """At a campaign's critical p of .0025 the tail is no more than .005 (about 3 sd above .0025)."""
  assert null_rejections(noise_of) <= 0.005


def test_a_slope_that_vanishes_is_found():
  rng = np.random.default_rng(2)
  found = 0
  for _ in range(400):
    before = rounds_of(rng, (8, 8), 0.8, noise=0.6)
    after = rounds_of(rng, (8, 8), -0.8, noise=0.6)
    found += fell(slope(before), slope(after)).p <= 0.0025
  assert found / 400 > 0.8  # published with the method: .88


def test_dev_noise_and_a_spread_that_shrinks_scale_the_reference():
  wide = Slope(0.8, 0.01, 13, 1.0, 0.25, 16)
  narrow = Slope(0.4, 0.01, 13, 0.4, 0.25, 16)
  assert wide.reliability == 0.75 and narrow.least_reliability < narrow.reliability
  assert fell(wide, narrow).ratio < narrow.reliability / wide.reliability
  unscaled = narrow._replace(item_variance=0.0)
  assert fell(wide, narrow).p > 0.5 and fell(wide, unscaled).p < 0.05
  unknown = narrow._replace(item_variance=np.nan)
  assert fell(wide, unknown).ratio == 1.0


def test_without_spread_or_trials_there_is_no_test():
  rng = np.random.default_rng(3)
  good = slope(rounds_of(rng, (8, 8)))
  flat = slope([Round([0.1 + 0.2] * 8, rng.normal(size=8), None)])
  small = slope(rounds_of(rng, (4,)))
  for bad in (flat, small, slope([])):
    assert fell(good, bad).p == 1 == fell(bad, good).p and slope_test.positive_p(bad) == 1
  noise_only = good._replace(item_variance=2 * good.spread)
  assert noise_only.reliability == 0 and fell(noise_only, good).p == 1


def test_perfect_lines_are_certain():
  x = np.arange(8.0)
  line = slope([Round(x, x, None)])
  assert fell(line, line).p > 0.4
  assert fell(line, slope([Round(x, -x, None)])).p < 1e-6


def test_the_detectable_drop_is_detected_with_its_power():
  rng = np.random.default_rng(4)
  fall = fell(slope(rounds_of(rng, (40, 40), 0.8)), slope(rounds_of(rng, (40, 40), 0.8)))
  drop = slope_test.minimum_detectable_drop(fall, 0.01, 0.8)
  found = 0
  for _ in range(400):
    before = slope(rounds_of(rng, (40, 40), 0.8))
    found += fell(before, slope(rounds_of(rng, (40, 40), 0.8 - drop))).p <= 0.01
  assert found / 400 == pytest.approx(0.8, abs=0.08)
