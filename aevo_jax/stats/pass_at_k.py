"""pass@k without bias: the probability that one of k answers is right (Chen et al., 2107.03374)."""

import math


def pass_at_k(n: int, c: int, k: int) -> float:
  """Computes pass@k = 1 - C(n - c, k) / C(n, k).

  That is the share of all k-subsets of the n answers that hold a right one:

      >>> pass_at_k(4, 1, 2)
      0.5

  Args:
    n: answers that were sampled.
    c: how many of them are right.
    k: size of the subsets, at most n.

  Returns:
    A probability. Its expectation over samples is the true pass@k.

  Raises:
    ValueError: not 0 <= c <= n, or not 1 <= k <= n. Fewer answers than k give no unbiased estimate.
  """
  if not 0 <= c <= n or not 1 <= k <= n:
    raise ValueError(f'pass@k needs 0 <= c <= n and 1 <= k <= n, got n = {n}, c = {c}, k = {k}')
  return 1 - math.comb(n - c, k) / math.comb(n, k)
