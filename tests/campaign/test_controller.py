"""The controller's bookkeeping: what every way a worker can end becomes in the ledger, and that the
campaign goes on.
"""

import collections
import dataclasses
import json
import signal

import numpy as np
import pytest
from stand_ins import (
  CLAIM,
  WEIGHTS,
  Killed,
  claims,
  evidence_of,
  exits,
  exports,
  failures,
  links,
  only,
  trains,
)

from aevo_jax.campaign.campaign import FrozenInputsError
from aevo_jax.campaign.decisions.next_policy import next_policy
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.ledger.append import read
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.policy import Assignment


@pytest.mark.parametrize(
  ('behaviour', 'status', 'rows', 'message'),
  [
    (exits(1), 'failed', [('crash', False), ('crash', False), ('crash', True)], 'the last words'),
    (
      exits(-signal.SIGSEGV),
      'failed',
      [('signal_11', False), ('signal_11', False), ('signal_11', True)],
      'the last words',
    ),
    (exits('deadline'), 'failed', [('deadline', True)], 'killed after 300 s'),
    (exits(0), 'failed', [('crash', False), ('crash', False), ('crash', True)], 'exit status 0'),
    (
      claims({'status': 'failed', 'cause': 'non_finite', 'message': 'step 3: loss nan'}),
      'failed',
      [('non_finite', True)],
      'step 3',
    ),
    (
      claims({'status': 'failed', 'cause': 'out_of_memory', 'message': 'm'}),
      'failed',
      [('out_of_memory', True)],
      'm',
    ),
    (
      claims(
        {'status': 'refused', 'cause': 'DeadBindingError', 'message': 'dead bindings: lora.rank'}
      ),
      'refused',
      [],
      'lora.rank',
    ),
    (links, 'failed', [('crash', False), ('crash', False), ('crash', True)], 'passwords'),
    (
      exports({'w': np.zeros((9, 9), np.float32)}),
      'failed',
      [('crash', False), ('crash', False), ('crash', True)],
      'not of the base model: w',
    ),
    (
      exports({'v': WEIGHTS['w']}),
      'failed',
      [('crash', False), ('crash', False), ('crash', True)],
      'not of the base model',
    ),
    (
      exports(b'no safetensors'),
      'failed',
      [('crash', False), ('crash', False), ('crash', True)],
      '',
    ),
    (claims('{'), 'failed', [('crash', False), ('crash', False), ('crash', True)], 'result.json'),
    (claims('[]'), 'failed', [('crash', False), ('crash', False), ('crash', True)], 'not a claim'),
    (
      claims(CLAIM | {'status': 'promoted'}),
      'failed',
      [('crash', False), ('crash', False), ('crash', True)],
      'not a claim',
    ),
    (
      claims(json.dumps(CLAIM).replace('8192', 'NaN')),
      'failed',
      [('crash', False), ('crash', False), ('crash', True)],
      'NaN',
    ),
  ],
  ids=[
    'exception',
    'signal',
    'deadline',
    'no result',
    'nan',
    'memory',
    'refused',
    'link',
    'shape',
    'names',
    'not safetensors',
    'torn claim',
    'no claim',
    'unknown status',
    'claim of NaN',
  ],
)
def test_every_end_of_a_worker_is_a_row_and_the_campaign_goes_on(
  launch, behaviour, status, rows, message
):
  state, records = launch(only({'r1w1'}, behaviour))
  trial = state.trials['r1w1']
  assert trial.status == status and failures(records, 'r1w1') == rows
  assert launch.attempts['r1w1'] == max(1, len(rows))
  assert message in next(
    r.payload.get('message', r.payload['cause'])
    for r in records
    if r.kind in ('trial_failed', 'trial_refused')
  )
  assert trial.dev is None and not trial.external_scored and trial.released is None
  assert state.finished is not None and state.finished_rounds == {0, 1, 2}
  assert all(t.status == 'sealed' for name, t in state.trials.items() if name != 'r1w1')
  evidence = evidence_of(launch.run, 1)
  entry = evidence['trials'][1]
  assert (entry['status'], entry['cause'], entry['dev'], entry['external']) == (
    status,
    trial.cause,
    None,
    None,
  )


def test_a_failed_attempt_is_retried_and_leaves_no_trace_in_the_evidence(launch):
  state, records = launch(
    lambda trial, attempt, directory: (
      trains(trial, 2, directory) if attempt == 2 or trial != 'r1w0' else -9
    )
  )
  assert (
    failures(records, 'r1w0') == [('signal_9', False)] and state.trials['r1w0'].status == 'sealed'
  )
  assert evidence_of(launch.run, 1)['trials'][0]['cause'] == ''


@pytest.mark.parametrize(
  'dead',
  [
    {'r1w1', 'r1w2'},
    {'r1w1', 'r1w2', 'r2w1', 'r2w2'},
    {'r0w0', 'r0w1'},
    {'r1w0', 'r2w0'},
    {'r1w0', 'r1w1', 'r1w2'},
    {f'r{r}w{w}' for r in range(3) for w in range(3)},
    {'starting0', 'promoted0'},
  ],
  ids=['explorers', 'all explorers', 'round 0', 'anchors', 'round 1', 'all rounds', 'final'],
)
def test_a_campaign_survives_whole_groups_that_fail(launch, dead):
  state, records = launch(only(dead, exits(1)))
  assert state.finished is not None
  assert {
    name for name, t in state.trials.items() if t.status == 'failed'
  } == dead & state.trials.keys()
  assert all(len(failures(records, name)) == 3 for name in dead & state.trials.keys())
  assert len(state.of_round(2)) == 3 and state.policies[3]['policy']['standing'] == {}
  assert 'base' in state.final['scores']


def test_a_refused_recipe_is_a_row_and_never_starts(launch):
  def decide(history, policy, constitution, **_):
    following = policy_lib.starting(3)
    bad = Assignment('batch', {}, {'budget.trial_tokens': 10**9}, 'greed')
    return dataclasses.replace(
      following,
      round=policy.round + 1,
      assignments=(following.assignments[0], bad, following.assignments[2]),
    )

  launch.collaborators['next_policy'] = decide
  state, _ = launch(trains)
  assert [state.trials[name].status for name in ('r1w0', 'r1w1', 'r1w2')] == [
    'sealed',
    'refused',
    'sealed',
  ]
  assert (
    'budget.trial_tokens may not be bound' in state.trials['r1w1'].cause
    and launch.attempts['r1w1'] == 0
  )
  assert state.trials['r1w1'].recipe == ''


@pytest.mark.parametrize(
  ('budget', 'confines', 'said'),
  [
    pytest.param(
      {'rounds': 3},
      False,
      'constitution of .* is not what the campaign began with',
      id='Constitution-changed0-constitution of .* is not what the campaign began with',
    ),
    pytest.param(
      {},
      True,
      'began with its workers open',
      id='CampaignSettings-changed1-began with its workers open',
    ),
  ],
)
def test_a_campaign_does_not_go_on_under_other_rules(launch, budget, confines, said):
  def can(answer):
    def probe():
      return answer, 'it cannot'

    launch.collaborators['can_confine'] = probe

  def stop(record):
    if record is not None and record.kind == 'trial_started':
      raise KeyboardInterrupt

  can(False)
  with pytest.raises(KeyboardInterrupt):
    launch(trains, stop, sandbox='auto')
  records = read(launch.run / 'ledger.jsonl')
  can(confines)
  with pytest.raises(FrozenInputsError, match=said):
    launch(trains, budget=budget, sandbox='auto')
  assert read(launch.run / 'ledger.jsonl') == records
  can(False)
  state, _ = launch(trains, sandbox='auto')
  assert state.finished is not None


def test_a_stop_after_every_single_record_resumes_to_the_same_end(launch):
  """The controller is stopped right after record 1, 2, 3 ... by turns, until it reaches the end; a
  refused recipe is among the trials.
  """
  greedy = Assignment('batch', {}, {'train.batch_rows': 5}, 'not a choice')
  real = next_policy

  def decide(history, policy, constitution, **k):
    following = real(history, policy, constitution, **k)
    return dataclasses.replace(following, assignments=(*following.assignments[:2], greedy))

  launch.collaborators['next_policy'] = decide
  stopped_at = set()

  def observer(record):
    # Once at each event: a controller that is always stopped where a trial starts never gets on.
    event = record and (record.kind, record.payload.get('trial'), record.payload.get('round'))
    if record is not None and record.kind != 'controller_resumed' and event not in stopped_at:
      stopped_at.add(event)
      raise Killed

  while True:
    try:
      state, records = launch(trains, observer)
      break
    except Killed:
      assert len(stopped_at) < 200
  stops = len(stopped_at)
  kinds = collections.Counter(r.kind for r in records)
  assert kinds['controller_resumed'] == stops - 1  # after the last record nothing is left to resume
  assert kinds['trial_assigned'] == len(state.trials) == 2 + 3 + 3 + 2
  assert (
    kinds['trial_refused'] == 2
    and kinds['trial_sealed'] == 8
    and kinds['trial_scored'] == 6
    and kinds['external_scored'] == 6
  )
  assert (
    kinds['round_finished'] == 3
    and kinds['policy_written'] == 4
    and kinds['campaign_finished'] == 1
    and kinds['base_scored'] == 1
  )
  assert (
    kinds['evidence_written'] == 3
    and kinds['promotion_decided'] == 3
    and kinds['secrets_revealed'] == 1
  )
  assert not [
    name for name, t in state.trials.items() if t.status == 'refused' and launch.attempts[name]
  ]


def test_settings_say_what_is_wrong():
  for field, value in {
    'agent': 'oracle',
    'workers_choose': 'dice',
    'sandbox': 'maybe',
    'parallel': -1,
    'threads': 0,
  }.items():
    with pytest.raises(ValueError, match=field):
      CampaignSettings(**{field: value})
