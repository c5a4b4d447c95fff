"""Final table, gains and costs, against numbers worked out by hand from the written run (see
conftest).
"""

import dataclasses
import json

import numpy as np
import pytest

from aevo_jax.ledger.append import read
from aevo_jax.report import costs as costs_lib
from aevo_jax.report import gains
from aevo_jax.report.claims import gain_words
from aevo_jax.report.final_table import final_table
from aevo_jax.report.gains import Gain, ScoreFileError
from aevo_jax.report.run_view import RunView


def test_the_table_has_scores_gains_and_reasons(make_run):
  # Written: of 80 items the base has 10% right, both starting retrainings 50%, both promoted ones
  # 70%, the promoted ones' a superset.
  text = final_table(RunView(make_run()))
  rows = {line.split()[0]: line.split() for line in text.splitlines()[1:5]}
  assert (
    rows['base'][1] == '0.100' and rows['starting'][1] == '0.500' and rows['promoted'][1] == '0.700'
  )
  assert rows['starting'][-2:] == ['2', '80'] and rows['base'][-2:] == ['1', '80']
  assert 'gained +0.600' in text and 'over the base' in text
  assert 'gained +0.200' in text and 'over the starting recipe' in text
  assert 'promoted learning_rate: gained +0.100' in text
  assert '10 trials and 4 final retrainings, 2 failed or refused' in text
  assert 'UNFINISHED' not in text


def test_a_gain_within_noise_is_said_plainly(make_run):
  accuracy = {'base': 0.5, 'starting0': 0.5, 'starting1': 0.6, 'promoted0': 0.6, 'promoted1': 0.5}
  text = final_table(RunView(make_run(accuracy=accuracy)))
  assert '+0.000' in text and 'within noise, no gain is shown' in text
  assert 'gained' not in text.split('promoted learning_rate')[0].split('over the base')[-1]


def test_without_promotion_the_difference_is_called_noise(make_run):
  text = final_table(RunView(make_run(promote=False)))
  assert 'nothing was promoted' in text and 'noise between seeds' in text


def test_an_unfinished_run_says_so(make_run):
  text = final_table(RunView(make_run(until='round 1')))
  assert 'UNFINISHED: 2 rounds are finished' in text and 'the final set is not scored yet' in text


def test_scored_but_not_revealed_has_scores_and_no_gains(make_run):
  text = final_table(RunView(make_run(until='final scored')))
  assert '0.700' in text and 'gained' not in text.split('promoted learning_rate')[0]


def test_the_interval_of_a_gain_agrees_with_theory():
  # Items independent, seeds without variation of their own: the difference of means has the
  # variance of a paired difference over items.
  rng = np.random.default_rng(0)
  starting = rng.random((1, 4000)) < 0.5
  promoted = starting | (rng.random((1, 4000)) < 0.1)
  _, found = gains.compare({'promoted': promoted, 'starting': starting})
  difference = promoted[0].astype(float) - starting[0]
  half = 1.96 * difference.std() / np.sqrt(4000)
  gain = found['starting']
  assert gain.value == pytest.approx(difference.mean())
  assert gain.low == pytest.approx(
    difference.mean() - half, abs=0.1 * half
  ) and gain.high == pytest.approx(difference.mean() + half, abs=0.1 * half)
  assert 'base' not in found


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0.01, 0.03, 'gain'),
    (-0.03, -0.01, 'loss'),
    (-0.01, 0.03, 'noise'),
    (0.0, 0.0, 'noise'),
    (0.0, 0.1, 'noise'),
  ],
)
def test_verdicts(low, high, expected):
  gain = Gain((low + high) / 2, low, high)
  assert gain.verdict == expected
  assert {'gain': 'gained', 'loss': 'LOST', 'noise': 'within noise'}[expected] in gain_words(
    gain, 'base'
  )


def test_score_files_must_agree_with_the_ledger(make_run):
  run = make_run()
  path = run / 'scores' / 'promoted0.final.json'
  stored = json.loads(path.read_text())
  stored['items'][-1][3] = not stored['items'][-1][3]
  path.write_text(json.dumps(stored))
  with pytest.raises(
    ScoreFileError, match=r'57 of 80 items right, recorded are 56 of 80.*aevo audit'
  ):
    final_table(RunView(run))
  path.write_text('{')
  with pytest.raises(ScoreFileError, match='cannot be read'):
    final_table(RunView(run))
  path.unlink()
  with pytest.raises(ScoreFileError, match='missing'):
    final_table(RunView(run))


def test_score_files_of_the_final_are_about_the_same_items(make_run):
  run = make_run()
  path = run / 'scores' / 'promoted0.final.json'
  stored = json.loads(path.read_text())
  stored['items'].reverse()
  path.write_text(json.dumps(stored))
  with pytest.raises(ScoreFileError, match='not about the same items'):
    final_table(RunView(run))


def test_costs_add_up(make_run):
  records = read(make_run() / 'ledger.jsonl')
  found = costs_lib.costs(records)
  # 8 sealed in the campaign (one after a crash) and 4 retrainings, each claiming 15 s of training,
  # 122,880 tokens and 60 steps.
  assert (
    found.total('tokens') == 12 * 122_880
    and found.total('steps') == 720
    and found.total('sealed') == 12
    and found.total('trials') == 14
  )
  assert found.parts[costs_lib.TRAINING] == pytest.approx(180.0) and found.parts[
    costs_lib.STARTING
  ] == pytest.approx(36.0)
  # A sealed trial lives 20 s (19 s, and 1 s for the record): 2 s are neither training nor start-up;
  # the two failed attempts lived 10 s and 1 s.
  assert found.parts[costs_lib.OVERHEAD] == pytest.approx(24.0) and found.parts[
    costs_lib.FAILED
  ] == pytest.approx(11.0)
  assert sum(found.parts.values()) == pytest.approx(2 * found.wall)
  assert [p.round for p in found.phases] == [0, 1, 2, -1] and [p.trials for p in found.phases] == [
    2,
    4,
    4,
    4,
  ]
  assert found.non_training_share == pytest.approx(1 - 180 / (2 * found.wall))


def test_a_retraining_that_is_assigned_early_leaves_the_time_with_its_round(make_run):
  records = read(make_run() / 'ledger.jsonl')
  final = [r for r in records if r.kind == 'trial_assigned' and r.payload['round'] == -1]
  last = max(
    i for i, r in enumerate(records) if r.kind == 'trial_assigned' and r.payload['round'] == 1
  )
  early = [
    *records[: last + 1],
    dataclasses.replace(final[0], time=records[last].time),
    *(r for r in records[last + 1 :] if r is not final[0]),
  ]

  def walls(ledger):
    return {phase.round: phase.wall for phase in costs_lib.costs(ledger).phases}

  assert (
    all(walls(early)[k] == pytest.approx(walls(records)[k], abs=1.1) for k in (0, 1, 2))
    and walls(records)[1] > 10
  )


def test_time_between_kill_and_resume_is_no_cost(make_run):
  plain, interrupted = (
    costs_lib.wall_clock(read(make_run(name, pause=pause) / 'ledger.jsonl'))
    for name, pause in (('a', 0.0), ('b', 5000.0))
  )
  assert interrupted['paused'] == pytest.approx(5001)
  assert interrupted['wall'] == pytest.approx(plain['wall'] + 5001)
  assert interrupted['non_training_share'] == pytest.approx(plain['non_training_share'])


def test_a_claim_of_absurd_times_cannot_exceed_what_the_worker_lived(make_run):
  records = read(make_run(until='round 0') / 'ledger.jsonl')
  seconds = [{'train': 1e12, 'start': 'soon'}, {'train': float('inf'), 'start': -4}]
  forged = [
    dataclasses.replace(
      r,
      payload=r.payload
      | {'claim': r.payload['claim'] | {'seconds': seconds[r.payload['trial'] == 'r0w1']}},
    )
    if r.kind == 'trial_sealed'
    else r
    for r in records
  ]
  found = costs_lib.costs(forged)
  assert found.parts[costs_lib.TRAINING] == pytest.approx(
    20.0
  )  # the first is cut at its 20 s, the second is no number
  assert found.parts[costs_lib.OVERHEAD] == pytest.approx(20.0)
