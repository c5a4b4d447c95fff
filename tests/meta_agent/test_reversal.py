"""Verdicts: which test speaks when, what a row holds, and that neither names nor order mean
anything.
"""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import levels, reversal
from aevo_jax.stats import tracking
from aevo_jax.stats.gain_test import Answers
from aevo_jax.stats.tracking import Gains, Round

RULES = Reversal(gain_share=0.0, slope_share=0.6)


def scores(rng, slopes, n=8, noise=0.2):
  """A round: a stream for each slope."""
  dev = {}
  external = {}
  for i, slope in enumerate(slopes):
    x = rng.normal(size=n)
    y = slope * x + noise * rng.normal(size=n)
    dev[f's{i}'] = {f't{j}': float(v) for j, v in enumerate(x)}
    external[f's{i}'] = {f't{j}': float(v) for j, v in enumerate(y)}
  return Round(dev, external, {})


def judged(rounds, rules=RULES, planned=None, gains=None):
  """Verdicts after each round."""
  rows = []
  said = []
  for number in range(1, len(rounds) + 1):
    rows.append(
      tracking.measure(
        rounds[:number], calibration_rounds=rules.calibration_rounds, seed=number, gains=gains
      )
    )
    fixed = levels.fix(
      rules, round_=number, planned_rounds=planned or len(rounds), streams=rounds[0].dev
    )
    said.append(reversal.verdicts(rows, rules, fixed))
  return said


def campaign(seed, by_round, rules=RULES):
  rng = np.random.default_rng(seed)
  return judged([scores(rng, slopes) for slopes in by_round], rules)


def test_a_row_counts_pairs_of_trials_with_both_scores():
  dev = {
    'a': {'t0': 1.0, 't1': 2.0, 't2': 4.0, 't3': None},
    'b': {'t0': 1.0, 't1': None},
    'c': {'t0': 3.0, 't1': 3.0},
  }
  external = {
    'a': {'t0': 3.0, 't1': 2.0, 't2': 1.0, 't3': 9.0},
    'b': {'t0': 1.0, 't1': 2.0},
    'c': {'t1': 1.0},
  }
  rows = tracking.measure([Round(dev, external, {})], calibration_rounds=2, seed=0)
  assert rows == json.loads(json.dumps(rows)) and set(rows) == {'a'}
  assert (rows['a']['n'], rows['a']['discordant']) == (3, 3)
  assert 'calibration' in rows['a']['slope']['why'] and 'not known' in rows['a']['gain']['why']


def test_a_reversal_a_decoupling_and_two_that_stay():
  said = campaign(1, [(0.8, 0.8, 0.8, 0)] * 2 + [(-0.8, 0, 0.8, 0)] * 4)
  early = {v.verdict for verdicts in said[:2] for v in verdicts.values()}
  assert early <= {'undetermined', 'coupled'}
  last = said[-1]
  assert [last[f's{i}'].verdict for i in range(4)] == [
    'reversed',
    'decoupled',
    'coupled',
    'undetermined',
  ]
  assert said[2]['s0'].verdict in ('decoupled', 'reversed')  # in the first round after it turned
  assert last['s0'].test == 'e_process' and last['s0'].e_value >= last['s0'].threshold
  assert last['s1'].test == 'slope' and last['s1'].p_value <= last['s1'].threshold
  assert abs(last['s1'].slope) < 0.3 < 0.6 < last['s1'].reference_slope
  assert last['s1'].effect == 'slope_drop' and last['s1'].lambda_ratio is None
  assert last['s2'].test == 'concordance' and last['s2'].n == 32
  assert 'not significantly above 0' in last['s3'].why and last['s3'].effect == 'correlation'
  assert -1 < last['s3'].minimum_detectable_effect < 0
  assert last['s1'].detectable['dev_gain'] is None and last['s1'].detectable['slope_drop'] > 0
  for verdict in last.values():
    json.dumps(dataclasses.asdict(verdict), allow_nan=False)


def answers(rng, trials, dev=0.0, external=0.0, families=2):
  """Trials of known log-odds on 600 items of each set."""
  named = {}
  for k in range(trials):
    named[f't{k}'] = {}
    for f in range(families):
      moved = f == 0
      chances = [1 / (1 + np.exp(-x * moved)) for x in (dev, external)]
      named[f't{k}'][f'f{f}'] = Answers(*(rng.random(600) < chance for chance in chances))
  return named


def test_what_all_trials_of_a_round_share_is_seen_against_the_starting_recipe():
  """Dev of one family rises in every trial alike, the anchor among them; external stays."""
  rules = Reversal()
  rng = np.random.default_rng(2)
  start = answers(rng, 3)
  trials = answers(rng, 8, dev=1.2)
  gains = Gains(start, trials, rules.transfer)
  (said,) = judged([tracking.of_answers(trials)], rules, planned=4, gains=gains)
  found = said['f0']
  assert found.verdict == 'gaining_nothing' and found.test == 'gain'
  assert found.dev_gain > 0.2 and abs(found.external_gain) < 0.05
  assert said['f1'].verdict == 'undetermined' and said['f1'].detectable['dev_gain'] < 0.3
  assert 'less than 0.5' in found.why
  followed = Gains(start, answers(rng, 8, dev=1.2, external=1.0), rules.transfer)
  (said,) = judged([tracking.of_answers(trials)], rules, planned=4, gains=followed)
  assert said['f0'].verdict == 'undetermined'


def test_the_exact_test_is_run_once_at_its_round():
  rules = dataclasses.replace(RULES, test='exact', exact_rounds=3, calibration_rounds=1)
  said = campaign(2, [(-0.8, 0.5)] * 4, rules)
  assert [v['s0'].verdict for v in said] == ['undetermined', 'undetermined', 'reversed', 'reversed']
  # The same test, not a second look.
  assert said[2]['s0'].p_value == said[3]['s0'].p_value and said[3]['s0'].n == 24


def test_overall_beside_one_family_costs_nothing():
  each = scores(np.random.default_rng(3), [-1])
  both = Round(
    each.dev | {'overall': each.dev['s0']}, each.external | {'overall': each.external['s0']}, {}
  )
  (alone,) = judged([each])
  (twice,) = judged([both])
  assert alone['s0'].threshold == twice['s0'].threshold == pytest.approx(1 / (0.05 * 0.4))
  assert alone['s0'].e_value == twice['overall'].e_value
  assert twice['s0'] == dataclasses.replace(twice['overall'], stream='s0')


def test_missing_rounds_and_flat_scores_are_answered():
  rng = np.random.default_rng(4)
  rounds = []
  for number in range(4):
    each = scores(rng, [0.8, 0.8, 0.8])
    each.external['s1'] = dict.fromkeys(each.external['s1'])  # the arbiter has no score for it
    each.dev['s2'] = dict.fromkeys(each.dev['s2'], 0.1 + 0.2)
    if number == 3:
      each.dev['s0'] = dict.fromkeys(each.dev['s0'])
    rounds.append(each)
  said = judged(rounds)[-1]
  assert set(said) == {'s0', 's2'}
  assert said['s2'].verdict == 'undetermined'
  assert said['s0'].n in (8, 24)  # one round since calibration has scores
  fixed = levels.fix(RULES, round_=1, planned_rounds=4, streams=['a'])
  assert reversal.verdicts([{}], RULES, fixed) == {}


def test_levels_of_another_round_are_refused():
  fixed = levels.fix(RULES, round_=2, planned_rounds=4, streams=['a'])
  with pytest.raises(ValueError, match='levels of round 2 cannot judge round 1'):
    reversal.verdicts([{}], RULES, fixed)


def test_alpha_is_divided_and_nothing_of_it_is_left():
  rules = Reversal(alpha=0.05, gain_share=0.5, slope_share=0.3, calibration_rounds=2)
  streams = ['a', 'b', 'overall']
  spent = 0.0
  for round_ in range(1, 5):
    fixed = levels.fix(rules, round_=round_, planned_rounds=4, streams=streams)
    spent += 3 * fixed.gain_p + 3 * (fixed.slope_p or 0.0)
  assert spent + fixed.ranks_alpha == pytest.approx(0.05)
  without = levels.fix(rules, round_=3, planned_rounds=4, streams=streams, with_gains=False)
  assert without.gain_p is None
  assert 6 * without.slope_p + without.ranks_alpha == pytest.approx(0.05)


@settings(max_examples=8, deadline=None)
@given(
  seed=strategies.integers(0, 100),
  order=strategies.permutations(range(4)),
  trials=strategies.permutations(range(6)),
  names=strategies.lists(
    strategies.text(min_size=1, max_size=3), min_size=4, max_size=4, unique=True
  ),
  decimals=strategies.sampled_from([1, 6]),
)
def test_names_and_order_carry_no_meaning(seed, order, trials, names, decimals):
  """Streams permuted and renamed, trials permuted and renamed: the same verdicts under the new
  names, to the bit; with many ties and without.
  """
  rules = dataclasses.replace(RULES, calibration_rounds=1)
  rng = np.random.default_rng(seed)
  renamed = {f's{i}': names[i] for i in range(4)}
  variance = {f's{i}': 0.05 * i if i else None for i in range(4)}
  plain = []
  changed = []
  for number in range(3):
    each = scores(rng, [0.8, 0.5, -0.5, 0.8 if number else -0.8], n=6)
    rounded = []
    other = []
    for side in (each.dev, each.external):
      kept = {s: {t: round(v, decimals) for t, v in by.items()} for s, by in side.items()}
      rounded.append(kept)
      other.append(
        {renamed[f's{i}']: {f'{99 - j}': kept[f's{i}'][f't{j}'] for j in trials} for i in order}
      )
    plain.append(Round(*rounded, variance))
    changed.append(Round(*other, {renamed[s]: v for s, v in variance.items()}))
  said, again = judged(plain, rules)[-1], judged(changed, rules)[-1]
  assert again == {renamed[s]: dataclasses.replace(v, stream=renamed[s]) for s, v in said.items()}
