"""Rank tests against enumeration of permutations, scipy's exact Kendall test, the published
thresholds, and simulation.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aevo_jax.stats import concordance, rank_tests


def inversions(permutation) -> int:
  return sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :])


def discordant(rng, rho: float, shape: tuple[int, ...], n: int = 8) -> np.ndarray:
  """Pairs ranked differently by normal scores of correlation rho."""
  x = rng.standard_normal((*shape, n))
  y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal(x.shape)

  def above(v):
    return (v[..., :, None] > v[..., None, :])[..., *np.triu_indices(n, 1)]

  return (above(x) != above(y)).sum(-1)


@pytest.mark.parametrize('n', [1, 2, 5, 7])
def test_mahonian_counts_are_those_of_all_permutations(n):
  counts = np.bincount([inversions(p) for p in itertools.permutations(range(n))])
  assert rank_tests.mahonian(n) == tuple(counts)


def test_published_thresholds_and_sizes():
  for rounds, needed, size in ((1, 22, 0.0305), (2, 38, 0.0483), (3, 55, 0.0368), (4, 70, 0.0474)):
    assert rank_tests.critical((8,) * rounds, 0.05) == needed
    assert rank_tests.reversal_p(needed, (8,) * rounds) == pytest.approx(size, abs=1e-4)
  assert rank_tests.critical((2,), 0.05) is None


def test_sizes_that_differ_by_enumeration():
  sums = [
    inversions(p) + inversions(q)
    for p in itertools.permutations(range(4))
    for q in itertools.permutations(range(3))
  ]
  for d in range(10):
    assert rank_tests.reversal_p(d, (4, 3)) == pytest.approx(np.mean([s >= d for s in sums]))
    assert rank_tests.concordance_p(d, (4, 3)) == pytest.approx(np.mean([s <= d for s in sums]))


def test_one_round_is_kendalls_exact_test():
  rng = np.random.default_rng(0)
  for _ in range(20):
    x, y = rng.random((2, 8))
    d = concordance.discordant_pairs(x, y, seed=0)
    assert rank_tests.reversal_p(d, (8,)) == pytest.approx(
      stats.kendalltau(x, y, method='exact', alternative='less').pvalue
    )
    assert rank_tests.concordance_p(d, (8,)) == pytest.approx(
      stats.kendalltau(x, y, method='exact', alternative='greater').pvalue
    )


@pytest.mark.parametrize('n', [2, 3, 6])
def test_an_e_value_is_the_likelihood_ratio_of_all_permutations_and_has_expectation_1(n):
  every = [inversions(p) for p in itertools.permutations(range(n))]
  pairs = n * (n - 1) // 2

  def ratio(d):
    return np.mean(
      [
        math.factorial(n) * phi ** (pairs - d) / sum(phi ** (pairs - e) for e in every)
        for phi in rank_tests.PHIS
      ]
    )

  for d in set(every):
    assert rank_tests.e_value(d, n) == pytest.approx(ratio(d))
  assert np.mean(rank_tests.e_value(np.array(every), n)) == pytest.approx(1)


def test_e_values_of_eight():
  assert rank_tests.e_value(28, 8) == pytest.approx(1100, abs=1)
  assert rank_tests.e_value(23, 8) < 20 <= rank_tests.e_value(24, 8)
  assert np.isfinite(rank_tests.e_value(np.array([0, 64 * 63 // 2]), 64)).all()


def test_the_e_process_is_a_mixture_over_onsets_and_stays_below_20():
  rng = np.random.default_rng(1)
  each = rank_tests.e_value(discordant(rng, 0, (4000, 6)), 8)
  process = rank_tests.e_process(each, 6)
  for t in range(6):
    bets = [np.prod(each[:, s : t + 1], axis=1) if s <= t else np.ones(len(each)) for s in range(6)]
    np.testing.assert_allclose(process[:, t], np.mean(bets, axis=0))
  assert (process >= 20).any(-1).mean() <= 0.05
  # After three rounds in agreement a reversal is still found; a product from the first round on is
  # not.
  late = np.concatenate(
    [
      rank_tests.e_value(discordant(rng, 0.8, (500, 3)), 8),
      rank_tests.e_value(discordant(rng, -0.9, (500, 3)), 8),
    ],
    axis=1,
  )
  assert (
    (rank_tests.e_process(late, 6)[:, -1] >= 20).mean()
    > 0.9
    > 0.5
    > (np.prod(late, axis=1) >= 20).mean()
  )


def test_e_bh_and_holm_by_hand():
  # Four hypotheses at .05: 80 alone, 40 for two, 26.7 for three, 20 for all.
  for values, expected in (
    ([81, 1, 1, 1], [1, 0, 0, 0]),
    ([79, 1, 1, 1], [0, 0, 0, 0]),
    ([41, 1, 45, 1], [1, 0, 1, 0]),
    ([20, 21, 300, 22], [1, 1, 1, 1]),
  ):
    assert list(rank_tests.e_bh(np.array(values, float), 0.05)) == [bool(e) for e in expected]
  assert list(rank_tests.holm(np.array([0.03, 0.001, 0.02]), 0.05)) == [True, True, True]
  assert list(rank_tests.holm(np.array([0.06, 0.001, 0.03]), 0.05)) == [False, True, False]


def test_ties_are_broken_by_a_fair_coin_that_knows_neither_order_nor_names():
  dev, external = [0.1, 0.2, 0.2, 0.3, 0.3, 0.3], [0.5, 0.5, 0.4, 0.1, 0.1, 0.2]
  scores = list(zip(dev, external, strict=True))
  strict = sum((a - b) * (c - d) < 0 for (a, c), (b, d) in itertools.combinations(scores, 2))
  ties = sum((a - b) * (c - d) == 0 for (a, c), (b, d) in itertools.combinations(scores, 2))
  counts = [concordance.discordant_pairs(dev, external, seed) for seed in range(2000)]
  assert np.mean(counts) == pytest.approx(strict + ties / 2, abs=0.1)
  for seed in range(10):
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 37):
      assert (
        concordance.discordant_pairs([dev[i] for i in order], [external[i] for i in order], seed)
        == counts[seed]
      )


def test_ties_keep_the_size_of_the_exact_test():
  rng = np.random.default_rng(2)
  external = np.round(rng.normal(0.5, 0.02, (3000, 8)), 2)
  found = [
    concordance.discordant_pairs(x, y, seed) >= 22
    for seed, (x, y) in enumerate(zip(rng.random((3000, 8)), external, strict=True))
  ]
  assert np.mean(found) == pytest.approx(0.0305, abs=4 * math.sqrt(0.03 / 3000))


@pytest.mark.parametrize(
  ('rho', 'rounds', 'exact', 'e_process'),
  [(-0.7, 1, 0.47, 0.22), (-0.7, 2, 0.83, 0.45), (-0.9, 1, 0.87, 0.64), (-0.7, 4, 0.98, 0.82)],
)
def test_power_of_the_design(rho, rounds, exact, e_process):
  d = discordant(np.random.default_rng(3), rho, (4000, rounds))
  assert (d.sum(-1) >= rank_tests.critical((8,) * rounds, 0.05)).mean() == pytest.approx(
    exact, abs=0.03
  )
  assert (np.cumprod(rank_tests.e_value(d, 8), -1) >= 20).any(-1).mean() == pytest.approx(
    e_process, abs=0.03
  )


def test_the_detectable_correlation_is_detected_with_that_power():

  def alarm(d):
    return d.sum(-1) >= 55

  rho = rank_tests.detectable_correlation((8, 8, 8), alarm, 0.8)
  assert alarm(discordant(np.random.default_rng(4), rho, (4000, 3))).mean() == pytest.approx(
    0.8, abs=0.05
  )
  assert rank_tests.detectable_correlation((8,), lambda d: d.sum(-1) > 28, 0.8) is None


def test_what_the_e_process_detects_is_detected_with_that_power():
  rho = rank_tests.detectable_by_e_process((8,) * 5, 6, 20.0, 0.8)
  pairs = discordant(np.random.default_rng(5), rho, (4000, 5))
  running = rank_tests.e_process(rank_tests.e_value(pairs, 8), 6)[:, -1]
  assert (running >= 20).mean() == pytest.approx(0.8, abs=0.05)
  # One round more is simulated on from five, and is the same as six at once.
  again = rank_tests.detectable_by_e_process((8,) * 6, 6, 20.0, 0.8)
  rank_tests._bets.cache_clear()
  assert rank_tests.detectable_by_e_process((8,) * 6, 6, 20.0, 0.8) == again > rho
