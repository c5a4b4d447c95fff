"""Tests of the comparison of agents on real campaigns (benchmarks/campaign_gain.py); the campaigns
themselves are not run here.
"""

import importlib.util

import numpy as np
import pytest

from aevo_jax import layout


@pytest.fixture(scope='module')
def campaign_gain():
  path = layout.root_file('constitution.gin').parent / 'benchmarks' / 'campaign_gain.py'
  spec = importlib.util.spec_from_file_location('campaign_gain', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_table_counts_won_and_lost_campaigns_of_the_same_seed(campaign_gain):
  rng = np.random.default_rng(0)

  def result(agent, seed, accuracy):
    rows = rng.random((3, 1000)) < accuracy
    gain = {'gain': accuracy - 0.25, 'low': accuracy - 0.28, 'high': accuracy - 0.22}
    return {
      'agent': agent,
      'seed': seed,
      'code': 'abcdef0123',
      'accuracy': {'starting': 0.25, 'promoted': accuracy},
      'gains': {'promoted - base': gain, 'promoted - starting': gain},
      'items': {'promoted': [''.join(map(str, row.astype(int))) for row in rows]},
    }

  text = campaign_gain.table(
    [
      result('statistical', 0, 0.5),
      result('random', 0, 0.3),
      result('statistical', 1, 0.3),
      result('random', 1, 0.5),
      result('random', 2, 0.9),
      result('frozen', 0, 0.5),
    ]
  )
  assert 'statistical against random: won 1, lost 1 of 2' in text  # seed 2 has no peer
  assert 'statistical against frozen: won 0, lost 0 of 1' in text
  assert 'random: above base in 3 of 3, above the starting recipe in 3 of 3' in text
