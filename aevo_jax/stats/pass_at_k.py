"""pass@k without bias: the chance that one of k answers is right, from n answers of which c were
(Chen et al. 2021).
"""

import math


def pass_at_k(n: int, c: int, k: int) -> float:
  """1 - C(n-c, k) / C(n, k): the share of all k-subsets of the n answers that hold a right one.

  Raises:
    ValueError: not 0 <= c <= n, or not 1 <= k <= n: fewer answers than k say nothing without bias.
  """
  if not 0 <= c <= n or not 1 <= k <= n:
    raise ValueError(f'pass@k needs 0 <= c <= n and 1 <= k <= n, got n = {n}, c = {c}, k = {k}')
  return 1 - math.comb(n - c, k) / math.comb(n, k)
