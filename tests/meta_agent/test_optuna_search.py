"""Optuna's samplers as agents, and best of N: what each learns and promotes, and what it needs."""

import dataclasses
import functools
import sys

import pytest
from rounds_by_hand import evidence

from aevo_jax import layout
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.meta_agent.agents.best_of_n import BestOfN
from aevo_jax.meta_agent.agents.optuna_search import Gp, MissingExtraError, Tpe
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


@pytest.mark.parametrize(
  ('agent', 'module', 'fix'),
  [(Tpe, 'optuna', r'aevo-jax\[search\]'), (Gp, 'torch', r'aevo-jax\[gp\].*make gp')],
)
def test_without_what_it_needs_the_error_says_what_to_install(monkeypatch, agent, module, fix):
  # Python's own way to say that a module cannot be imported.
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(MissingExtraError, match=fix):
    decide(agent, START)


def test_the_process_repeats_and_knows_parameters_with_a_default_out_of_range():
  """It learns that averaging helps, of which the starting recipe has none."""
  pytest.importorskip('torch', reason='make gp installs it')
  rows = [('x', {'train.ema_decay': 0.5 + 0.03 * i}, 0.40 + 0.01 * i, None) for i in range(14)]
  history = (START, evidence(1, {}, rows))
  policy = decide(Gp, *history)
  assert policy == decide(Gp, *history)
  decays = [a.overlay['train.ema_decay'] for a in policy.assignments[1:]]
  assert min(decays) > 0.8
