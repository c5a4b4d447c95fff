"""What verdicts could detect is said beforehand, and a simulation of what is said agrees."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.sections import Budget, DevSet, ExternalSet
from aevo_jax.meta_agent.drift import detectable, levels
from aevo_jax.simulation.item_set import ItemSet
from aevo_jax.stats.gain_test import Answers, gains

DEMO = Constitution(
  **{f.name: f.type() for f in dataclasses.fields(Constitution)}
  | {
    'budget': Budget(rounds=4, workers=8, noise_seeds=3),
    'dev_set': DevSet(items=1200),
    'external_set': ExternalSet(items=3000),
  }
)


def changed(section, **fields):
  return dataclasses.replace(
    DEMO, **{section: dataclasses.replace(getattr(DEMO, section), **fields)}
  )


def test_the_gain_that_is_said_is_found_with_the_power_that_is_said():
  """Six families at 1/2, seeds and sets as detectable.py assumes; all trials have the flaw."""
  said = detectable.outlook(DEMO, 6, manual=False).dev_gain
  level = levels.fix(
    DEMO.reversal, round_=4, planned_rounds=4, streams=['overall', *'abcdef']
  ).gain_p
  flaw = float(special.logit(0.5 + said))
  found = 0
  for index in range(150):
    rng = np.random.default_rng(index)
    start = {}
    trials = {}
    for family in 'abcdef':
      sets = [ItemSet.sample(1, n, 1 - detectable.OWN_ITEMS, rng) for n in (200, 500)]
      for side, count, moved in ((start, 3, 0.0), (trials, 8, flaw * (family == 'a'))):
        seeds = detectable.SEED_SD * rng.normal(size=(count, 1))
        own = detectable.TRANSFER_SD * rng.normal(size=(count, 1))
        chances = (special.expit(seeds + moved), special.expit(seeds + own))
        asked = zip(sets, chances, strict=True)
        side[family] = Answers(*(s.answers(c, rng)[:, 0].astype(float) for s, c in asked))
    found += gains(start, trials, DEMO.reversal.transfer)['a'].p <= level
  assert found / 150 == pytest.approx(DEMO.reversal.power, abs=0.13)


def test_more_replicates_and_items_show_less():
  base = detectable.outlook(DEMO, 6, manual=False)
  for section, fields in (
    ('budget', {'noise_seeds': 8}),
    ('external_set', {'items': 12000}),
    ('budget', {'workers': 16}),
  ):
    assert detectable.outlook(changed(section, **fields), 6, manual=False).dev_gain < base.dev_gain
  assert detectable.outlook(DEMO, 1, manual=False).streams == 1 and base.streams == 7


def test_four_submissions_a_round_show_no_reversal_and_no_shared_flaw():
  constitution = changed('release', per_round=4)
  found = detectable.outlook(constitution, 6, manual=True)
  assert found.dev_gain is None and found.correlation is None
  text = detectable.sentence(found, 0.8)
  assert 'NOT a flaw of dev that all trials of a round share' in text
  assert any(
    "campaign.arbiter = 'local'" in fix for fix in detectable.fixes(constitution, 6, manual=True)
  )


def test_a_small_campaign_shows_nothing_and_fixes_are_named():
  small = dataclasses.replace(
    changed('budget', rounds=2, workers=4, noise_seeds=2),
    dev_set=DevSet(items=120),
    external_set=ExternalSet(items=120),
  )
  found = detectable.outlook(small, 6, manual=False)
  assert found.nothing and 'NOTHING' in detectable.sentence(found, 0.8)
  fixes = detectable.fixes(small, 6, manual=False)
  assert any(fix.startswith('budget.noise_seeds = 5') for fix in fixes)
