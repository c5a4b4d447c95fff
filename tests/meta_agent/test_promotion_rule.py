"""The promotion rule by hand: which looks test, the p value by scipy, levels, and families."""

import dataclasses
import math

import numpy as np
import pytest
from rounds_by_hand import evidence
from scipy import stats
from simulated_campaigns import shipped

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.round_evidence import round_evidence
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.meta_agent import observations, promotion_rule
from aevo_jax.meta_agent.evidence import ExternalNoise, TrialEvidence
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, starting
from aevo_jax.meta_agent.promotion_rule import Candidate
from aevo_jax.meta_agent.scores import ReleasedScore
from aevo_jax.stats.comparisons.mean_gain import Sample, welch_p

EMA = {'train.ema_decay': 0.8}


def test_welch_is_scipys_test_of_two_samples():
  rng = np.random.default_rng(0)
  one = rng.normal(0.02, 0.03, 5)
  other = rng.normal(0.0, 0.01, 8)
  expected = stats.ttest_ind(one, other, equal_var=False, alternative='greater').pvalue
  samples = [Sample(float(np.std(x, ddof=1)), len(x) - 1, len(x)) for x in (one, other)]
  assert welch_p(one.mean() - other.mean(), *samples) == pytest.approx(expected)


def trials(scores, family=None):
  by_family = None if family is None else {'one': ReleasedScore(family, 500)}
  return [TrialEvidence(external=s, external_by_family=by_family) for s in scores]


def candidate(looks, anchors, number=0, tests=1, family=None) -> Candidate:
  parts = (trials(looks, family), trials(anchors, 0.5))
  return Candidate(number, 'averaging', EMA, {}, *parts, tests=tests, latest=2)


def test_the_variance_is_the_largest_of_own_pooled_anchors_and_floor():
  scores = [0.5, 0.54, 0.58]  # sd .04
  for noise, sd, freedom in (
    (ExternalNoise(0.01, 4, 0.02, 3), 0.04, 3),
    (ExternalNoise(0.01, 4, 0.06, 3), 0.06, 3),
    (ExternalNoise(0.07, 4, 0.02, 5), 0.07, 5),
    (ExternalNoise(), 0.04, 2),
  ):
    assert promotion_rule.change_sample(noise, scores, shipped()) == pytest.approx((sd, freedom, 3))
  same = promotion_rule.change_sample(ExternalNoise(), [0.5, 0.5], shipped())
  assert same.sd == shipped().promotion.seed_sd_floor
  coarse = dataclasses.replace(
    shipped(), release=dataclasses.replace(shipped().release, decimals=1)
  )
  assert promotion_rule.floor(coarse) == pytest.approx(0.1 / math.sqrt(12))


def test_levels_add_up_to_the_campaigns_and_end_with_the_last_candidate():
  total = 0.0
  for number in range(shipped().promotion.candidates + 2):
    for test in range(1, 40):
      total += promotion_rule.level(shipped(), number, test)
  assert total == pytest.approx(1 - shipped().promotion.confidence)
  noise = ExternalNoise(0.005, 5, 0.005, 4)
  gains = ([0.6] * 3, [0.5] * 5)
  assert promotion_rule.passes(candidate(*gains), noise, shipped())
  for other in (
    candidate(*gains, number=shipped().promotion.candidates),
    candidate([0.6] * 2, [0.5] * 5),
  ):
    assert not promotion_rule.passes(other, noise, shipped())
  assert not promotion_rule.passes(candidate(*gains), ExternalNoise(), shipped())


@pytest.mark.parametrize(('family', 'falls'), [(0.45, False), (0.44, True), (0.9, False)])
def test_a_protected_family_may_not_fall_below_its_floor(family, falls):
  change = candidate([0.6] * 3, [0.5] * 5, family=family)
  assert bool(change.fallen(shipped())) is falls
  rule = dataclasses.replace(shipped().promotion, unprotected=('one',))
  assert not change.fallen(dataclasses.replace(shipped(), promotion=rule))


def test_looks_that_were_fixed_before_they_were_seen_make_a_candidate():
  other = {'train.ema_decay': 0.9}
  anchor = (ANCHOR, {}, 0.5, 0.5)
  history = [
    evidence(1, {}, [anchor, ('averaging', EMA, 0.6, 0.6), ('averaging', other, 0.6, None)]),
    evidence(2, {}, [anchor, ('averaging', other, 0.6, 0.7)]),
    evidence(3, {}, [anchor] + [('averaging', EMA, 0.6, score) for score in (0.61, 0.62, None)]),
    evidence(4, EMA, [anchor, ('averaging', other, 0.6, 0.8)]),  # of another standing recipe
  ]
  first, second = observations.candidates(history, shipped())
  assert (first.changes, [t.external for t in first.looks], first.number) == (other, [0.7], 0)
  assert [t.external for t in second.looks] == [0.61, 0.62]
  assert (second.number, second.latest, second.tests, len(second.anchors)) == (1, 3, 0, 3)


def state() -> CampaignState:
  """Two rounds: B of the first is repeated in the second, and C runs twice there."""
  found = CampaignState()
  for name, overlay, dev, released in (
    ('r1w0', '', 0.5, 0.50),
    ('r1w1', 'B', 0.6, 0.60),
    ('r2w0', '', 0.5, 0.52),
    ('r2w1', 'B', 0.1, 0.62),
    ('r2w2', 'C', 0.2, 0.55),
    ('r2w3', 'C', 0.3, 0.57),
    ('r2w4', 'D', 0.9, 0.70),
  ):
    axis = 'axis' if overlay else ANCHOR
    trial = TrialState(name, int(name[1]), int(name[3]), axis, overlay, 0, status='sealed')
    part = {'correct': 1, 'total': 2, 'accuracy': dev, 'low': 0, 'high': 1}
    trial.dev = {'overall': part, 'by_family': {}, 'other_verifier': part}
    trial.released = released
    trial.external_scored = True
    found.trials[name] = trial
  return found


def test_repeats_are_released_whatever_their_dev_scores_are():
  repeats = decisions.repeated(state(), 2)
  assert repeats == {'r2w1', 'r2w2', 'r2w3'} and not decisions.repeated(state(), 1)
  order = decisions.to_release(state().of_round(2), 5, repeats=repeats)
  assert order == ['r2w0', 'r2w1', 'r2w2', 'r2w3', 'r2w4']
  assert decisions.to_release(state().of_round(2), 2) == ['r2w0', 'r2w4']


def test_external_noise_leaves_out_the_look_that_selected():
  anchor = Assignment(ANCHOR, {}, {}, '')
  change = Assignment('axis', {'a': 1}, {}, '')
  policy = dataclasses.replace(starting(1), round=2, assignments=(anchor, *[change] * 4))
  noise = round_evidence(state(), 2, policy, shipped()).noise.external
  # Anchors .50 and .52; of B and of C one look each is left.
  assert noise == ExternalNoise(pytest.approx(0.01 * math.sqrt(2), abs=1e-6), 1, 0.0, 0)
  three = state()
  three.trials['r2w4'].overlay = 'C'
  noise = round_evidence(three, 2, policy, shipped()).noise.external
  assert (noise.changed_sd, noise.changed_freedom) == (
    pytest.approx(0.13 / math.sqrt(2), abs=1e-6),
    1,
  )
