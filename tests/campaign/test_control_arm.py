"""Which rounds count as tests of a control arm, and how many trials a round the thresholds are made
for.
"""

import dataclasses

import numpy as np
import pytest

from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import calibration
from aevo_jax.meta_agent.llm import agent
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.stats import concordance

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
def test_thresholds_are_for_the_trials_that_somebody_will_score(arbiter, workers):
  rng = np.random.default_rng(0)
  rounds = [
    concordance.reduce_round(
      {'overall': dict(enumerate(rng.standard_normal(4)))},
      {'overall': dict(enumerate(rng.standard_normal(4)))},
      {},
      0,
    )
    for _ in range(2)
  ]
  of_workers = {
    n: calibration.thresholds(
      rounds, CONSTITUTION.reversal, CONSTITUTION.budget.rounds, n, trial_seed(0, 'thresholds')
    )
    for n in (4, 8)
  }
  assert of_workers[4].slope_p != of_workers[8].slope_p
  state = CampaignState()
  state.started = {'settings': {'arbiter': arbiter}}
  state.concordance = {1: rounds[0], 2: rounds[1]}
  fixed = decisions.fix_thresholds(state, 3, CONSTITUTION, 0)
  assert fixed == dataclasses.asdict(of_workers[workers])
