"""The exact test of the control arm, against scipy's enumeration and brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats.permutation import Stratum, compare


def test_one_round_is_scipys_exact_permutation_test():
  rng = np.random.default_rng(0)
  for _ in range(20):
    revised, control = rng.integers(900, 1100, 4), rng.integers(900, 1100, 3)
    expected = stats.permutation_test(
      (revised, control),
      lambda a, b: a.mean() - b.mean(),
      alternative='greater',
      n_resamples=np.inf,
    )
    found = compare([Stratum(revised.tolist(), control.tolist())])
    assert found.difference == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue) and found.least == pytest.approx(1 / 35)


def test_several_rounds_are_counted_over_all_ways_to_relabel_within_each():
  strata = [Stratum([5, 7], [4, 6, 6]), Stratum([2], [1, 3]), Stratum([9, 9], [8])]
  ways = [
    [sum(c) for c in itertools.combinations([*s.revised, *s.control], len(s.revised))]
    for s in strata
  ]
  sums = [sum(way) for way in itertools.product(*ways)]
  observed = sum(sum(s.revised) for s in strata)
  assert compare(strata).p_value == pytest.approx(np.mean([s >= observed for s in sums]))


def test_size_is_kept_when_nothing_differs():
  rng = np.random.default_rng(1)
  p = [
    compare(
      [Stratum(rng.integers(0, 50, 4).tolist(), rng.integers(0, 50, 3).tolist()) for _ in range(2)]
    ).p_value
    for _ in range(2000)
  ]
  assert np.mean(np.asarray(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
  assert np.mean(np.asarray(p) <= 0.2) > 0.15  # and it is no test that never speaks


def test_a_round_with_one_arm_says_nothing():
  assert compare([Stratum([3], [])]) is None
  assert compare([Stratum([3], []), Stratum([5], [4])]).p_value == 0.5
