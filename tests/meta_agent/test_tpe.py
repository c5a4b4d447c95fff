"""Optuna's sampler as an agent, and best of N: legal, seeded, pure, and what each promotes."""

import dataclasses
import functools
import sys

import pytest
from rounds_by_hand import evidence

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding
from aevo_jax.meta_agent.agents import tpe
from aevo_jax.meta_agent.agents.best_of_n import BestOfN
from aevo_jax.meta_agent.agents.tpe import Tpe
from aevo_jax.meta_agent.policy import ANCHOR, starting

DEFAULTS = default_values((layout.root_file('substrate') / 'recipe.gin').read_text())
EMA, LORA = {'train.ema_decay': 0.9}, {'adaptation.method': 'lora', 'lora.rank': 8}


@functools.cache
def constitution():
  loading.load([str(layout.root_file('constitution.gin'))], [], search_paths=layout.search_paths())
  return constitution_lib.from_gin()


def decide(agent, *history, seed=0, **fields):
  return agent().decide(
    history,
    dataclasses.replace(starting(2), round=history[-1].round, **fields),
    constitution(),
    DEFAULTS,
    seed,
  )


START = evidence(
  0, {}, [(ANCHOR, {}, 0.4, 0.4), (ANCHOR, {}, 0.41, 0.41), (ANCHOR, {}, None, None)]
)


@pytest.mark.parametrize(
  'agent',
  [Tpe, BestOfN],
  ids=['aevo_jax.meta_agent.agents.tpe', 'aevo_jax.meta_agent.agents.best_of_n'],
)
def test_batches_are_legal_seeded_and_without_repeats(agent):
  history = (
    START,
    evidence(1, {}, [(ANCHOR, {}, 0.4, 0.4), ('x', EMA, 0.45, 0.44), ('x', LORA, 0.3, None)]),
  )
  policy = decide(agent, *history, seed=3)
  assert policy == decide(agent, *history, seed=3) != decide(agent, *history, seed=4)
  assert (
    len(policy.assignments) == constitution().budget.workers
    and policy.assignments[0].axis == ANCHOR
  )
  overlays = [a.overlay for a in policy.assignments[1:]]
  for overlay in overlays:
    constitution().space().check([Binding(s, v) for s, v in overlay.items()], DEFAULTS)
  assert all(
    overlay and overlays.count(overlay) == 1 and overlay not in (EMA, LORA) for overlay in overlays
  )


def test_the_estimator_learns_from_dev():
  """Thirty trials whose dev score is one choice: what is asked for next takes it more often than
  the prior would.
  """
  rows = [
    ('x', {'train.batch_rows': rows}, 0.6 if rows == 32 else 0.4, None)
    for rows in (2, 8, 16, 32) * 8
  ]
  asked = [
    a.overlay.get('train.batch_rows')
    for seed in range(3)
    for a in decide(Tpe, START, evidence(1, {}, rows), seed=seed).assignments[1:]
  ]
  assert asked.count(32) >= 0.5 * len(asked)  # one in five by chance


def test_tpe_keeps_the_best_released_score():
  policy = decide(Tpe, START, evidence(1, {}, [('x', EMA, 0.5, 0.39), ('x', LORA, 0.45, 0.45)]))
  assert policy.standing == LORA and 'best released' in policy.reasons[0]


def test_best_of_n_chooses_once_by_dev_among_what_was_released():
  rows = [('x', EMA, 0.5, 0.35), ('x', LORA, 0.45, 0.45), ('x', {'train.batch_rows': 8}, 0.6, None)]
  assert decide(BestOfN, START, evidence(1, {}, rows)).standing == {}
  last = decide(BestOfN, START, evidence(constitution().budget.rounds, {}, rows))
  assert last.standing == EMA and 'best of 4 trials by dev' in last.reasons[0]
  assert decide(BestOfN, evidence(4, {}, [('x', EMA, None, None)])).standing == {}


def test_without_optuna_the_error_says_what_to_install(monkeypatch):
  # Python's own way to say that a module cannot be imported.
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(tpe.MissingOptunaError, match=r'aevo-jax\[search\]'):
    decide(Tpe, START)
