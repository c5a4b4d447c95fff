"""Verdicts on times of arms, against a control; agreement of orders, by hand."""

import math

import numpy as np
import pytest

from aevo_jax.analysis.strategies import measured, rounds, verdicts

BASELINE = [1.0, 1.1, 0.9, 1.2, 1.0]
CONTROL = [1.01, 1.09, 0.91, 1.21, 0.99]


def judge(arm, control=CONTROL, baseline=BASELINE):
  return verdicts.verdict(
    verdicts.difference(arm, baseline), verdicts.difference(control, baseline)
  )


def test_a_difference_by_hand():
  """Logarithms of ratios 0.1 and 0.3: mean 0.2, standard error 0.1, Student's t of 1 is 12.706."""
  found = verdicts.difference([math.exp(0.1), 2 * math.exp(0.3)], [1.0, 2.0, 5.0])
  assert found is not None and found.rounds == 2
  assert found.mean == pytest.approx(0.2)
  assert found.low == pytest.approx(0.2 - 1.2706, abs=1e-4)
  assert found.farthest == found.high == pytest.approx(0.2 + 1.2706, abs=1e-4)


@pytest.mark.parametrize(
  ('factor', 'expected'),
  [(0.8, verdicts.ADOPT), (1.3, verdicts.REJECT), (1.002, verdicts.BELOW)],
)
def test_verdicts(factor, expected):
  assert judge([factor * time for time in BASELINE]) == expected


def test_a_control_that_differs_is_believed_more_than_a_mesh_that_does():
  slow = [1.3 * time for time in BASELINE]
  assert judge(slow) == verdicts.REJECT
  assert judge(slow, control=slow) == verdicts.BELOW


def test_a_mesh_that_is_noisier_than_the_control_is_not_judged_by_its_mean():
  """Twice as slow on average, in one round of five."""
  noisy = [1.0, 1.1, 0.9, 1.2, 40.0]
  found = verdicts.difference(noisy, BASELINE)
  assert found is not None and found.mean > 0.7 and found.low < 0
  assert judge(noisy) == verdicts.BELOW


def test_too_few_rounds_are_no_verdict():
  assert judge([1.0]) == '' and judge(BASELINE, control=[1.0]) == ''


def test_equal_arms_are_seldom_told_apart_and_a_faster_one_is():
  """Five rounds of 10% noise that all arms share, and 3% of each arm's own."""
  rng = np.random.default_rng(0)
  mistaken = 0
  found = 0
  for _ in range(150):
    shared = 0.1 * rng.standard_normal(5)
    baseline, mesh, control = np.exp(shared + 0.03 * rng.standard_normal((3, 5)))
    mistaken += judge(mesh, control, baseline) != verdicts.BELOW
    found += judge(0.8 * mesh, control, baseline) == verdicts.ADOPT
  assert mistaken <= 6 and found >= 142


def test_agreement_by_hand():
  """Of three pairs one is the wrong way round: tau = (2 - 1) / 3."""
  predicted = {'a': 1.0, 'b': 2.0, 'c': 3.0, 'not measured': 4.0}
  found = verdicts.agreement(predicted, {'a': 10.0, 'b': 30.0, 'c': 20.0, 'control': 1.0})
  assert found is not None and found.meshes == 3
  assert found.tau == pytest.approx(1 / 3) and found.p == 1.0
  assert verdicts.agreement(predicted, {'a': 1.0, 'b': 1.0}) is None


def rows() -> list[dict]:
  made = []
  for place, name in enumerate(('fsdp', 'tensor', 'context', 'expert', 'data')):
    bounds = {'shortest': 1.0 + place, 'longest': 4.0 + place}
    made.append({'mesh': name, 'hardware': 'cpux8', 'roofline': bounds})
  return made


def test_rows_of_what_was_measured():
  taken = rounds.Rounds(report=lambda line: None)
  taken.seconds = {'fsdp': BASELINE, 'tensor': [2 * time for time in BASELINE], 'control': CONTROL}
  taken.seconds['context'] = [0.5 * time for time in BASELINE]
  taken.seconds['data'] = [0.7 * time for time in BASELINE]
  taken.seconds['expert'] = [1.0]
  taken.losses = {'fsdp': 4.8, 'tensor': 4.801, 'control': 4.8, 'context': 3.0, 'data': 4.8}
  taken.losses['expert'] = 4.8
  taken.errors = {'expert': 'RuntimeError: out of memory'}
  compared = rows()
  control = measured.add(compared, taken, steps=7)
  fsdp, tensor, context, expert, data = (row['measured'] for row in compared)
  assert fsdp['verdict'] == 'baseline' and fsdp['seconds'] == 1.0 and fsdp['steps'] == 7
  assert tensor['verdict'] == 'reject' and tensor['over_baseline']['mean'] == pytest.approx(1.0)
  assert 'verdict' not in context and context['error'] == (
    "its first loss is 3 and the baseline's 4.8"
  )
  assert expert['error'] == 'RuntimeError: out of memory' and 'verdict' not in expert
  assert data['verdict'] == 'adopt'
  assert control['repeats'] == 'fsdp' and 0 < control['spread'] < 0.02
  # Predicted: fsdp, tensor, data; measured: data, fsdp, tensor. One pair of three agrees.
  assert control['rank_correlation']['tau'] == pytest.approx(-1 / 3)


def test_what_an_interrupt_left_is_no_verdict():
  taken = rounds.Rounds(report=lambda line: None)
  taken.seconds = {'fsdp': [1.0]}
  taken.losses = {'fsdp': 4.8}
  compared = rows()
  control = measured.add(compared, taken, steps=1)
  assert compared[0]['measured']['seconds'] == 1.0
  assert compared[1]['measured']['error'] == 'not measured before the end'
  assert 'spread' not in control and 'rank_correlation' not in control
