"""Random search: legal, seeded, and it keeps the best released score."""

import dataclasses
import functools

from rounds_by_hand import evidence

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding
from aevo_jax.meta_agent.agents import random_search
from aevo_jax.meta_agent.agents.random_search import RandomSearch
from aevo_jax.meta_agent.policy import ANCHOR, starting

DEFAULTS = default_values((layout.root_file('substrate') / 'recipe.gin').read_text())
EMA, BATCH = {'train.ema_decay': 0.9}, {'train.batch_rows': 8}


@functools.cache
def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def scored(round_, standing, rows):
  """rows: (axis, changes, released external score)."""
  return evidence(round_, standing, [(axis, changes, None, score) for axis, changes, score in rows])


def decide(*history, seed=0, policy=None):
  return RandomSearch().decide(
    history,
    policy or dataclasses.replace(starting(2), round=history[-1].round),
    constitution(),
    DEFAULTS,
    seed,
  )


def test_the_best_released_score_stands_and_ties_keep_the_earlier():
  first = scored(0, {}, [(ANCHOR, {}, 0.30), (ANCHOR, {}, 0.31)])
  second = scored(
    1,
    {},
    [
      (ANCHOR, {}, 0.30),
      ('random', EMA, 0.35),
      ('random', BATCH, 0.35),
      ('random', {'train.batch_rows': 4}, None),
    ],
  )
  assert decide(first).standing == {}
  assert decide(first, second).standing == EMA
  third = scored(2, EMA, [(ANCHOR, {}, 0.40), ('random', BATCH, 0.39)])
  assert decide(first, second, third).standing == EMA  # the anchor of round 2 is EMA
  assert decide(first, scored(1, {}, [('random', EMA, None)])).standing == {}


def test_draws_are_legal_seeded_and_vary():
  rules, seen = constitution(), set()
  space = rules.space()
  for seed in range(20):
    policy = decide(scored(0, {}, [(ANCHOR, {}, 0.3)]), seed=seed)
    assert seed or policy == decide(scored(0, {}, [(ANCHOR, {}, 0.3)]), seed=seed)
    assert len(policy.assignments) == rules.budget.workers and policy.assignments[0].axis == ANCHOR
    for assignment in policy.assignments[1:]:
      assert assignment.overlay and assignment.axis == random_search.AXIS
      space.check([Binding(s, v) for s, v in assignment.overlay.items()], DEFAULTS)
      seen |= assignment.overlay.keys()
  assert seen == set(space.selectors)
