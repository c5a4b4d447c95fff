"""The frozen policy: the first round's way of assigning for ever, and one promotion at the end."""

import functools

import numpy as np
import pytest
import rounds_by_hand

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agents.frozen import Frozen
from aevo_jax.meta_agent.agents.statistical import Statistical
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import ANCHOR

DEFAULTS = default_values((layout.root_file('substrate') / 'recipe.gin').read_text())


@functools.cache
def shipped() -> constitution_lib.Constitution:
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    ['budget.rounds = 3', 'budget.workers = 5'],
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


def evidence(policy: policy_lib.Policy, scores) -> Evidence:
  """Every trial's dev and released external score is scores(assignment)."""
  rows = [(a.axis, a.changes, scores(a), round(scores(a), 2)) for a in policy.assignments]
  return rounds_by_hand.evidence(policy.round, policy.standing, rows, dof=5)


def campaign(scores) -> list[policy_lib.Policy]:
  policies, history = [policy_lib.starting(4)], []
  for round_ in range(4):
    history.append(evidence(policies[-1], scores))
    policies.append(Frozen().decide(history, policies[-1], shipped(), DEFAULTS, seed=round_))
  return policies


@pytest.fixture(scope='module')
def quiet():
  return campaign(lambda a: 0.5)


def test_every_round_explores_from_the_starting_recipe_with_draws_of_its_own(quiet):
  first = Statistical().decide(
    [evidence(quiet[0], lambda a: 0.5)], quiet[0], shipped(), DEFAULTS, seed=0
  )
  assert quiet[1].assignments == first.assignments and quiet[1].parent == quiet[0].digest()
  drawn = [tuple(policy_lib.render_overlay(a.overlay) for a in p.assignments) for p in quiet[1:4]]
  assert len(set(drawn)) == 3 and all(
    p.assignments[0].axis == ANCHOR and len(p.assignments) == 5 for p in quiet[1:4]
  )
  assert all(p.standing == {} and not p.dead_ends and not p.demoted for p in quiet[1:])
  assert [p.round for p in quiet] == [0, 1, 2, 3, 4] and [p.parent for p in quiet[1:]] == [
    p.digest() for p in quiet[:-1]
  ]


def test_nothing_is_learnt_before_the_last_round(quiet):
  rng = np.random.default_rng(0)
  other = campaign(lambda a: 0.5 if a.axis == ANCHOR else float(rng.uniform(0.1, 0.9)))
  assert [p.assignments for p in other[1:3]] == [p.assignments for p in quiet[1:3]]
  assert all(p.standing == {} for p in other[:4])


def test_the_last_round_looks_again_at_the_best_and_the_promotion_rule_speaks_once(quiet):
  """The best change of round 2, by far: promoted after the last round and not before."""
  best = policy_lib.render_overlay(quiet[2].assignments[3].changes)
  won = campaign(
    lambda a: 0.8 if a.changes and policy_lib.render_overlay(a.changes) == best else 0.5
  )
  looks = [policy_lib.render_overlay(a.changes) == best for a in won[3].assignments]
  assert looks == [False, True, True, True, False]
  assert [bool(p.standing) for p in won] == [False, False, False, False, True]
  assert won[4].standing == quiet[2].assignments[3].changes and 'gained +0.300' in won[4].reasons[0]
  # .004 vanishes in two released decimals.
  assert campaign(lambda a: 0.504 if a.changes else 0.5)[4].standing == {}
