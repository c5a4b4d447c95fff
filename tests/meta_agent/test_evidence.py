"""Evidence: the noise floor by hand, a schema that holds no file, and reliability against the
closed form.
"""

import json
import math

import numpy as np
import pytest

from aevo_jax.meta_agent import evidence


def test_seed_noise_pools_variances_within_groups():
  noise = evidence.seed_noise([[0.50, 0.52, 0.54], [0.60, 0.64], [0.9]], floor=0.0)
  # sums of squares .0008 and .0008, 2 + 1 degrees of freedom
  assert noise == {
    'seed_sd': pytest.approx(math.sqrt(0.0016 / 3), abs=1e-6),
    'degrees_of_freedom': 3,
    'replicates': 5,
  }


@pytest.mark.parametrize(
  ('groups', 'dof'), [([], 0), ([[0.5]], 0), ([[0.5, 0.5, 0.5]], 2), ([[], [0.1]], 0)]
)
def test_the_floor_holds_where_seeds_agree_or_there_are_none(groups, dof):
  assert evidence.seed_noise(groups, floor=0.005) == {
    'seed_sd': 0.005,
    'degrees_of_freedom': dof,
    'replicates': dof + 1 if dof else 0,
  }


def test_a_row_shows_scores_and_costs_but_no_weights(tiny_run):
  for path in sorted((tiny_run / 'evidence').glob('*.json')):
    collected = json.loads(path.read_text())
    assert (
      collected.keys()
      == {
        'schema',
        'round',
        'standing',
        'trials',
        'failures',
        'noise',
        'reliability',
        'verdicts',
        'attribution',
        'cost',
        'llm',
      }
      and collected['schema'] == evidence.SCHEMA
    )
    for trial in collected['trials']:
      assert trial.keys() == {
        'trial',
        'worker',
        'axis',
        'arm',
        'changes',
        'status',
        'cause',
        'dev',
        'external',
        'external_interval',
        'external_by_family',
        'external_rank',
        'cost',
      }
      if trial['status'] != 'sealed':
        assert trial['dev'] is None and trial['cause']
        continue
      assert trial['cost'].keys() == {'tokens', 'steps', 'flops', 'seconds'} and trial[
        'dev'
      ].keys() == {'overall', 'by_family', 'other_verifier'}
      assert trial['external'] is None or trial['external'] == round(trial['external'], 2)
      if trial['external'] is not None:
        low, high = trial['external_interval']
        assert (
          low < trial['external'] < high
          and trial['external_by_family'].keys() == trial['dev']['by_family'].keys()
        )


def test_a_trial_without_score_has_a_row():
  row = evidence.trial_row(
    trial='r1w1',
    worker=1,
    axis='batch',
    changes={},
    status='failed',
    cause='deadline',
    dev=None,
    external=None,
    external_interval=None,
    external_by_family=None,
    arm='',
    external_rank=None,
    cost={},
  )
  assert row['dev'] is None and row['cause'] == 'deadline'


def score(accuracy, items=1000):
  proportion = {
    'correct': round(accuracy * items),
    'total': items,
    'accuracy': accuracy,
    'low': 0.0,
    'high': 1.0,
  }
  return {'overall': proportion, 'by_family': {'one': proportion}, 'other_verifier': proportion}


def test_reliability_is_what_item_luck_leaves():
  rng = np.random.default_rng(0)
  spread, items, found = 0.03, 400, []
  for _ in range(300):
    truth = 0.5 + spread * rng.standard_normal(8)
    found.append(
      evidence.reliability([score(rng.binomial(items, t) / items, items) for t in truth])['one']
    )
  expected = spread**2 / (spread**2 + 0.25 / items)
  assert abs(np.median(found) - expected) < 0.07
  assert evidence.reliability([score(0.5)] * 8)['overall'] is None  # nothing differs
  assert (
    evidence.reliability([score(0.5), score(0.6)])['overall'] is None
    and evidence.reliability([]) == {}
  )
