"""Evidence: the noise floor by hand, a schema that holds no file, and reliability against the
closed form.
"""

import dataclasses
import json
import math

import numpy as np
import pytest

from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent import evidence
from aevo_jax.meta_agent.evidence import Evidence, EvidenceError, Noise
from aevo_jax.meta_agent.policy import Assignment, starting
from aevo_jax.meta_agent.scores import DevScore, Proportion, reliability


def test_seed_noise_pools_variances_within_groups():
  noise = Noise.pooled([[0.50, 0.52, 0.54], [0.60, 0.64], [0.9]], floor=0.0)
  # sums of squares .0008 and .0008, 2 + 1 degrees of freedom
  assert noise == Noise(pytest.approx(math.sqrt(0.0016 / 3), abs=1e-6), 3, 5)


@pytest.mark.parametrize(
  ('groups', 'dof'), [([], 0), ([[0.5]], 0), ([[0.5, 0.5, 0.5]], 2), ([[], [0.1]], 0)]
)
def test_the_floor_holds_where_seeds_agree_or_there_are_none(groups, dof):
  assert Noise.pooled(groups, floor=0.005) == Noise(0.005, dof, dof + 1 if dof else 0)


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
  trial = TrialState('r1w1', 1, 0, 'batch', '', 0, status='failed', cause='deadline')
  assignment = Assignment('batch', {}, {}, 'because')
  policy = dataclasses.replace(starting(1), round=1, assignments=(assignment,))
  state = CampaignState()
  state.trials['r1w1'] = trial
  rules = Constitution(**{f.name: f.type() for f in dataclasses.fields(Constitution)})
  (row,) = round_evidence(state, 1, policy, rules).to_json()['trials']
  assert row['dev'] is None and row['cause'] == 'deadline'


def old_evidence():
  part = {'correct': 3, 'total': 4, 'accuracy': 0.75, 'low': 0.3, 'high': 0.95}
  row = {
    'trial': 'r1w0',
    'worker': 0,
    'axis': 'anchor',
    'changes': {},
    'status': 'sealed',
    'cause': '',
    'dev': {'overall': part, 'by_family': {'one': part}},
    'external': 0.5,
    'external_rank': 0,
    'cost': {'tokens': 1, 'steps': 2, 'flops': 3.0},
  }
  noise = {'seed_sd': 0.005, 'degrees_of_freedom': 1, 'replicates': 2}
  return {'schema': 1, 'round': 1, 'standing': {}, 'trials': [row], 'noise': noise}


def test_evidence_is_rendered_back_to_the_same_bytes(tiny_run):
  texts = [path.read_text() for path in (tiny_run / 'evidence').glob('*.json')]
  texts.append(json.dumps(old_evidence(), indent=1, sort_keys=True) + '\n')
  assert len(texts) > 2
  for text in texts:
    assert Evidence.from_json(text).to_text() == text


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', 'no evidence'),
    ('[]', 'no evidence'),
    ('{"schema": 3}', 'of schema 3'),
    ('{"schema": 2}', "KeyError: 'trials'"),
    (json.dumps(old_evidence() | {'surprise': 1}), 'surprise'),
  ],
)
def test_what_is_no_evidence_is_refused(text, words):
  with pytest.raises(EvidenceError, match=words):
    Evidence.from_json(text)


def score(accuracy, items=1000):
  proportion = Proportion(round(accuracy * items), items, accuracy)
  return DevScore(proportion, {'one': proportion}, proportion)


def test_reliability_is_what_item_luck_leaves():
  rng = np.random.default_rng(0)
  spread, items, found = 0.03, 400, []
  for _ in range(300):
    truth = 0.5 + spread * rng.standard_normal(8)
    found.append(reliability([score(rng.binomial(items, t) / items, items) for t in truth])['one'])
  expected = spread**2 / (spread**2 + 0.25 / items)
  assert abs(np.median(found) - expected) < 0.07
  assert reliability([score(0.5)] * 8)['overall'] is None  # nothing differs
  assert reliability([score(0.5), score(0.6)])['overall'] is None and reliability([]) == {}
