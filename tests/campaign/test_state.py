"""The fold: state after any prefix of a real ledger is the same whether folded at once or record by
record, and resuming is folding.
"""

import dataclasses

from aevo_jax.campaign.decisions.state import CampaignState, fold
from aevo_jax.ledger.append import read
from aevo_jax.ledger.records import GENESIS_HASH, KINDS, make_record


def records_of(*events):
  return [
    make_record(i, kind, 0.0, payload, GENESIS_HASH) for i, (kind, payload) in enumerate(events)
  ]


ASSIGNED = (
  'trial_assigned',
  {
    'trial': 'r1w0',
    'round': 1,
    'worker': 0,
    'axis': 'batch',
    'overlay': 'o',
    'recipe': 'd',
    'seed': 5,
  },
)


def test_a_trial_from_assignment_to_score():
  failed = ('trial_failed', {'trial': 'r1w0', 'cause': 'signal_9', 'final': False})
  sealed = (
    'trial_sealed',
    {'trial': 'r1w0', 'digest': 'x', 'candidate': 'c', 'export_file': 'e', 'claim': {'steps': 4}},
  )
  state = fold(records_of(ASSIGNED, failed))
  assert (
    state.trials['r1w0'].status,
    state.trials['r1w0'].failures,
    state.trials['r1w0'].cause,
    state.trials['r1w0'].done,
  ) == ('assigned', 1, 'signal_9', False)
  state = fold(
    records_of(
      ASSIGNED,
      failed,
      sealed,
      ('trial_scored', {'trial': 'r1w0', 'score': {'overall': 1}}),
      ('external_scored', {'trial': 'r1w0'}),
      ('external_released', {'trial': 'r1w0', 'round': 1, 'score': 0.25}),
    )
  )
  trial = state.trials['r1w0']
  assert (
    trial.status,
    trial.candidate,
    trial.export_file,
    trial.cause,
    trial.dev,
    trial.external_scored,
    trial.released,
    trial.done,
  ) == ('sealed', 'c', 'e', '', {'overall': 1}, True, 0.25, True)
  assert trial.failures == 1 and trial.recipe == 'd'


def test_final_failures_and_refusals_end_a_trial():
  assert (
    fold(
      records_of(ASSIGNED, ('trial_failed', {'trial': 'r1w0', 'cause': 'deadline', 'final': True}))
    )
    .trials['r1w0']
    .status
    == 'failed'
  )
  refused = fold(records_of(ASSIGNED, ('trial_refused', {'trial': 'r1w0', 'cause': 'why'}))).trials[
    'r1w0'
  ]
  assert (refused.status, refused.cause, refused.done) == ('refused', 'why', True)


def test_of_round_sorts_by_worker():
  events = [
    ('trial_assigned', ASSIGNED[1] | {'trial': f'r1w{w}', 'worker': w}) for w in (2, 0, 10, 1)
  ]
  assert [t.worker for t in fold(records_of(*events)).of_round(1)] == [0, 1, 2, 10]


def test_every_kind_that_a_campaign_writes_is_folded_or_informative(tiny_run):
  informative = {'trial_started', 'round_started', 'note'}
  state, kinds = CampaignState(), set()
  for record in read(tiny_run / 'ledger.jsonl'):
    before = repr(state)
    state.apply(record)
    kinds.add(record.kind)
    assert (repr(state) != before) == (record.kind not in informative), record.kind
  assert kinds <= KINDS.keys()
  assert dataclasses.asdict(fold(read(tiny_run / 'ledger.jsonl'))) == dataclasses.asdict(state)
  assert state.finished is not None and state.finished_rounds == {0, 1}
