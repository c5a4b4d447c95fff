"""Evidence: the noise floor by hand, and a schema that holds no clock and no file."""

import json
import math

import pytest

from aevo_jax.meta_agent import evidence


def test_seed_noise_pools_variances_within_groups():
  noise = evidence.seed_noise([[0.50, 0.52, 0.54], [0.60, 0.64], [0.9]], floor=0.0)
  # sums of squares .0008 and .0008, 2 + 1 degrees of freedom
  assert noise == {'seed_sd': pytest.approx(math.sqrt(0.0016 / 3), abs=1e-6), 'degrees_of_freedom': 3, 'replicates': 5}


@pytest.mark.parametrize(('groups', 'dof'), [([], 0), ([[0.5]], 0), ([[0.5, 0.5, 0.5]], 2), ([[], [0.1]], 0)])
def test_the_floor_holds_where_seeds_agree_or_there_are_none(groups, dof):
  assert evidence.seed_noise(groups, floor=0.005) == {'seed_sd': 0.005, 'degrees_of_freedom': dof, 'replicates': dof + 1 if dof else 0}


def test_a_row_shows_scores_but_no_seconds_and_no_weights(tiny_run):
  for path in sorted((tiny_run / 'evidence').glob('*.json')):
    collected = json.loads(path.read_text())
    assert collected.keys() == {'schema', 'round', 'standing', 'trials', 'noise', 'llm'} and collected['schema'] == evidence.SCHEMA
    for trial in collected['trials']:
      assert trial.keys() == {'trial', 'worker', 'axis', 'changes', 'status', 'cause', 'dev', 'external', 'external_rank', 'cost'}
      if trial['status'] != 'sealed':
        assert trial['dev'] is None and trial['cause']
        continue
      assert trial['cost'].keys() == {'tokens', 'steps', 'flops'} and trial['dev'].keys() == {'overall', 'by_family', 'other_verifier'}
      assert trial['external'] is None or trial['external'] == round(trial['external'], 2)
    assert 'second' not in path.read_text()


def test_a_trial_without_score_has_a_row():
  row = evidence.trial_row(trial='r1w1', worker=1, axis='batch', changes={}, status='failed', cause='deadline', dev=None, external=None, external_rank=None, cost={})
  assert row['dev'] is None and row['cause'] == 'deadline'
