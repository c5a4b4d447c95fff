"""Comparisons of recipes on fresh runs: both tests in one, and what could have been found."""

import math

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats.comparisons import permutation
from aevo_jax.stats.comparisons.recipe_comparison import compare, detectable, welch_p


def test_welchs_test_is_scipys():
  rng = np.random.default_rng(0)
  first, second = rng.normal(100, 9, 5), rng.normal(95, 30, 8)
  expected = stats.ttest_ind(first, second, equal_var=False, alternative='greater').pvalue
  assert welch_p(first, second) == pytest.approx(expected)


def test_the_larger_p_value_counts():
  apart, touching = (
    compare([9, 8, 9], [3, 4, 3], 0.05, 0.8),
    compare([9, 2, 9], [3, 4, 3], 0.05, 0.8),
  )
  assert apart.p_value == apart.least == pytest.approx(0.05)
  assert touching.p_value == max(
    welch_p([9, 2, 9], [3, 4, 3]), permutation.greater_p([9, 2, 9], [3, 4, 3])
  )


def test_one_run_is_no_group_and_two_cannot_be_significant():
  assert compare([9], [3, 4], 0.05, 0.8) is None
  assert compare([9, 9], [3, 3], 0.05, 0.8).p_value == pytest.approx(1 / 6)
  assert detectable(2, 2, 0.05, 0.8) == math.inf


@pytest.mark.parametrize('runs', [3, 6])
def test_the_detectable_difference_is_found_with_its_power(runs):
  rng = np.random.default_rng(1)
  gain = 20 * detectable(runs, runs, 0.05, 0.8)
  found = 0
  for _ in range(1500):
    first = np.rint(rng.normal(500 + gain, 20, runs)).astype(int).tolist()
    second = np.rint(rng.normal(500, 20, runs)).astype(int).tolist()
    found += compare(first, second, 0.05, 0.8).p_value <= 0.05
  assert 0.8 < found / 1500 < 0.92
