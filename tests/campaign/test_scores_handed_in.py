"""Campaigns whose submissions somebody else scores, with stand-in workers."""

import collections

import pytest
from stand_ins import Killed, evidence_of, trains

from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.campaign import FrozenInputsError
from aevo_jax.campaign.decisions.state import fold
from aevo_jax.ledger.append import Ledger, read


@pytest.fixture
def handed_out(launch):
  """Submissions are small files, as stand-in workers leave no checkpoint."""

  def write(stage, directory, base, recipe, *, base_name, max_rank):
    stage.mkdir()
    (stage / 'weights.bin').write_text(directory.name)
    return 'weights'

  launch.collaborators['write_submission'] = write


def hand_in(run, scores):
  """Submits what the campaign waits for, by `scores(trial)`; those of which that is None are
  waived.
  """
  with Ledger.open(run / 'ledger.jsonl') as ledger:
    waiting = manual_arbiter.missing(fold(ledger.records))
  given = [t for t in waiting if scores(t) is not None]
  for trial in given:
    manual_arbiter.submit(run, trial, scores(trial))
  if len(given) < len(waiting):
    assert manual_arbiter.waive(run) == [t for t in waiting if t not in given]
  return waiting


def test_a_manual_campaign_waits_for_every_score_and_promotes_by_them(launch, handed_out):
  waits, scores = [], lambda trial: {'r1w1': 0.9}.get(trial, 0.5)
  while True:
    try:
      state, records = launch(trains, arbiter='manual')
      break
    except manual_arbiter.WaitingForScoresError as error:
      assert f'aevo submit_score {launch.run}' in str(error) and '--without_missing' in str(error)
      waits.append(hand_in(launch.run, scores))
  # Anchors first, then the best by dev, two a round; at the end the promoted recipe.
  assert waits == [['r0w0', 'r0w1'], ['r1w0', 'r1w1'], ['r2w0', 'r2w1'], ['promoted0']]
  assert state.finished is not None and state.final is None and state.revealed is None
  assert 'starting0' not in state.trials and not any(
    r.kind in ('external_scored', 'secrets_revealed') for r in records
  )
  assert {t.trial: t.released for t in state.trials.values() if t.released is not None} == {
    t: scores(t) for w in waits[:3] for t in w
  }
  evidence = evidence_of(launch.run, 1)
  assert [t['external'] for t in evidence['trials']] == [0.5, 0.9, None]
  # Seconds in which the campaign waited are nobody's.
  assert state.seconds < records[-1].time - records[0].time


def test_a_manual_campaign_goes_on_without_what_is_missing(launch, handed_out):
  for _ in range(4):
    with pytest.raises(manual_arbiter.WaitingForScoresError):
      launch(trains, arbiter='manual')
    hand_in(
      launch.run, lambda trial: None if trial in ('r0w1', 'r1w0', 'r1w1', 'promoted0') else 0.4
    )
  state, _ = launch(trains, arbiter='manual')
  assert state.finished is not None and [t.trial for t in state.trials.values() if t.waived] == [
    'r0w1',
    'r1w0',
    'r1w1',
    'promoted0',
  ]
  assert state.trials['r0w0'].released == 0.4 and state.trials['r0w1'].released is None
  with pytest.raises(manual_arbiter.ScoreRefusedError, match='went on without'):
    manual_arbiter.submit(launch.run, 'r0w1', 0.5)
  with pytest.raises(manual_arbiter.ScoreRefusedError, match='misses no score'):
    manual_arbiter.waive(launch.run)


def test_a_manual_campaign_stopped_after_every_record_comes_to_the_same_end(launch, handed_out):
  stopped_at = set()

  def observer(record):
    event = record and (record.kind, record.payload.get('trial'), record.payload.get('round'))
    if (
      record is not None
      and record.kind not in ('controller_resumed', 'campaign_waiting')
      and event not in stopped_at
    ):
      stopped_at.add(event)
      raise Killed

  while True:
    try:
      state, records = launch(trains, observer, arbiter='manual')
      break
    except Killed:
      assert len(stopped_at) < 200
    except manual_arbiter.WaitingForScoresError:
      hand_in(launch.run, lambda trial: 0.5)
  kinds = collections.Counter(r.kind for r in records)
  assert (
    kinds['submission_exported'] == kinds['score_submitted'] == 7
    and kinds['external_released'] == 6
  )
  assert kinds['campaign_finished'] == 1 and state.finished is not None


@pytest.mark.parametrize(
  ('trial', 'score', 'digest', 'said'),
  [
    ('r0w9', 0.5, '', "did you mean 'r0w0'|did you mean 'r0w1'"),
    ('r0w0', 84.0, '', 'for 84% give 0.84'),
    ('r0w0', float('nan'), '', 'between 0 and 1'),
    ('r0w0', -0.1, '', 'between 0 and 1'),
    ('r0w0', 0.5, 'f' * 64, 'exported with digest'),
    ('r0w1', 0.6, '', 'has the score 0.5 already'),
    ('r1w0', 0.5, '', 'was not exported'),
  ],
)
def test_a_score_that_cannot_be_meant_is_refused(launch, handed_out, trial, score, digest, said):
  with pytest.raises(manual_arbiter.WaitingForScoresError):
    launch(trains, arbiter='manual')
  assert 'still missing: r0w0' in manual_arbiter.submit(launch.run, 'r0w1', 0.5, 'leaderboard')
  assert 'nothing was changed' in manual_arbiter.submit(launch.run, 'r0w1', 0.5)
  before = read(launch.run / 'ledger.jsonl')
  with pytest.raises(manual_arbiter.ScoreRefusedError, match=said):
    manual_arbiter.submit(launch.run, trial, score, digest=digest)
  assert read(launch.run / 'ledger.jsonl') == before


def test_a_changed_submission_takes_no_score_and_a_local_campaign_none_at_all(launch, handed_out):
  with pytest.raises(manual_arbiter.WaitingForScoresError):
    launch(trains, arbiter='manual')
  (launch.run / 'submissions' / 'r0w0' / 'weights' / 'weights.bin').write_text('better ones')
  with pytest.raises(manual_arbiter.ScoreRefusedError, match='is not what was exported'):
    manual_arbiter.submit(launch.run, 'r0w0', 0.5)
  with pytest.raises(FrozenInputsError, match='settings'):
    launch(trains)


def test_a_local_campaign_takes_no_scores(launch):
  launch(trains)
  with pytest.raises(manual_arbiter.ScoreRefusedError, match='scores its trials itself'):
    manual_arbiter.submit(launch.run, 'r0w0', 0.5)
