"""The exact tests, against scipy's enumeration and brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats.comparisons import permutation


def test_it_is_scipys_exact_permutation_test():
  rng = np.random.default_rng(0)
  for _ in range(20):
    first, second = rng.integers(900, 1100, 4), rng.integers(900, 1100, 3)
    expected = stats.permutation_test(
      (first, second),
      lambda a, b: a.mean() - b.mean(),
      alternative='greater',
      n_resamples=np.inf,
    )
    found = permutation.greater_p(first.tolist(), second.tolist())
    assert found == pytest.approx(expected.pvalue)
  assert permutation.least_p(4, 3) == pytest.approx(1 / 35)


def test_ties_count_against_the_claim():
  assert permutation.greater_p([5, 5], [5, 5]) == 1.0


def test_signs_are_flipped_in_all_ways():
  differences = [0.068, 0.041, -0.018, 0.009, -0.025]
  sums = [np.dot(signs, np.abs(differences)) for signs in itertools.product([1, -1], repeat=5)]
  expected = np.mean(np.asarray(sums) >= sum(differences) - 1e-12)
  assert permutation.sign_flip_p(differences) == pytest.approx(expected)
