"""What starts next: retrainings in idle slots, trials whose program is compiled, rounds that end in
time.
"""

import pytest
from stand_ins import Killed, failures, only, trains

from aevo_jax.campaign.decisions.next_policy import next_policy
from aevo_jax.campaign.executors.precompiler import compiled_marker
from aevo_jax.campaign.trial.spec import TrialSpec
from aevo_jax.meta_agent.evidence import Evidence


@pytest.mark.parametrize('slow', [{'r0w1': 8}, {'r1w2': 8, 'starting0': 40}])
def test_a_retraining_of_the_starting_recipe_fills_an_idle_slot_and_keeps_nothing_waiting(
  launch, slow
):
  """In the second case it still trains when the round's own trials and scores are done: the next
  round begins beside it, and the final waits for it.
  """
  launch.questions = slow
  _, records = launch(
    only(
      ['starting0'],
      lambda trial, attempt, directory: trains(trial, attempt, directory) if attempt > 1 else 1,
    )
  )

  def at(kind, trial=None, round_=None):
    return [
      i
      for i, r in enumerate(records)
      if r.kind == kind
      and trial in (None, r.payload.get('trial'))
      and round_ in (None, r.payload.get('round'))
    ]

  first, _ = at('trial_started', 'starting0')
  assert (
    max(at('trial_started', 'r0w0') + at('trial_started', 'r0w1'))
    < first
    < at('round_finished', round_=0)[0]
  )
  assert failures(records, 'starting0') == [('crash', False)]
  if 'starting0' in slow:
    assert first < at('trial_started', 'r1w0')[0] < at('trial_failed', 'starting0')[0]
  assert (
    max(at('round_finished')) < at('final_candidate_scored', 'starting0')[0] < at('final_scored')[0]
  )
  assert max(at('round_finished')) < at('trial_assigned', 'promoted0')[0]


@pytest.mark.parametrize('broken', [False, True])
def test_a_trial_waits_for_the_compilation_of_its_own_program_only(launch, broken):
  """Round 0 has one program, the following ones several; each is asked for once, unless compiling
  failed, when the workers do without.
  """
  launch.broken_precompiler = broken
  compiled_at_start = []

  def behaviour(trial, attempt, directory):
    marker = compiled_marker(TrialSpec.read(directory), 'i')
    compiled_at_start.append((marker.exists(), all(path.exists() for path in launch.compiled)))
    return trains(trial, attempt, directory)

  state, _ = launch(behaviour)
  assert state.finished is not None and len(compiled_at_start) == len(state.trials)
  assert {own for own, _ in compiled_at_start} == {not broken}
  if not broken:
    assert len(set(launch.compiled)) == len(launch.compiled) > 1
    assert not all(everything for _, everything in compiled_at_start), (
      'some trial started while other programs were being compiled'
    )


# -- the wall-clock cap ----------------------------------------------------------------------------


@pytest.fixture
def clock(launch):
  """The ledger's clock: a second at every record, and `clock.now` can be moved."""

  class Clock:
    now = 1e9

    def __call__(self):
      self.now += 1
      return self.now

  launch.ledger_clock = Clock()
  return launch.ledger_clock


def test_no_round_is_begun_that_would_not_end_in_time(launch, clock):
  unlimited, records = launch(trains)
  ended = {
    r.payload['round']: r.time - records[0].time for r in records if r.kind == 'round_finished'
  }
  for path in (
    launch.run / 'ledger.jsonl',
    launch.run / 'ledger.head',
    *(launch.run.parent / 'home').rglob('*.json'),
  ):
    path.unlink()
  # Enough for round 1, its final included at the pace of round 0, and not for round 2.
  pace = ended[0] / 2
  cap = ended[1] + pace * 3 - 1
  state, records = launch(trains, budget={'wall_clock_s': cap})
  assert (
    state.finished_rounds == {0, 1}
    and state.exhausted['round'] == 1
    and f'{cap:g}' in state.exhausted['reason']
  )
  assert state.finished is not None and state.final is not None and 'promoted0' in state.trials
  assert unlimited.finished_rounds == {0, 1, 2} and unlimited.exhausted is None


def test_time_in_which_the_campaign_was_stopped_does_not_count(launch, clock):
  def stop(record):
    if record is not None and record.kind == 'round_finished' and record.payload['round'] == 1:
      raise Killed

  with pytest.raises(Killed):
    launch(trains, stop, budget={'wall_clock_s': 5000.0})
  clock.now += 1e6
  state, records = launch(trains, budget={'wall_clock_s': 5000.0})
  assert (
    state.exhausted is None
    and state.finished_rounds == {0, 1, 2}
    and state.seconds < 1000 < records[-1].time - records[0].time
  )


def test_hundreds_of_rounds_read_their_evidence_once(launch):
  """Reads of evidence files grow with the rounds, not with their square: none is read again in a
  later round.
  """
  removed = []

  def decide(history, policy, constitution, **k):
    paths = sorted((launch.run / 'evidence').iterdir())
    assert [path.name for path in paths] == [f'round_{policy.round:03d}.json']
    assert history[-1] == Evidence.from_json(paths[0].read_text())
    paths[0].unlink()
    removed.append(len(history))
    return next_policy(history, policy, constitution, **k)

  launch.collaborators['next_policy'] = decide
  state, _ = launch(trains, budget={'rounds': 6})
  assert state.finished is not None and removed == [1, 2, 3, 4, 5, 6, 7]
