"""Which rounds count as tests of a control arm, and what levels are divided among."""

import dataclasses

import pytest

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.llm import agent
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

CONSTITUTION = Constitution(**{f.name: f.type() for f in dataclasses.fields(Constitution)})


def state_with_arms(round_=3):
  state, arms = CampaignState(), ('', 'revised', 'revised', 'control')
  assignments = tuple(Assignment('axis' if arm else ANCHOR, {}, {}, '', arm=arm) for arm in arms)
  state.policies[round_] = {
    'policy': Policy(
      round_, '', {}, {}, (), (), assignments, (), objectives={'a': 0.0}, control=2
    ).to_json()
  }
  for worker in range(4):
    name = f'r{round_}w{worker}'
    state.trials[name] = TrialState(
      name, round_, worker, assignments[worker].axis, '', 0, external_scored=True
    )
  return state


def test_arms_are_those_of_the_policy_without_the_anchor():
  assert decisions.arms(state_with_arms(), 3) == {'revised': ['r3w1', 'r3w2'], 'control': ['r3w3']}


def test_an_arm_without_a_scored_trial_is_no_test():
  state = state_with_arms()
  state.trials['r3w3'].external_scored = False
  assert decisions.arms(state, 3) is None


@pytest.mark.parametrize(
  ('key', 'tested'),
  [
    ((3, agent.POLICY), False),
    ((3, agent.CONTROL), False),
    ((2, agent.POLICY), True),
    ((3, agent.worker(1)), True),
  ],
)
def test_arms_that_different_agents_chose_are_no_test(key, tested):
  state = state_with_arms()
  state.fell_back[key] = 'no usable reply'
  assert (decisions.arms(state, 3) is not None) == tested


@pytest.mark.parametrize(('arbiter', 'streams'), [('manual', 1), ('local', 3)])
def test_levels_are_divided_among_the_streams_that_somebody_will_score(arbiter, streams):
  """A score that is handed in is of the whole set; the arbiter scores two families as well."""
  state = CampaignState()
  state.started = {'settings': {'arbiter': arbiter}}
  part = {'correct': 5, 'total': 10, 'accuracy': 0.5, 'low': 0.2, 'high': 0.8}
  state.trials['r0w0'] = TrialState('r0w0', 0, 0, ANCHOR, '', 0)
  state.trials['r0w0'].dev = {'overall': part, 'by_family': {'a': part, 'b': part}}
  fixed = decisions.fix_levels(state, 3, CONSTITUTION)
  rules = CONSTITUTION.reversal
  looks = CONSTITUTION.budget.rounds - rules.calibration_rounds
  share = rules.slope_share
  if arbiter == 'manual':  # there is no gain test, and the others have its share
    share /= 1 - rules.gain_share
    assert fixed['gain_p'] is None
  assert fixed['streams'] == streams
  assert fixed['slope_p'] == pytest.approx(rules.alpha * share / (streams * looks))
