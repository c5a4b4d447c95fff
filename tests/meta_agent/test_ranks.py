"""The rank tests of verdicts, from histories that grow by a round."""

import numpy as np
import pytest

from aevo_jax.config.sections import Reversal
from aevo_jax.meta_agent.drift import levels, ranks
from aevo_jax.meta_agent.drift.ranks import Pairs
from aevo_jax.stats import rank_tests


def test_the_e_process_of_a_growing_history_is_that_of_all_its_rounds():
  rng = np.random.default_rng(0)
  rows = [Pairs(8, int(pairs)) for pairs in rng.integers(8, 29, size=9)]
  rows[3] = None
  values = [1.0 if row is None else rank_tests.e_value(row.discordant, row.n) for row in rows]
  expected = rank_tests.e_process(np.array(values), 7)
  for done in range(1, 10):
    fixed = levels.fix(Reversal(), round_=done, planned_rounds=7, streams=['a'])
    test = ranks.reversal({'a': tuple(rows[:done])}, Reversal(), fixed)['a']
    assert test.e_value == pytest.approx(expected[done - 1], rel=1e-12)
