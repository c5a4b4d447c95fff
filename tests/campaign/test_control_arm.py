"""Two recipes of a revision: who runs them, which runs are compared, and what levels divide."""

import dataclasses
import types

import pytest

from aevo_jax.campaign.decisions import arms, decisions
from aevo_jax.campaign.decisions.state import CampaignState, TrialState
from aevo_jax.config.constitution import Constitution, Control
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.evaluation.servers import arbiter
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.report.audit import verdicts

CONSTITUTION = Constitution(**{f.name: f.type() for f in dataclasses.fields(Constitution)})
AXES = {name: {f'{name}.x': {'kind': 'float', 'low': 0.0, 'high': 1.0}} for name in 'abc'}
RECIPES = arms.Recipes(
  {}, SearchSpace.from_literals(AXES), dict.fromkeys(('a.x', 'b.x', 'c.x'), 0.5)
)


def policy(round_, explorers=7, **more):
  anchor = Assignment(ANCHOR, {}, {}, '')
  others = [Assignment('c', {'c.x': k / 10}, {'c.x': k / 10}, '') for k in range(explorers)]
  return Policy(round_, '', {}, {}, (), (), (anchor, *others), (), **more)


def armed(round_=5, rules=CONSTITUTION.control):
  named = {'revised': {'a.x': 0.1}, 'control': {'b.x': 0.2}}
  return dataclasses.replace(
    arms._armed(policy(round_), named, rules.workers, RECIPES), look=6, control=7 - round_
  )


def state_of(policies, external=True):
  state = CampaignState()
  for p in policies:
    state.policies[p.round] = {'policy': p.to_json()}
    for worker, assignment in enumerate(p.assignments):
      name = f'r{p.round}w{worker}'
      state.trials[name] = TrialState(
        name, p.round, worker, assignment.axis, p.overlay(worker), 0, external_scored=external
      )
  return state


def test_the_arms_run_two_recipes_in_equal_numbers_and_the_rest_explores():
  first = armed()
  runs = [(a.arm, a.changes) for a in first.assignments]
  assert runs[:3] == [('', {}), ('revised', {'a.x': 0.1}), ('control', {'b.x': 0.2})]
  assert len(runs) == 8 and [arm for arm, _ in runs].count('revised') == 3
  assert runs[-1] == ('', {'c.x': 0.0})  # the agent's first explorer


def test_the_same_recipes_run_until_the_look_also_when_one_is_promoted():
  promoted = dataclasses.replace(RECIPES, standing={'a.x': 0.1})
  second = arms.go_on(policy(6), armed(), CONSTITUTION.control, promoted)
  assert second.look == 6 and second.control == 1
  by_arm = {a.arm: a for a in second.assignments}
  assert by_arm['revised'].axis == ANCHOR and by_arm['revised'].changes == {}
  assert by_arm['control'].changes == {'a.x': 0.5, 'b.x': 0.2}


def test_a_recipe_that_can_no_longer_be_bound_has_no_further_runs():
  defaults = dict(RECIPES.defaults, **{'a.x': -1.0})  # out of the search space
  promoted = dataclasses.replace(RECIPES, standing={'a.x': 0.1}, defaults=defaults)
  second = arms.go_on(policy(6), armed(), CONSTITUTION.control, promoted)
  assert [a.arm for a in second.assignments] == ['', *3 * ['revised'], *4 * ['']]
  assert (
    second.look == 6 and len(arms.go_on(policy(6), second, Control(), RECIPES).assignments) == 8
  )


def test_fresh_runs_of_both_and_every_anchor_of_the_standing_recipe_are_compared():
  state = state_of([policy_lib.starting(3), policy(4), armed(5), armed(6)])
  assert arms.compared(state, 5) is None and arms.compared(state, 4) is None
  found = arms.compared(state, 6)
  assert found['revised'] == ['r5w1', 'r5w3', 'r5w5', 'r6w1', 'r6w3', 'r6w5']
  assert found['control'] == ['r5w2', 'r5w4', 'r5w6', 'r6w2', 'r6w4', 'r6w6']
  assert found['standing'] == ['r0w0', 'r0w1', 'r0w2', 'r4w0', 'r5w0', 'r6w0']
  state.trials['r6w3'].external_scored = False
  assert 'r6w3' not in arms.compared(state, 6)['revised']


def test_a_ledger_of_an_earlier_version_has_no_look():
  old = armed().to_json()
  del old['look']
  assert policy_lib.from_json(old).look == 0 and 'look' not in policy(5).to_json()
  state = state_of([armed()])
  del state.policies[5]['policy']['look']
  assert arms.compared(state, 5) is None and arms.of_trials(state, 5) == {}


@pytest.mark.parametrize(
  ('round_', 'rounds', 'control', 'begins'),
  [
    (5, 4, Control(), arms.NOT_TESTED),
    (4, 4, Control(workers=2), arms.NOT_SEEN),
    (4, 4, Control(), arms.SAME_RECIPE),  # no evidence: both put the standing recipe first
  ],
)
def test_where_there_is_no_test_the_policy_says_why(round_, rounds, control, begins):
  budget = dataclasses.replace(CONSTITUTION.budget, rounds=rounds)
  constitution = dataclasses.replace(CONSTITUTION, budget=budget, control=control)
  found = arms.begin(policy(round_, objectives={'x': 0.0}), {}, [], constitution, RECIPES)
  assert found.reasons[0].startswith(begins) and not found.look
  assert not any(a.arm for a in found.assignments)


def results(revised, control, standing):
  runs = {'revised': revised, 'control': control, 'standing': standing}
  proportions = {}
  for arm, counts in runs.items():
    proportions[arm] = [{'correct': count, 'total': 1000} for count in counts]
  return arbiter.arm_result(proportions, CONSTITUTION)


def test_a_revised_recipe_has_to_beat_the_control_recipe_and_the_standing_one():
  good, bad, standing = [560, 571, 566], [480, 493, 487], [501, 512, 490, 499, 508]
  found = results(good, bad, standing)
  assert found['difference'] == 0.079 and found['over_standing'] == 0.064
  assert found['p_value'] == found['least_p_value'] == 0.05
  assert 0.01 < found['detectable'] < 0.03 and found['standing'] == 5
  # An arm that merely loses less than the other supports nothing.
  timid = results([499, 505, 497], bad, standing)
  assert timid['difference'] > 0 and timid['p_value'] > 0.3
  assert results(good, bad, [500]) is None and results(good, [], standing) is None
  assert results(good[:2], bad[:2], standing)['detectable'] is None


def test_the_audit_compares_the_arms_again_and_leaves_tests_of_earlier_versions():
  state = state_of([policy_lib.starting(3), policy(4), armed(5), armed(6)])
  right = {'r5w1': 60, 'r6w3': 70}

  def external(trial):
    return {'overall': {'correct': right.get(trial, 50), 'total': 100}}

  run = types.SimpleNamespace(state=state, external=external, constitution=CONSTITUTION)
  found = verdicts._control(run, 6)
  assert found['difference'] == 0.05 and (found['revised'], found['standing']) == (6, 6)
  state.attributions = {4: {'rounds': 1}, 6: found}
  assert verdicts._looks(run) == {6: found}


def test_scores_that_were_handed_in_are_of_the_arms_in_turns_whatever_their_dev():
  trials = state_of([armed(6)]).of_round(6)
  for k, trial in enumerate(trials):
    trial.dev = {
      'overall': {'correct': k, 'total': 10, 'accuracy': k / 10, 'low': 0.0, 'high': 1.0},
      'by_family': {},
      'other_verifier': {'correct': k, 'total': 10, 'accuracy': k / 10, 'low': 0.0, 'high': 1.0},
    }
  armed_trials = arms.of_trials(state_of([armed(6)]), 6)
  chosen = decisions.to_release(trials, 5, manual=True, armed=armed_trials)
  assert chosen == ['r6w0', 'r6w1', 'r6w2', 'r6w3', 'r6w4']


@pytest.mark.parametrize(('scorer', 'streams'), [('manual', 1), ('local', 3)])
def test_levels_are_divided_among_the_streams_that_somebody_will_score(scorer, streams):
  """A score that is handed in is of the whole set; the arbiter scores two families as well."""
  state = CampaignState()
  state.started = {'settings': {'arbiter': scorer}}
  part = {'correct': 5, 'total': 10, 'accuracy': 0.5, 'low': 0.2, 'high': 0.8}
  state.trials['r0w0'] = TrialState('r0w0', 0, 0, ANCHOR, '', 0)
  state.trials['r0w0'].dev = {'overall': part, 'by_family': {'a': part, 'b': part}}
  fixed = decisions.fix_levels(state, 3, CONSTITUTION)
  rules = CONSTITUTION.reversal
  looks = CONSTITUTION.budget.rounds - rules.calibration_rounds
  share = rules.slope_share
  if scorer == 'manual':  # there is no gain test, and the others have its share
    share /= 1 - rules.gain_share
    assert fixed['gain_p'] is None
  assert fixed['streams'] == streams
  assert fixed['slope_p'] == pytest.approx(rules.alpha * share / (streams * looks))
