"""The statistical agent on rounds by hand: promotions, roll-backs, dead ends and demotions."""

import dataclasses

import pytest
from rounds_by_hand import evidence
from simulated_campaigns import DEFAULTS, STATISTICAL, shipped

from aevo_jax.config import constitution as constitution_lib
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import ANCHOR


def policy_of(evidence_: Evidence, **fields) -> policy_lib.Policy:
  """The policy that led to some evidence."""
  return dataclasses.replace(
    policy_lib.starting(2), round=evidence_.round, standing=evidence_.standing, **fields
  )


def after(*history: Evidence, constitution=None, **fields) -> policy_lib.Policy:
  return STATISTICAL.decide(
    history, policy_of(history[-1], **fields), constitution or shipped(), DEFAULTS, seed=3
  )


EMA = {'train.ema_decay': 0.8}


def rounds(dev, external, count=4, **noise) -> list[Evidence]:
  """One look at averaging in each round; the first selects it, and the others test."""
  look = [(ANCHOR, {}, 0.5, 0.5), ('averaging', EMA, dev, external)]
  return [evidence(k, {}, look, **noise) for k in range(1, count + 1)]


@pytest.mark.parametrize(
  ('dev', 'external', 'seed_sd', 'promoted'),
  [
    (0.60, 0.60, 0.005, True),  # +.10 at sd .005: t = .1 / (.005 sqrt(1/3 + 1/4)) = 26
    (0.60, None, 0.005, False),  # never released
    (0.60, 0.50, 0.005, False),  # dev only: the external score alone decides
    (0.51, 0.51, 0.02, False),  # +.01 at sd .02: t = .7
    (0.53, 0.53, 0.02, False),  # +.03 at sd .02: t = 2.0, p = .04 > .1 / 3 x 3/4
    (0.60, 0.60, 0.2, False),  # +.10 at sd .2: t = .7
    (0.44, 0.44, 0.005, False),  # a loss
    (None, None, 0.005, False),  # failed
  ],
)
def test_promotion_needs_an_external_gain_beyond_the_noise(dev, external, seed_sd, promoted):
  following = after(*rounds(dev, external, seed_sd=seed_sd))
  assert following.standing == (EMA if promoted else {})
  assert following.promoted == ({'averaging': EMA} if promoted else {})
  assert any('promoted averaging' in r for r in following.reasons) == promoted


def test_the_first_look_selects_and_three_fresh_ones_test():
  for count, promoted in ((1, False), (3, False), (4, True)):
    assert bool(after(*rounds(0.6, 0.6, count)).standing) is promoted
  # Several workers of one round run it: it was fixed before its scores were known.
  row = ('averaging', EMA, 0.6, 0.6)
  for looks, promoted in ((1, False), (2, False), (3, True)):
    at_once = evidence(2, {}, [(ANCHOR, {}, 0.5, 0.5)] * 2 + [row] * looks)
    assert bool(after(at_once).standing) is promoted


def test_a_gain_below_min_gain_is_none_however_sure():
  ruled = dataclasses.replace(
    shipped(),
    promotion=constitution_lib.Promotion(confidence=0.5, min_gain=0.05, seed_sd_floor=1e-6),
  )
  history = rounds(0.54, 0.54, seed_sd=1e-6)
  assert after(*history, constitution=ruled).standing == {}
  assert after(*history).standing == EMA  # min_gain .01


def test_evidence_without_external_noise_promotes_nothing():
  old = [
    dataclasses.replace(e, noise=dataclasses.replace(e.noise, external=None))
    for e in rounds(0.6, 0.6)
  ]
  assert after(*old).standing == {}


def test_rollback_when_the_anchor_falls_after_a_promotion():
  first = evidence(1, {}, [(ANCHOR, {}, 0.5, 0.50), ('averaging', EMA, 0.6, 0.60)])
  worse, same = (evidence(2, EMA, [(ANCHOR, {}, 0.45, score)]) for score in (0.45, 0.50))
  back = after(first, worse, promoted={'averaging': EMA})
  assert back.standing == {} and back.promoted == {} and 'rolled back' in back.reasons[0]
  kept = after(first, same, promoted={'averaging': EMA})
  assert kept.standing == EMA and kept.promoted == {'averaging': EMA}


def test_a_fall_within_the_noise_is_not_rolled_back():
  first = evidence(
    1, {}, [(ANCHOR, {}, 0.5, 0.50), (ANCHOR, {}, 0.5, 0.50), ('averaging', EMA, 0.6, 0.60)]
  )
  # t = -.02 / (sd sqrt(1 + 1/2)): -3.3 and -.8
  for sd, standing in ((0.005, {}), (0.02, EMA)):
    second = evidence(2, EMA, [(ANCHOR, {}, 0.48, 0.48)], seed_sd=sd)
    assert after(first, second, promoted={'averaging': EMA}).standing == standing


DECAYS = [{'train.ema_decay': decay} for decay in (0.6, 0.8, 0.95)]


def averaging_hurts() -> tuple[Evidence, Evidence, tuple]:
  first = evidence(1, {}, [(ANCHOR, {}, 0.5, 0.5), ('averaging', DECAYS[0], 0.3, None)])
  second = evidence(
    2,
    {},
    [
      (ANCHOR, {}, 0.5, 0.5),
      ('averaging', DECAYS[1], 0.3, None),
      ('averaging', DECAYS[2], 0.3, None),
    ],
  )
  return first, second, after(first).dead_ends


def test_dead_ends_are_entered_and_where_nothing_else_may_gain_they_demote_the_axis():
  first, second, dead_ends = averaging_hurts()
  assert [(d.axis, d.changes, d.round, d.expires) for d in dead_ends] == [
    ('averaging', DECAYS[0], 1, 5)
  ]
  assert -0.2 <= dead_ends[0].gain < -0.05 and dead_ends[0].confidence > 0.9  # shrunk towards 0
  assert after(first).demoted == ()
  policy = after(first, second, dead_ends=dead_ends)
  assert len(policy.dead_ends) == 3 and policy.demoted == ('averaging',)
  previous = policy_of(second, dead_ends=policy.dead_ends)
  drawn = [
    STATISTICAL.decide((first, second), previous, shipped(), DEFAULTS, seed=k).assignments
    for k in range(10)
  ]
  assert (
    sum('train.ema_decay' in a.changes for assignments in drawn for a in assignments) <= 0.1 * 70
  )  # drawn for one candidate in twenty


def test_an_axis_is_not_demoted_while_a_setting_of_it_was_never_tried_or_one_was_promoted():
  rates = [{'optimizer.learning_rate': rate} for rate in (1e-4, 3e-3)]
  slow = evidence(
    1, {}, [(ANCHOR, {}, 0.5, 0.5), *(('update_rule', rate, 0.3, None) for rate in rates)]
  )
  policy = after(slow)
  assert len(policy.dead_ends) == 2 and policy.demoted == ()  # other rules than AdamW may gain
  first, second, dead_ends = averaging_hurts()
  assert after(first, second, dead_ends=dead_ends, promoted={'averaging': EMA}).demoted == ()


def test_a_dead_end_expires_and_can_be_entered_again():
  dead = policy_lib.DeadEnd('averaging', {'train.ema_decay': 0.7}, -0.1, 0.99, 1, 5)
  one_axis = dataclasses.replace(
    shipped(),
    search_space=constitution_lib.SearchSpaceText(
      {'averaging': shipped().search_space.axes['averaging']}
    ),
  )
  for round_, avoided in ((1, True), (3, True), (4, False)):  # rounds 2, 3 and 4 avoid it
    quiet = evidence(round_, {}, [(ANCHOR, {}, 0.5, 0.5)])
    near = [
      abs(a.changes['train.ema_decay'] - 0.7) < 0.09
      for seed in range(10)
      for a in STATISTICAL.decide(
        [quiet], policy_of(quiet, dead_ends=(dead,)), one_axis, DEFAULTS, seed
      ).assignments
      if a.axis != ANCHOR
    ]
    assert any(near) != avoided
  again = evidence(6, {}, [(ANCHOR, {}, 0.5, 0.5), ('averaging', dead.changes, 0.3, None)])
  assert [(d.round, d.expires) for d in after(again, dead_ends=(dead,)).dead_ends] == [
    (1, 5),
    (6, 10),
  ]


def test_new_settings_keep_away_from_live_dead_ends():
  dead = policy_lib.DeadEnd('averaging', {'train.ema_decay': 0.7}, -0.1, 0.99, 1, 9)
  one_axis = dataclasses.replace(
    shipped(),
    search_space=constitution_lib.SearchSpaceText(
      {'averaging': shipped().search_space.axes['averaging']}
    ),
  )
  distances = []
  for seed in range(20):
    policy = STATISTICAL.decide(
      [evidence(1, {}, [(ANCHOR, {}, 0.5, 0.5)])],
      policy_of(evidence(1, {}, []), dead_ends=(dead,)),
      one_axis,
      DEFAULTS,
      seed,
    )
    distances += [
      abs(a.changes['train.ema_decay'] - 0.7) / (0.99 - 0.5)
      for a in policy.assignments
      if a.axis != ANCHOR
    ]
  assert len(distances) >= 100 and min(distances) >= 0.2 - 1e-6


@pytest.mark.parametrize(
  'rows',
  [
    [],
    [(ANCHOR, {}, None, None)],
    [(ANCHOR, {}, None, None), ('averaging', EMA, 0.6, 0.6)],
    [(ANCHOR, {}, 0.5, None), ('averaging', EMA, 0.6, 0.6)],
    [
      (ANCHOR, {}, 0.5, 0.5),
      ('averaging', EMA, None, None),
      ('adaptation', {'adaptation.method': 'lora'}, None, None),
    ],
  ],
)
def test_missing_trials_are_no_evidence(rows):
  for dof in (0, 3):
    following = after(
      evidence(0, {}, [(ANCHOR, {}, None, None)] * 3, dof=0), evidence(1, {}, rows, dof=dof)
    )
    assert following.standing == {} and following.dead_ends == ()
    assert (
      len(following.assignments) == shipped().budget.workers
      and following.assignments[0].axis == ANCHOR
    )
