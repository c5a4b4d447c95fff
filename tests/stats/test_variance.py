"""Variances and the t test of a gain against scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats import variance
from aevo_jax.stats.comparisons import mean_gain


def test_the_pooled_sd_is_that_of_an_analysis_of_variance():
  rng = np.random.default_rng(0)
  groups = [rng.standard_normal(n) for n in (2, 5, 1, 9)]
  pooled = variance.pooled_sd(groups)
  within = sum(np.var(g, ddof=1) * (len(g) - 1) for g in groups if len(g) > 1) / 13
  assert pooled == pytest.approx((within**0.5, 13, 16))
  assert variance.pooled_sd([[0.5], []]) == (0.0, 0, 0)


def test_the_variance_of_an_accuracy_is_the_binomial_one_and_never_0():
  assert variance.binomial_variance(4000, 10000) == pytest.approx(0.4 * 0.6 / 10000, rel=1e-3)
  assert variance.binomial_variance(0, 10) > 0


def test_reliability_needs_three_scores_that_differ():
  assert variance.reliability([0.1, 0.2, 0.3], [0.0025] * 3) == pytest.approx(0.75)
  assert variance.reliability([0.1, 0.2, 0.3], [1.0] * 3) == 0.0
  assert variance.reliability([0.1, 0.2], [0.0] * 2) is None
  assert variance.reliability([0.1] * 4, [0.0] * 4) is None


@pytest.mark.parametrize('freedom', [0, 1, 7])
def test_the_p_value_of_a_gain_is_students(freedom):
  t = 0.03 / (0.02 * (1 / 2 + 1 / 8) ** 0.5)
  expected = stats.t.sf(t, max(freedom, 1))
  assert mean_gain.gain_p(0.03, 0.02, freedom, 2, 8) == pytest.approx(expected)
  assert mean_gain.gain_p(-0.03, 0.02, freedom, 2, 8) == pytest.approx(1 - expected)
