"""The reversal timeline: which rounds belong to a revision, and what is said of its control arm."""

import dataclasses

import pytest

from aevo_jax.campaign.decisions import arms
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.report import timeline

CONSTITUTION = Constitution(**{f.name: f.type() for f in dataclasses.fields(Constitution)})


def policy(round_, **more):
  return Policy(
    round_, '', {}, {}, (), (), (Assignment(ANCHOR, {}, {}, ''),), more.pop('reasons', ()), **more
  )


def proportion(right):
  return {'correct': right, 'total': 100, 'accuracy': right / 100, 'low': 0.0, 'high': 1.0}


def verdict(name='undetermined', **more):
  return {
    'verdict': name,
    'test': 'slope',
    'p_value': 0.001,
    'e_value': None,
    'n': 16,
    'minimum_detectable_effect': 0.4,
    'effect': 'slope_drop',
    'why': '',
  } | more


def state_with(trials, verdicts):
  state = CampaignState()
  for name, round_, dev in trials:
    state.trials[name] = TrialState(
      name,
      round_,
      len(state.trials),
      ANCHOR,
      '',
      0,
      dev={'overall': proportion(dev), 'by_family': {'a': proportion(dev + 10)}},
    )
  state.verdicts, state.concordance = verdicts, {k: {'a': {}, 'overall': {}} for k in verdicts}
  return state


def test_looks_are_means_of_a_round_with_the_trust_of_the_policy_that_followed():
  state = state_with(
    [('r1w0', 1, 20), ('r1w1', 1, 30), ('r2w0', 2, 40)],
    {
      1: {'a': verdict(), 'overall': verdict()},
      2: {'a': verdict('decoupled'), 'overall': verdict()},
    },
  )
  policies = {
    1: policy(1),
    2: policy(2),
    3: policy(3, objectives={'a': -0.5}, trust={'dev': {'a': 0.0}}),
  }
  found = timeline.looks(
    state, policies, lambda trial, stream: 0.1 if trial.trial == 'r2w0' and stream == 'a' else None
  )
  assert list(found) == ['a', 'overall']
  first, second = found['a']
  assert (first.dev, first.external, first.trust, first.worth, first.alarm) == (
    pytest.approx(0.35),
    None,
    1.0,
    1.0,
    False,
  )
  assert (second.dev, second.external, second.trust, second.worth, second.alarm) == (
    pytest.approx(0.5),
    0.1,
    0.0,
    -0.5,
    True,
  )
  assert (
    second.statistic == 'p = 0.001 (slope, 16 trials)'
    and second.detectable == 'detectable: slope drop of 0.40'
  )
  assert found['overall'][1].worth == 1.0


def result(p, least=0.001, **more):
  return {
    'difference': 0.03,
    'over_standing': 0.02,
    'p_value': p,
    'least_p_value': least,
    'detectable': 0.021,
    'revised': 6,
    'control': 6,
    'standing': 9,
  } | more


@pytest.mark.parametrize(
  ('look', 'found', 'reason', 'outcome'),
  [
    (4, {}, 'control arm: ...', timeline.NOT_TESTED),  # the rounds ended before the look
    (4, {4: result(0.2)}, 'control arm: ...', timeline.NOT_SUPPORTED),
    (4, {4: result(0.05)}, 'control arm: ...', timeline.SUPPORTED),
    (4, {4: result(0.2, 0.2, detectable=None)}, 'control arm: ...', timeline.NOT_SEEN),
    (4, {4: None}, 'control arm: ...', timeline.NOT_TESTED),
    (0, {}, f'{arms.NOT_TESTED}: ...', timeline.NOT_TESTED),
    (0, {}, f'{arms.NOT_SEEN}: ...', timeline.NOT_SEEN),
    (0, {}, arms.SAME_RECIPE, timeline.NOT_SUPPORTED),
    (0, {3: {'p_value': 0.01, 'least_p_value': 0.001, 'difference': 0.02, 'revised': 4,
             'control': 3, 'rounds': 1}}, 'control arm: ...', timeline.EARLIER),
  ],
)  # fmt: skip
def test_the_look_of_a_revision_decides(look, found, reason, outcome):
  state = state_with([], {})
  state.attributions = found
  state.finished = {}
  dev = 'a: dev is decoupled (...)'
  policies = {
    2: policy(2),
    3: policy(3, objectives={'a': 0.0}, look=look, reasons=(dev, 'promoted x', reason)),
    4: policy(4, objectives={'a': 0.0}, look=look),
  }
  (revision,) = timeline.revisions(state, policies, CONSTITUTION)
  assert (revision.round, revision.outcome, revision.reasons) == (3, outcome, (dev, reason))
  assert revision.before == ('every family: raise dev, promote on external',)
  assert revision.after == ('a: external only',)
  assert bool(revision.measured) == (revision.result is not None)


def test_a_revision_while_arms_run_is_not_tested_by_them_and_a_look_ahead_is_not_over():
  state = state_with([], {})
  policies = {
    2: policy(2),
    3: policy(3, objectives={'a': 0.0}, look=5),
    4: policy(4, objectives={'a': 0.0, 'b': 0.0}, look=5),
  }
  first, second = timeline.revisions(state, policies, CONSTITUTION)
  assert first.outcome == second.outcome == timeline.NOT_YET
  state.attributions, state.finished = {5: result(0.01)}, {}
  first, second = timeline.revisions(state, policies, CONSTITUTION)
  assert (first.outcome, second.outcome) == (timeline.SUPPORTED, timeline.NOT_TESTED)
