"""Peers: legal, seeded and without repeats; when each form moves its standing recipe."""

import dataclasses
import functools
import importlib.util

import pytest
from rounds_by_hand import evidence

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding
from aevo_jax.meta_agent.agents import peers
from aevo_jax.meta_agent.agents.halving import Halving, HalvingTested
from aevo_jax.meta_agent.agents.peers import Peer
from aevo_jax.meta_agent.agents.random_search import RandomTested, SparseRandom
from aevo_jax.meta_agent.agents.sparse_gp import SparseGp
from aevo_jax.meta_agent.observations import by_axis
from aevo_jax.meta_agent.policy import ANCHOR, starting
from aevo_jax.meta_agent.registry import AGENTS

DEFAULTS = default_values((layout.root_file('substrate') / 'recipe.gin').read_text())
EMA, BATCH = {'train.ema_decay': 0.9}, {'train.batch_rows': 8}
PEERS = {name: cls for name, cls in AGENTS.items() if issubclass(cls, Peer)}
START = evidence(
  0, {}, [(ANCHOR, {}, 0.4, 0.40), (ANCHOR, {}, 0.4, 0.40), (ANCHOR, {}, 0.41, 0.41)]
)
FIRST = evidence(1, {}, [(ANCHOR, {}, 0.40, 0.40), ('x', EMA, 0.45, 0.46), ('x', BATCH, 0.3, None)])
LOOKS = [('x', EMA, 0.45, 0.46), ('x', EMA, 0.45, 0.45), ('x', EMA, 0.46, 0.46)]
SECOND = evidence(2, {}, [(ANCHOR, {}, 0.4, 0.40), *LOOKS])


@functools.cache
def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def decide(agent, *history, seed=0):
  policy = dataclasses.replace(starting(3), round=history[-1].round, standing=history[-1].standing)
  return agent().decide(history, policy, constitution(), DEFAULTS, seed)


@pytest.mark.parametrize('name', PEERS)
def test_batches_are_legal_and_seeded_and_what_is_new_is_there_once(name):
  for extra in PEERS[name].extras:
    if importlib.util.find_spec(extra.module) is None:
      pytest.skip(extra.missing(name))
  policy = decide(PEERS[name], START, FIRST, seed=3)
  assert policy == decide(PEERS[name], START, FIRST, seed=3)
  assert policy != decide(PEERS[name], START, FIRST, seed=4)
  assert len(policy.assignments) == constitution().budget.workers
  assert policy.assignments[0].axis == ANCHOR
  overlays = [a.overlay for a in policy.assignments[1:]]
  for overlay in overlays:
    constitution().space().check([Binding(s, v) for s, v in overlay.items()], DEFAULTS)
  new = [overlay for overlay in overlays if overlay != EMA]
  assert BATCH not in new and all(overlay and new.count(overlay) == 1 for overlay in new)
  repeats = PEERS[name].tested and not PEERS[name].promotes_last
  assert overlays.count(EMA) == (constitution().release.per_round - 1) * repeats


def test_the_published_form_takes_one_good_score_and_the_tested_one_fresh_looks():
  assert decide(SparseRandom, START, FIRST).standing == EMA
  assert decide(RandomTested, START, FIRST).standing == {}
  promoted = decide(RandomTested, START, FIRST, SECOND)
  assert promoted.standing == EMA and 'fresh looks' in promoted.reasons[0]
  # The anchors of the promoted recipe show that it loses.
  loses = evidence(3, EMA, [(ANCHOR, {}, 0.3, 0.30), (ANCHOR, {}, 0.3, 0.30)])
  back = decide(RandomTested, START, FIRST, SECOND, loses)
  assert back.standing == {} and 'rolled back' in back.reasons[0]


def test_looks_are_compared_with_the_anchors_of_the_present_standing_recipe():
  later = evidence(3, EMA, [(ANCHOR, {}, 0.45, 0.45), ('x', BATCH, 0.5, 0.5)])
  relative = peers.compared_with([START, FIRST, later], EMA)
  assert [e.standing for e in relative] == [EMA] * 3
  assert [[t.changes for t in e.trials] for e in relative] == [[], [EMA, BATCH], [{}, BATCH]]
  assert [a.overlay for a in peers.retests([START, later], EMA, constitution())] == [BATCH] * 3


def test_sparse_recipes_change_one_axis_or_two_of_the_standing_recipe():
  later = evidence(1, EMA, [(ANCHOR, {}, 0.45, 0.45)])
  counts = set()
  for assignment in decide(SparseRandom, START, later).assignments[1:]:
    changed = {s: v for s, v in assignment.overlay.items() if EMA.get(s) != v}
    counts.add(len(by_axis(changed, constitution().space())))
  assert counts == {1, 2}


def test_halving_repeats_the_better_half_and_keeps_the_best_of_the_last_round():
  recipes = [{'train.batch_rows': 8, 'loss.reasoning_weight': 0.5 + 0.1 * i} for i in range(8)]
  rows = [('sparse', recipe, 0.4 + 0.01 * i, None) for i, recipe in enumerate(recipes)]
  history = [START, evidence(1, {}, rows[:4]), evidence(2, {}, rows[4:])]
  third = [a.overlay for a in decide(Halving, *history).assignments[1:]]
  assert third == [recipes[i] for i in (7, 6, 5, 4, 7, 6, 5)]
  history.append(evidence(3, {}, [('halving', r, 0.5, None) for r in third]))
  last = [a.overlay for a in decide(HalvingTested, *history).assignments[1:]]
  # Two are left; the better one takes the explorers whose scores are released.
  better, other = last[0], last[4]
  assert last == [better] * 4 + [other, better, other] and {*map(str, last)} <= {*map(str, third)}
  rows = [(ANCHOR, {}, 0.4, 0.40), ('halving', better, 0.4, 0.41), ('halving', other, 0.4, 0.45)]
  assert decide(Halving, *history, evidence(4, {}, rows)).standing == other


def test_the_plain_process_follows_what_gained():
  """Of twelve recipes only those with averaging gained: most of what it proposes has it."""
  rows = []
  for i in range(6):
    weight = {'loss.reasoning_weight': 0.5 + 0.2 * i}
    rows.append(('gp', weight, 0.40, None))
    rows.append(('gp', {**weight, **EMA}, 0.50, None))
  overlays = [a.overlay for a in decide(SparseGp, START, evidence(1, {}, rows)).assignments[1:]]
  assert sum('train.ema_decay' in overlay for overlay in overlays) >= 6
