"""The slope test against least squares with a dummy for each round, scipy's Welch test, the
design's power, and itself in other units.
"""

import math

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats import slope_test
from aevo_jax.stats.slope_test import Moments

SIMULATIONS = 4000


def sample(rng, rounds, slope=0.8, spread=1.0, noise=0.0, residual=0.6, known=False) -> Moments:
  """Moments [SIMULATIONS] of rounds of 8."""
  true = spread * rng.standard_normal((SIMULATIONS, rounds, 8))
  y = (
    slope * true
    + residual * rng.standard_normal(true.shape)
    + noise * rng.standard_normal(true.shape)
  )
  x = true + noise * rng.standard_normal(true.shape)
  x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))

  def total(v):
    return v.sum((-1, -2))

  return Moments(
    8 * rounds,
    rounds,
    total(x * x),
    total(x * y),
    total(y * y),
    np.full(SIMULATIONS, 7 * rounds * noise**2 if known else math.nan),
  )


def of_rounds(rounds) -> Moments:
  return slope_test.pool([Moments.of_round(x, y, None) for x, y in rounds])


def test_slope_and_standard_error_are_those_of_least_squares_with_a_level_for_each_round():
  rng = np.random.default_rng(0)
  rounds = [
    (x := rng.normal(3, 2, n), 0.7 * x + rng.normal(size=n) + level)
    for n, level in ((8, 0), (5, 10), (3, -4))
  ]
  design = np.zeros((16, 4))
  design[:, 0] = np.concatenate([x for x, _ in rounds])
  for i, start, stop in ((1, 0, 8), (2, 8, 13), (3, 13, 16)):
    design[start:stop, i] = 1
  y = np.concatenate([y for _, y in rounds])
  solution, residual, *_ = np.linalg.lstsq(design, y)
  m = of_rounds(rounds)
  assert m.freedom == 12 and m.slope == pytest.approx(solution[0])
  assert m.variance == pytest.approx(residual[0] / 12 * np.linalg.inv(design.T @ design)[0, 0])


def test_p_is_scipys_welch_test():
  rng = np.random.default_rng(1)
  reference, now = sample(rng, 2), sample(rng, 1)
  fall = slope_test.fell(reference, now)
  for i in range(20):
    n = [reference.freedom + 1, now.freedom + 1]  # scipy's degrees of freedom are n - 1
    expected = stats.ttest_ind_from_stats(
      reference.slope[i],
      math.sqrt(reference.variance[i] * n[0]),
      n[0],
      now.slope[i],
      math.sqrt(now.variance[i] * n[1]),
      n[1],
      equal_var=False,
      alternative='greater',
    )
    assert (fall.statistic[i], fall.p[i]) == pytest.approx(tuple(expected))
  quick = slope_test.fell(reference, now, up_to=0.05).p
  np.testing.assert_array_equal(quick[quick < 0.05], fall.p[fall.p < 0.05])


@pytest.mark.parametrize(
  ('rounds', 'to', 'noise', 'power'),
  [
    (1, 0, 0, 0.785),
    (2, 0, 0, 0.928),
    (4, 0, 0, 0.974),
    (1, -0.5, 0, 0.967),
    (1, 0, 1, 0.23),
    (2, 0, 1, 0.30),
    (4, 0, 1, 0.36),
  ],
)
def test_power_of_the_design(rounds, to, noise, power):
  rng = np.random.default_rng(2)
  assert (
    slope_test.fell(sample(rng, 2, noise=noise), sample(rng, rounds, to, noise=noise)).p <= 0.05
  ).mean() == pytest.approx(power, abs=0.03)


def test_scaling_by_reliability_takes_back_the_false_alarms_of_a_shrinking_spread():
  rng = np.random.default_rng(3)
  rates = [
    (
      slope_test.fell(
        *(sample(rng, 2, spread=s, noise=0.5, residual=0, known=known) for s in (1, 0.5)),
        cautious=cautious,
      ).p
      <= 0.05
    ).mean()
    for known, cautious in ((False, False), (True, False), (True, True))
  ]
  assert (
    rates[0] == pytest.approx(0.23, abs=0.03)
    and rates[1] == pytest.approx(0.07, abs=0.03)
    and rates[2] < 0.05
  )


def test_far_out_only_caution_keeps_the_size_of_a_shrinking_spread():
  """At p <= .002, where thresholds of whole campaigns lie."""
  rng = np.random.default_rng(8)
  counts = dict.fromkeys((True, False), 0)
  for _ in range(10):
    reference, now = (
      sample(rng, 2, spread=s, noise=0.5, residual=0.2, known=True) for s in (1, 0.4)
    )
    for cautious in counts:
      counts[cautious] += int((slope_test.fell(reference, now, cautious=cautious).p <= 0.002).sum())
  assert (
    counts[True]
    <= 0.002 * 10 * SIMULATIONS + 3.1 * math.sqrt(0.002 * 10 * SIMULATIONS)
    < counts[False]
  )


def test_the_least_reliability_bounds_the_true_one_as_often_as_it_says():
  rng = np.random.default_rng(9)
  m = sample(rng, 2, spread=1, noise=0.5, known=True)
  assert (m.least_reliability > 0.8).mean() == pytest.approx(slope_test.CAUTION, abs=0.02)
  assert np.isnan(sample(rng, 1).least_reliability).all()


def test_size_with_nothing_changed():
  rng = np.random.default_rng(4)
  for noise in (0, 1):
    assert (
      slope_test.fell(sample(rng, 2, noise=noise), sample(rng, 1, noise=noise)).p <= 0.05
    ).mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 / SIMULATIONS))


def test_a_drop_of_the_detectable_size_is_found_with_that_power():
  rng = np.random.default_rng(5)
  fall = slope_test.fell(sample(rng, 2), sample(rng, 2))
  typical = slope_test.Fall(*(np.median(field) for field in fall))
  drop = slope_test.minimum_detectable_drop(typical, 0.01, 0.8)
  assert (
    slope_test.fell(sample(rng, 2), sample(rng, 2, 0.8 - drop)).p <= 0.01
  ).mean() == pytest.approx(0.8, abs=0.04)


def test_units_do_not_matter():
  rng = np.random.default_rng(6)
  rounds = [(rng.normal(size=8), rng.normal(size=8)) for _ in range(3)]
  scaled = [(100 * x + 7, 10 * y) for x, y in rounds]
  p = [float(slope_test.fell(of_rounds(r[:2]), of_rounds(r[2:])).p) for r in (rounds, scaled)]
  assert p[0] == pytest.approx(p[1])


def test_what_has_no_slope_is_not_tested():
  rng = np.random.default_rng(7)
  good = of_rounds([(rng.normal(size=8), rng.normal(size=8)) for _ in range(2)])
  flat = Moments.of_round([0.1 + 0.2] * 8, rng.normal(size=8), None)
  assert flat.sxx == 0 and np.isnan(flat.slope)
  small = Moments.of_round(*rng.normal(size=(2, 5)), None)
  for bad in (flat, small, slope_test.pool([])):
    assert (
      slope_test.fell(good, bad).p == 1 == slope_test.fell(bad, good).p
      and slope_test.positive_p(bad) == 1
    )
  noise_only = Moments(8, 1, 1.0, 0.5, 1.0, 2.0)
  assert noise_only.reliability == 0 and slope_test.fell(noise_only, good).p == 1


def test_a_perfect_line_that_stays_is_no_fall_and_one_that_turns_is():
  x = np.arange(8) / 7
  line, turned = Moments.of_round(x, x, None), Moments.of_round(x, -x, None)
  assert slope_test.fell(line, line).p > 0.4 and slope_test.fell(line, turned).p < 1e-6
  assert slope_test.fell(line, Moments.of_round(x, np.zeros(8), None)).p < 1e-6
