"""Which rounds count as tests of a control arm, and how many trials a round the thresholds are made
for.
"""

import dataclasses

import pytest

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import calibration
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


@pytest.mark.parametrize(('arbiter', 'workers'), [('manual', 4), ('local', 8)])
def test_thresholds_are_for_the_trials_that_somebody_will_score(monkeypatch, arbiter, workers):
  seen = []
  monkeypatch.setattr(
    calibration,
    'thresholds',
    lambda rounds, rules, planned, workers, seed: (
      seen.append(workers) or calibration.Thresholds(1, planned, None, 0)
    ),
  )
  state = CampaignState()
  state.started = {'settings': {'arbiter': arbiter}}
  decisions.fix_thresholds(state, 1, CONSTITUTION, 0)
  assert seen == [workers]
