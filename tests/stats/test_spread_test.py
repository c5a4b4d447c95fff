"""The test that scatter grew: against scipy, and its rate of false alarms under heavy tails."""

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats.spread_test import grew_p


def test_it_is_welchs_test_of_distances_from_medians():
  rng = np.random.default_rng(0)
  before = [rng.normal(3, 1, 8), rng.normal(-3, 1, 8)]
  since = [rng.normal(0, 2, 8)]
  first = np.concatenate([np.abs(x - np.median(x)) for x in before])
  second = np.abs(since[0] - np.median(since[0]))
  expected = stats.ttest_ind(second, first, equal_var=False, alternative='greater').pvalue
  assert grew_p(before, since) == pytest.approx(expected)


@pytest.mark.parametrize('law', ['normal', 't(3)'])
def test_the_tail_is_kept(law):
  rng = np.random.default_rng(1)
  shape = (4000, 6, 8)
  draws = rng.standard_normal(shape) if law == 'normal' else rng.standard_t(3, shape)
  p = np.array([grew_p(rounds[:2], rounds[2:]) for rounds in draws])
  assert np.mean(p <= 0.01) < 0.015


def test_too_few_values_and_no_scatter():
  flat = np.zeros(4)
  assert grew_p([], [flat]) == 1.0 and grew_p([np.ones(1)], [flat]) == 1.0
  assert grew_p([flat], [flat]) == 1.0 and grew_p([flat], [np.arange(4.0)]) < 0.05
