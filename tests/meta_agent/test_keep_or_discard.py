"""Keep or discard: what a round does after each outcome, and how often noise is kept in hundreds of
rounds.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest
from rounds_by_hand import evidence
from scipy import stats

from aevo_jax import layout
from aevo_jax.campaign.setup import settings as _settings  # noqa: F401 registers what campaigns' gin binds
from aevo_jax.campaign.trial.gate import admit, default_values
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.agents.keep_or_discard import KeepOrDiscard
from aevo_jax.meta_agent.evidence import ExternalNoise, Noise
from aevo_jax.meta_agent.policy import ANCHOR

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
DEFAULTS = default_values(RECIPE)
MEAN, SD = 0.5, 0.02
CAMPAIGNS = 25


SMALL = (
  "search_space.axes = {'rule': {'optimizer.name': {'kind': 'choice', 'choices': ['adamw', "
  "'lion', 'muon']}}, 'decay': {'optimizer.b2': {'kind': 'float', 'low': 0.9, 'high': "
  '0.999}}}'
)


@functools.cache
def constitution(*bindings: str):
  loading.load(
    [str(layout.root_file('constitution.gin')), 'configs/campaigns/autoresearch.gin'],
    list(bindings),
    search_paths=layout.search_paths(),
  )
  return constitution_lib.from_gin()


class Simulated:
  """A campaign on a response surface: accuracy is MEAN + effect(overlay) + noise between seeds of
  SD, released at two decimals.
  """

  def __init__(self, effect=lambda overlay: 0.0, seed: int = 0, bindings: tuple[str, ...] = ()):
    self.effect, self.rng, self.seed, self.constitution = (
      effect,
      np.random.default_rng(seed),
      seed,
      constitution(*bindings),
    )
    self.policy, self.history, self.anchors, self.changed = (
      policy_lib.starting(self.constitution.budget.noise_seeds),
      [],
      {},
      {},
    )

  def round(self, external=None) -> policy_lib.Policy:
    """Scores the policy's trials (`external` in place of the draw) and decides the next one."""
    rows = []
    for assignment in self.policy.assignments:
      dev, drawn = MEAN + self.effect(assignment.overlay) + SD * self.rng.standard_normal(2)
      score = round(drawn, 2) if external is None else external
      overlay = policy_lib.render_overlay(assignment.overlay)
      if assignment.axis == ANCHOR:
        self.anchors.setdefault(overlay, []).append(score)
      elif overlay in self.changed:
        self.changed[overlay].append(score)
      else:  # the first look selects
        self.changed[overlay] = []
      rows.append((assignment.axis, assignment.changes, dev, None if math.isnan(score) else score))
    noise = Noise.pooled(list(self.anchors.values()), self.constitution.promotion.seed_sd_floor)
    groups = (list(self.anchors.values()), list(self.changed.values()))
    noise = dataclasses.replace(noise, external=ExternalNoise.pooled(*groups))
    scored = evidence(self.policy.round, self.policy.standing, rows)
    self.history.append(dataclasses.replace(scored, noise=noise))
    self.policy = KeepOrDiscard().decide(
      self.history, self.policy, self.constitution, DEFAULTS, 1000 * self.seed + self.policy.round
    )
    return self.policy

  def run(self) -> 'Simulated':
    for _ in range(self.constitution.budget.rounds + 1):
      self.round()
    return self


def test_one_change_of_one_axis_that_passes_the_gate():
  campaign, axes = Simulated(), set()
  for _ in range(60):
    (assignment,) = campaign.round(MEAN).assignments
    if assignment.axis != ANCHOR:
      axes.add(assignment.axis)
      if len(axes) % 4 == 1:  # the gate parses in a process of its own, which takes its time
        admit(policy_lib.render_overlay(assignment.overlay), campaign.constitution, RECIPE)
      names = {p.selector for p in campaign.constitution.space().axis(assignment.axis).parameters}
      assert assignment.changes and set(assignment.changes) <= names
  assert len(axes) >= 8 and campaign.policy.standing == {}
  seen = [
    policy_lib.render_overlay(e.trials[0].changes)
    for e in campaign.history[1:]
    if e.trials[0].axis != ANCHOR
  ]
  assert len(seen) == len(set(seen))
  anchors = [e.round for e in campaign.history[1:] if e.trials[0].axis == ANCHOR]
  assert (
    np.diff(anchors).tolist()
    == [campaign.constitution.keep_or_discard.anchor_every] * (len(anchors) - 1)
    and len(anchors) >= 5
  )


def test_a_gain_is_kept_only_if_three_fresh_looks_pass():
  for later, kept in ((MEAN + 0.2, True), (MEAN - 0.08, False), (math.nan, False)):
    campaign = Simulated(seed=3)
    first = campaign.round(MEAN).assignments[0]
    for score in (MEAN + 0.2, MEAN + 0.2, MEAN + 0.2):
      again = campaign.round(score).assignments[0]
      assert (again.axis, again.overlay) == (first.axis, first.overlay)
      assert 'further looks at' in campaign.policy.reasons[0] and not campaign.policy.standing
    policy = campaign.round(later)
    assert (policy.standing == first.overlay) is kept and ('kept' in policy.reasons[0]) is kept
    assert policy.promoted == ({first.axis: first.changes} if kept else {})
    if (
      kept
    ):  # its own looks won a contest: it is measured afresh before anything is compared with it
      for _ in range(campaign.constitution.keep_or_discard.anchors):
        assert (
          campaign.policy.assignments[0].axis == ANCHOR
          and campaign.policy.assignments[0].overlay == policy.standing
        )
        campaign.round(MEAN)
      assert campaign.policy.assignments[0].axis != ANCHOR


@pytest.mark.parametrize('outcome', [MEAN, MEAN - 0.2, math.nan])
def test_no_gain_is_discarded_at_once(outcome):
  campaign = Simulated()
  first = campaign.round(MEAN).assignments[0]
  policy = campaign.round(outcome)
  assert (
    policy.standing == {}
    and policy.reasons[0].startswith('discarded')
    and policy.assignments[0].changes != first.changes
  )


def test_without_candidates_left_nothing_is_looked_at_again():
  campaign = Simulated(bindings=('promotion.candidates = 1',))
  campaign.round(MEAN)
  for score in (MEAN + 0.2, MEAN - 0.1):
    campaign.round(score)
  assert 'discarded' in campaign.policy.reasons[0]
  assert 'no further change may be tested' in campaign.round(MEAN + 0.2).reasons[0]


def test_noise_is_hardly_ever_kept():
  """Campaigns of 100 rounds in which no change does anything: at most 10% of them keep something.

  Keeping whatever beats the anchors' mean by min_gain in one look would keep something in all of
  them. benchmarks/promotion_noise.py has more of them.
  """
  campaigns = [
    Simulated(seed=seed, bindings=(SMALL, 'budget.rounds = 100')).run() for seed in range(CAMPAIGNS)
  ]
  false = sum(bool(c.policy.standing) for c in campaigns)
  assert stats.binomtest(false, CAMPAIGNS, 0.1, alternative='greater').pvalue > 0.01
  naive = sum(
    any(e.trials[0].axis != ANCHOR and e.trials[0].external - MEAN >= 0.01 for e in c.history[1:])
    for c in campaigns
  )
  assert naive == CAMPAIGNS


def test_a_large_gain_is_found():
  """A choice of the optimizer gains 6 sd: nearly every campaign ends with it."""

  def effect(overlay):
    return 0.12 if overlay.get('optimizer.name') == 'muon' else 0.0

  found = sum(
    Simulated(effect, seed, (SMALL, 'budget.rounds = 100'))
    .run()
    .policy.standing.get('optimizer.name')
    == 'muon'
    for seed in range(6)
  )
  assert found >= 5
