"""Verdicts: which test speaks when, what leaves the arbiter, and that neither names nor order mean
anything.
"""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.stats import concordance

RULES = Reversal(replays=400)


def scores(rng, slopes, n=8, noise=0.2):
  """(dev, external) of one round: stream -> trial -> score, a stream for each slope."""
  dev, external = {}, {}
  for i, slope in enumerate(slopes):
    x = rng.normal(size=n)
    y = slope * x + noise * rng.normal(size=n)
    dev[f's{i}'], external[f's{i}'] = (
      {f't{j}': float(v) for j, v in enumerate(values)} for values in (x, y)
    )
  return dev, external


def campaign(seed, by_round, rules=RULES, planned=None):
  """Rows and verdicts after each round."""
  rng, rows, said = np.random.default_rng(seed), [], []
  planned = planned or len(by_round)
  for number, slopes in enumerate(by_round):
    fixed = calibration.thresholds(rows, rules, planned, 8, seed=0)
    rows.append(concordance.reduce_round(*scores(rng, slopes), {}, number))
    said.append(reversal.verdicts(rows, rules, fixed))
  return rows, said


def test_a_row_holds_statistics_and_no_score():
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
  rows = concordance.reduce_round(dev, external, {'a': 0.5}, seed=0)
  assert rows == json.loads(json.dumps(rows)) and set(rows) == {
    'a'
  }  # b and c have fewer than two trials with both scores
  assert rows['a'] == {
    'n': 3,
    'discordant': 3,
    'sxx': 4.667,
    'sxy': pytest.approx(-3),
    'syy': pytest.approx(2),
    'item_variance': 0.5,
  }


def test_a_reversal_a_decoupling_and_two_that_stay():
  _, said = campaign(1, [(0.8, 0.8, 0.8, 0)] * 2 + [(-0.8, 0, 0.8, 0)] * 4)
  assert {v.verdict for v in said[0].values()} | {v.verdict for v in said[1].values()} <= {
    'undetermined',
    'coupled',
  }
  assert 'calibration' in said[0]['s3'].why
  last = said[-1]
  assert [last[f's{i}'].verdict for i in range(4)] == [
    'reversed',
    'decoupled',
    'coupled',
    'undetermined',
  ]
  assert said[2]['s0'].verdict in (
    'decoupled',
    'reversed',
  )  # the slope is found in the first round after it turned
  assert (
    last['s0'].test == 'e_process'
    and last['s0'].e_value >= last['s0'].threshold
    and last['s0'].p_value is None
  )
  assert (
    last['s1'].test in ('slope', 'latest_slope')
    and last['s1'].p_value <= last['s1'].threshold
    and abs(last['s1'].slope) < 0.3 < 0.6 < last['s1'].reference_slope
  )
  assert last['s1'].effect == 'slope_drop' and last['s1'].lambda_ratio is None
  assert last['s2'].test == 'concordance' and last['s2'].n == 32
  assert (
    'not significantly above 0' in last['s3'].why
    and last['s3'].effect == 'correlation'
    and -1 < last['s3'].minimum_detectable_effect < 0
  )
  for verdict in last.values():
    json.dumps(dataclasses.asdict(verdict), allow_nan=False)


def test_the_exact_test_is_run_once_at_its_round():
  rules = dataclasses.replace(RULES, test='exact', exact_rounds=3, calibration_rounds=1)
  _, said = campaign(2, [(-0.8, 0.5)] * 4, rules)
  assert [v['s0'].verdict for v in said] == ['undetermined', 'undetermined', 'reversed', 'reversed']
  assert (
    said[2]['s0'].p_value == said[3]['s0'].p_value and said[3]['s0'].n == 24
  )  # the same test, not a second look


def test_a_stream_that_repeats_another_costs_nothing():
  rng = np.random.default_rng(3)
  dev, external = scores(rng, [-1])
  alone = [concordance.reduce_round(dev, external, {}, 0)]
  twice = [{**alone[0], 'overall': alone[0]['s0']}]
  fixed = calibration.thresholds([], RULES, 1, 8, 0)
  first, second = (reversal.verdicts(rows, RULES, fixed)['s0'] for rows in (alone, twice))
  assert first.threshold == second.threshold == 20 and first.verdict == second.verdict


def test_missing_rounds_and_flat_scores_are_answered():
  rng, rows = np.random.default_rng(4), []
  for number in range(4):
    dev, external = scores(rng, [0.8, 0.8, 0.8])
    external['s1'] = dict.fromkeys(external['s1'])  # the arbiter has no score for it
    dev['s2'] = dict.fromkeys(dev['s2'], 0.1 + 0.2)
    if number == 3:
      dev['s0'] = dict.fromkeys(dev['s0'])
    rows.append(concordance.reduce_round(dev, external, {'s0': 0.01}, number))
  said = reversal.verdicts(rows, RULES, calibration.thresholds(rows[:-1], RULES, 4, 8, 0))
  assert set(said) == {'s0', 's2'}
  assert said['s2'].verdict == 'undetermined' and 'does not differ' in said['s2'].why
  assert said['s0'].n == 8 and said['s0'].test in (
    'slope',
    'concordance',
  )  # one round since calibration has scores
  assert reversal.verdicts([{}], RULES, calibration.thresholds([], RULES, 4, 8, 0)) == {}


def test_thresholds_of_another_round_are_refused():
  rows, _ = campaign(5, [(0.5,)])
  with pytest.raises(ValueError, match='thresholds of round 2 cannot judge round 1'):
    reversal.verdicts(rows, RULES, calibration.thresholds(rows, RULES, 4, 8, 0))


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
  rules, rng = (
    dataclasses.replace(RULES, calibration_rounds=1, replays=100),
    np.random.default_rng(seed),
  )
  plain, changed, said = [], [], []
  renamed = {f's{i}': names[i] for i in range(4)}
  for number in range(3):
    dev, external = scores(rng, [0.8, 0.5, -0.5, 0.8 if number else -0.8], n=6)
    both = [
      {s: {t: round(v, decimals) for t, v in by.items()} for s, by in side.items()}
      for side in (dev, external)
    ]
    other = [
      {renamed[f's{i}']: {f'{99 - j}': side[f's{i}'][f't{j}'] for j in trials} for i in order}
      for side in both
    ]
    items = {f's{i}': 0.05 * i if i else None for i in range(4)}
    fixed = [calibration.thresholds(rows, rules, 3, 6, 0) for rows in (plain, changed)]
    assert fixed[0] == fixed[1]
    plain.append(concordance.reduce_round(*both, items, number))
    changed.append(
      concordance.reduce_round(*other, {renamed[s]: v for s, v in items.items()}, number)
    )
    said = [reversal.verdicts(rows, rules, fixed[0]) for rows in (plain, changed)]
    assert said[1] == {
      renamed[s]: dataclasses.replace(v, stream=renamed[s]) for s, v in said[0].items()
    }
