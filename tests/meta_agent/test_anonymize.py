"""Names cannot steer an agent: other names, the same decision under them."""

import dataclasses
import json

import numpy as np
import pytest
from rounds_by_hand import proportion

from aevo_jax.config.constitution import Budget, Constitution, DevSet, SearchSpaceText
from aevo_jax.meta_agent import anonymize
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.anonymize import Names
from aevo_jax.meta_agent.evidence import Cost, Evidence, Noise, TrialEvidence
from aevo_jax.meta_agent.registry import AGENTS
from aevo_jax.meta_agent.scores import DevScore, Proportion, ReleasedScore

FAMILIES = ('apples', 'pears', 'plums')
AXES = {
  'one': {
    'update.rate': {'kind': 'float', 'low': 0.1, 'high': 1.0},
    'update.rule': {'kind': 'choice', 'choices': ['x', 'y']},
  },
  'two': {
    f'weight.{FAMILIES[0]}': {'kind': 'float', 'low': 0.0, 'high': 1.0},
    f'weight.{FAMILIES[1]}': {'kind': 'float', 'low': 0.0, 'high': 1.0},
  },
  'three': {f'style.{FAMILIES[1]}': {'kind': 'choice', 'choices': ['long', 'short']}},
  'four': {
    f'style.{FAMILIES[2]}': {'kind': 'choice', 'choices': ['long', 'short']},
    'only.if': {'kind': 'bool', 'when': {f'style.{FAMILIES[2]}': ['short']}},
  },
}
DEFAULTS = (
  {'update.rate': 0.5, 'update.rule': 'x', 'only.if': False}
  | {f'weight.{f}': 0.5 for f in FAMILIES}
  | {f'style.{f}': 'long' for f in FAMILIES}
)
RULES = Constitution(
  **{f.name: f.type() for f in dataclasses.fields(Constitution)}
  | {'budget': Budget(rounds=3, workers=5), 'search_space': SearchSpaceText(AXES)}
)


def score(rng, families):
  by_family = {f: proportion(int(rng.integers(40, 160)) / 200, 200) for f in families}
  total = sum(p.correct for p in by_family.values())
  overall = Proportion(total, 600, total / 600)
  return DevScore(overall, by_family, overall)


def history(policies):
  """Made-up scores of the policies' trials."""
  rounds = []
  for policy in policies:
    rng, rows = np.random.default_rng(policy.round), []
    for worker, a in enumerate(policy.assignments):
      dev = score(rng, FAMILIES)
      rows.append(
        TrialEvidence(
          trial=f'r{policy.round}w{worker}',
          worker=worker,
          axis=a.axis,
          arm=a.arm,
          changes=a.changes,
          dev=dev,
          external=round(dev.overall.accuracy, 2),
          external_interval=[0.0, 1.0],
          external_by_family={
            f: ReleasedScore(round(p.accuracy, 2), 200) for f, p in dev.by_family.items()
          },
          external_rank=worker,
          cost=Cost(1, 1, 1, 1.0),
        )
      )
    rounds.append(
      Evidence(
        round=policy.round,
        standing=policy.standing,
        trials=tuple(rows),
        noise=Noise(0.01, 4, 5, dict.fromkeys(FAMILIES, 0.02)),
        reliability={'dev': dict.fromkeys(FAMILIES, 0.9)},
      )
    )
  return rounds


def played(agent):
  policies = [policy_lib.starting(3)]
  for _ in range(3):
    policies.append(
      anonymize.decide(AGENTS[agent](), history(policies), policies[-1], RULES, DEFAULTS, 7)
    )
  return policies


RENAMED = Names(
  dict(zip(FAMILIES, ('zebra', 'ant', 'apples'), strict=True)),
  {'one': 'three', 'two': 'zzz', 'three': 'aaa', 'four': 'one'},
)


@pytest.mark.parametrize('agent', ['statistical', 'random'])
def test_other_names_and_another_order_of_axes_give_the_same_decision_under_those_names(agent):
  *before, last = played(agent)
  assert any(a.changes for a in last.assignments)
  shuffled = RENAMED.constitution(RULES)
  axes = dict(reversed(shuffled.search_space.axes.items()))
  shuffled = dataclasses.replace(shuffled, search_space=SearchSpaceText(axes))
  told = [RENAMED.evidence(e) for e in history(before)]
  again = anonymize.decide(
    AGENTS[agent](),
    told,
    RENAMED.policy(before[-1]),
    shuffled,
    {RENAMED.selector(k): v for k, v in DEFAULTS.items()},
    7,
  )
  expected = RENAMED.policy(last)
  assert dataclasses.replace(again, parent='') == dataclasses.replace(expected, parent='')


def test_an_agent_sees_no_name_of_a_family_or_an_axis_and_not_what_dev_is_made_of():
  seen = []

  class Spy(Agent):
    def decide(self, history, policy, constitution, defaults, seed):
      evidence = [e.to_json() for e in history]
      seen.append(json.dumps([evidence, policy.to_json(), constitution.text(), defaults]))
      return policy_lib.starting(2)

  policies = [policy_lib.starting(3)]
  rules = dataclasses.replace(RULES, dev_set=DevSet(answer_shown={FAMILIES[0]: 0.777}, seed=987654))
  anonymize.decide(Spy(), history(policies), policies[-1], rules, DEFAULTS, 7)
  assert not any(name in seen[0] for name in (*FAMILIES, "'one'", "'two'", '0.777', '987654'))


def test_renaming_and_back_is_the_identity():
  policy = played('statistical')[-1]
  assert RENAMED.inverse.policy(RENAMED.policy(policy)) == policy
