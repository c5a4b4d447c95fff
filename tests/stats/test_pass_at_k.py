"""pass@k against counting all subsets."""

import itertools

import pytest

from aevo_jax.stats.pass_at_k import pass_at_k


@pytest.mark.parametrize('n', range(1, 8))
def test_it_is_the_share_of_subsets_with_a_right_answer(n):
  for c in range(n + 1):
    for k in range(1, n + 1):
      subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
      assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize('arguments', [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_what_has_no_meaning_is_refused(arguments):
  with pytest.raises(ValueError, match='needs 0 <= c <= n'):
    pass_at_k(*arguments)
