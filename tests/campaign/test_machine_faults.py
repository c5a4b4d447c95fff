"""The machine's faults are not the trial's: the campaign pauses, spends nothing and goes on to the
same end; a worker that only says so is the one that failed. The next fault is a row.
"""

import errno
import json
import os
import resource
import signal

import pytest
from launcher import Launcher
from stand_ins import CLAIM, StandInMachine, claims, exits, failures, only, trains

from aevo_jax.campaign.executors.protocol import Ended, ExecutorError
from aevo_jax.campaign.machine.fault import MachineFaultError
from aevo_jax.campaign.machine.reserve import FILE
from aevo_jax.campaign.trial.worker import DISK_STATUS
from aevo_jax.evaluation.servers.client import ServerDiedError
from aevo_jax.ledger.append import read

OUT_OF_MEMORY = {'status': 'failed', 'cause': 'out_of_memory', 'message': 'MemoryError'}
GB = 10**9


def works(trial, attempt, directory):
  """Trains the same weights at every attempt."""
  return trains(trial, 1, directory)


def outcome(state) -> dict:
  trials = {}
  for name, trial in state.trials.items():
    trials[name] = (trial.status, trial.failures, trial.candidate, trial.dev, trial.released)
  digests = {round_: policy['digest'] for round_, policy in state.policies.items()}
  return {'trials': trials, 'policies': digests, 'final': state.final['scores']}


@pytest.fixture
def machine(launch):
  machine = StandInMachine()
  launch.collaborators['machine'] = machine
  return machine


# name -> how the worker of r1w1 ends, what is wrong with the machine then, the cause, what is said
FAULTS = {
  'disk full': (exits(DISK_STATUS), {'free': 1000}, 'disk_full', 'the disk is full; free space'),
  'disk full, unsaid': (exits(1), {'refusal': errno.ENOSPC}, 'disk_full', 'the disk is full'),
  'disk full under a mapped file': (exits(-signal.SIGBUS), {'free': 1000}, 'disk_full', 'full'),
  'less room than a trial may take': (
    exits(DISK_STATUS),
    {'free': 2 * 10**6},
    'disk_full',
    'has 2 MB free, and a trial may take 4 MB: the disk is full',
  ),
  'read-only': (exits(DISK_STATUS), {'refusal': errno.EROFS}, 'disk_read_only', 'is read-only'),
  'quota': (exits(DISK_STATUS), {'refusal': errno.EDQUOT}, 'disk_quota', 'quota is used up'),
  'ulimit -f': (exits(DISK_STATUS), {'refusal': errno.EFBIG}, 'file_size_limit', 'ulimit -f'),
  'broken disk': (exits(1), {'refusal': errno.EIO}, 'disk_error', 'the disk fails'),
  'open files': (exits(1), {'refusal': errno.EMFILE}, 'open_files_limit', 'ulimit -n'),
  'killed by the kernel': (
    exits(-signal.SIGKILL),
    {'killed': 1},
    'out_of_memory',
    'the machine ran out of memory; free some',
  ),
  'no memory to be had': (
    claims(OUT_OF_MEMORY),
    {'memory': GB},
    'out_of_memory',
    'the machine has too little memory',
  ),
  'ulimit -v': (claims(OUT_OF_MEMORY), {'limit': GB}, 'memory_limit', 'ulimit -v'),
  'ulimit -v outside of Python': (
    exits(-signal.SIGABRT),
    {'limit': GB},
    'memory_limit',
    'memory is limited to 1.0 GB',
  ),
  'lost device': (exits(1), {'devices': ()}, 'device_lost', 'gpu0 is gone'),
  'device that does not compute': (
    exits(1),
    {'silent': 'CUDA_ERROR_UNKNOWN'},
    'device_lost',
    'CUDA_ERROR_UNKNOWN',
  ),
}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """The outcome of the campaign on a machine that never fails."""
  return outcome(Launcher(tmp_path_factory.mktemp('undisturbed'))(works)[0])


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_of_the_machine_pauses_and_the_end_is_the_same(launch, machine, undisturbed, name):
  ending, wrong, cause, said = FAULTS[name]

  def fails(trial, attempt, directory):
    if trial == 'r1w1' and not launch.mended:
      for attribute, value in wrong.items():
        setattr(machine, attribute, value)
      return ending(trial, attempt, directory)
    return works(trial, attempt, directory)

  launch.mended = False
  with pytest.raises(MachineFaultError) as fault:
    launch(fails)
  assert fault.value.cause == cause and said in str(fault.value)
  assert f'then aevo campaign --resume={launch.run}' in str(fault.value)
  records = read(launch.run / 'ledger.jsonl')
  assert records[-1].kind == 'campaign_paused' and records[-1].payload['cause'] == cause
  assert 'r1w1' in records[-1].payload['trials']
  kinds = {record.kind for record in records}
  assert not kinds & {'trial_failed', 'final_scored', 'secrets_revealed', 'campaign_finished'}

  launch.mended = True
  launch.collaborators['machine'] = StandInMachine()
  state, records = launch(works)
  assert outcome(state) == undisturbed and state.finished is not None
  assert (state.pauses, state.paused) == (1, None)
  assert state.trials['r1w1'].interruptions == 1 and failures(records, 'r1w1') == []
  assert not (launch.run / FILE).exists()


# What a worker of a machine with nothing wrong says or does -> the rows of its trial
LIES = {
  'disk': (exits(DISK_STATUS), [('crash', False), ('crash', False), ('crash', True)]),
  'mapped file': (exits(-signal.SIGBUS), [('signal_7', False)] * 2 + [('signal_7', True)]),
  'memory': (claims(OUT_OF_MEMORY), [('out_of_memory', True)]),
  'kill': (exits(-signal.SIGKILL), [('signal_9', False)] * 2 + [('signal_9', True)]),
  'abort': (exits(-signal.SIGABRT), [('signal_6', False)] * 2 + [('signal_6', True)]),
}


@pytest.mark.parametrize('name', LIES)
def test_a_worker_cannot_say_that_the_machine_failed(launch, machine, name):
  lie, rows = LIES[name]
  state, records = launch(only({'r1w1'}, lie))
  assert state.finished is not None and failures(records, 'r1w1') == rows
  assert state.pauses == 0 and state.trials['r1w1'].interruptions == 0


def test_little_memory_is_an_excuse_once(launch, machine):
  """A trial that asks for more than this machine ever has would pause the campaign for ever."""
  machine.memory = GB
  with pytest.raises(MachineFaultError):
    launch(only({'r1w1'}, claims(OUT_OF_MEMORY)))
  state, records = launch(only({'r1w1'}, claims(OUT_OF_MEMORY)))
  assert failures(records, 'r1w1') == [('out_of_memory', True)] and state.finished is not None


def test_two_workers_that_lacked_memory_at_once_are_both_tried_again(launch, machine):
  def fails(trial, attempt, directory):
    if trial in ('r1w0', 'r1w1') and not launch.mended:
      machine.limit = GB
      return claims(OUT_OF_MEMORY)(trial, attempt, directory)
    return works(trial, attempt, directory)

  launch.mended = False
  launch.questions['r1w0'] = 50  # it has said so when the other ends, and nobody has asked
  with pytest.raises(MachineFaultError):
    launch(fails)
  assert (launch.run / 'trials' / 'r1w0' / 'result.json').exists()
  machine.limit = None
  launch.mended = True
  state, records = launch(fails)
  assert not [r for r in records if r.kind == 'trial_failed'] and state.finished is not None


def test_a_kill_before_the_attempt_began_is_no_excuse(launch, machine):
  machine.killed = 7
  _, records = launch(only({'r1w1'}, exits(-signal.SIGKILL)))
  assert [cause for cause, _ in failures(records, 'r1w1')] == ['signal_9'] * 3


@pytest.mark.parametrize('kind', ['disk', 'memory'])
def test_more_than_its_allowance_fails_the_trial_and_not_those_beside_it(launch, machine, kind):
  """r1w1 takes too much; r1w0, which runs beside it, lacks that, and is tried again for nothing."""
  launch.questions['r1w0'] = 50  # it ends after the other
  victims_end = {'disk': DISK_STATUS, 'memory': -signal.SIGKILL}[kind]

  def behaviour(trial, attempt, directory):
    if trial == 'r1w1':
      machine.killed = 1
      return Ended(-signal.SIGKILL, exceeded=kind, peak_memory=9 * GB)
    if trial == 'r1w0' and launch.attempts[trial] == 1:
      return victims_end
    return works(trial, attempt, directory)

  state, records = launch(behaviour)
  assert failures(records, 'r1w1') == [(f'{kind}_allowance', True)]
  (failed,) = [r.payload for r in records if r.kind == 'trial_failed']
  assert f'campaign.trial_{kind}_gb' in failed['message']
  assert not (launch.run / 'trials' / 'r1w1').exists()
  assert failures(records, 'r1w0') == [] and state.trials['r1w0'].status == 'sealed'
  (interrupted,) = [r.payload for r in records if r.kind == 'trial_interrupted']
  assert (interrupted['trial'], launch.attempts['r1w0']) == ('r1w0', 2)
  assert state.finished is not None and state.pauses == 0


def test_a_full_disk_is_first_asked_of_the_trials_that_fill_it(launch, machine):
  """r1w1 still runs and holds more than it may; r1w2 meets the full disk."""
  launch.questions['r1w1'] = 10**6

  def behaviour(trial, attempt, directory):
    if trial == 'r1w1':
      (directory / 'hoard').write_bytes(os.urandom(5 * 10**6))
    if trial == 'r1w2' and launch.attempts[trial] == 1:
      machine.free = 1000
      return DISK_STATUS
    machine.free = 10**12
    return works(trial, attempt, directory)

  state, records = launch(behaviour)
  assert failures(records, 'r1w1') == [('disk_allowance', True)]
  assert failures(records, 'r1w2') == [] and state.finished is not None and state.pauses == 0


class Failing:
  """A collaborator of which one method raises."""

  def __init__(self, working, method, error):
    self._working = working
    self._method = method
    self._error = error

  def __getattr__(self, name):
    if name == self._method:
      return self._fail
    return getattr(self._working, name)

  def _fail(self, *arguments, **options):
    raise self._error


# The controller's own work: which collaborator fails, how, and the cause
CONTROLLERS = {
  'dead evaluator': ('evaluator', 'poll', ServerDiedError('it ended 4 times'), 'server_died'),
  'dead arbiter': ('arbiter', 'call', ServerDiedError('it ended 4 times'), 'server_died'),
  'no fork': ('executor', 'submit', ExecutorError('ended twice'), 'executor'),
  "evaluator's disk": ('evaluator', 'poll', OSError(errno.ENOSPC, 'No space'), 'disk_full'),
  "arbiter's quota": ('arbiter', 'poll', OSError(errno.EDQUOT, 'quota'), 'disk_quota'),
  'memory of the controller': ('evaluator', 'poll', MemoryError(), 'out_of_memory'),
  'no thread': ('evaluator', 'poll', RuntimeError("can't start new thread"), 'out_of_memory'),
  'no library': (
    'evaluator',
    'poll',
    ImportError('libXau.so.6: failed to map segment from shared object'),
    'out_of_memory',
  ),
  "the controller's device": (
    'evaluator',
    'poll',
    RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 262144 bytes.'),
    'out_of_memory',
  ),
}


@pytest.mark.parametrize('name', CONTROLLERS)
def test_what_stops_the_controller_pauses_the_campaign(launch, machine, undisturbed, name):
  part, method, error, cause = CONTROLLERS[name]
  working = launch.stand_ins(works)[part]
  launch.collaborators[part] = Failing(working, method, error)
  with pytest.raises(MachineFaultError) as fault:
    launch(works)
  assert fault.value.cause == cause
  assert read(launch.run / 'ledger.jsonl')[-1].payload['cause'] == cause
  del launch.collaborators[part]
  state, _ = launch(works)
  assert outcome(state) == undisturbed


def test_an_error_that_says_nothing_of_the_machine_is_none(launch, machine):
  launch.collaborators['evaluator'] = Failing(
    launch.stand_ins(works)['evaluator'], 'poll', PermissionError(errno.EACCES, 'denied', 'x')
  )
  with pytest.raises(PermissionError):
    launch(works)
  assert 'campaign_paused' not in [r.kind for r in read(launch.run / 'ledger.jsonl')]


def unavailable(server, fails):
  """The server, whose engine is down for requests of which `fails(request)` is true."""
  answer = server._handle
  server._handle = lambda request: (
    {'unavailable': 'NoVllmError: there is no vLLM'} if fails(request) else answer(request)
  )
  return server


def test_an_engine_that_fails_with_the_base_too_is_missing(launch, machine, undisturbed):
  asked = []

  def fails(request):
    asked.append(request['op'])
    return 'r1w1' in request.get('out', '') or request['op'] == 'check'

  launch.collaborators['evaluator'] = unavailable(launch.stand_ins(works)['evaluator'], fails)
  with pytest.raises(MachineFaultError, match='the evaluation engine fails: NoVllmError') as fault:
    launch(works)
  assert fault.value.cause == 'engine' and asked[-1] == 'check'
  del launch.collaborators['evaluator']
  state, records = launch(works)
  assert outcome(state) == undisturbed and not [r for r in records if r.kind == 'trial_failed']


def test_an_engine_that_was_removed_is_named_and_put_back_it_goes_on(tmp_path):
  python = tmp_path / 'python'
  launch = Launcher(tmp_path, "evaluation.engine = 'vllm'", f"vllm.python = '{python}'")
  launch.collaborators['machine'] = StandInMachine()
  with pytest.raises(MachineFaultError, match=f'there is no vLLM at {python}') as fault:
    launch(works)
  assert fault.value.cause == 'engine'
  assert read(launch.run / 'ledger.jsonl')[-1].payload['cause'] == 'engine'
  python.touch()
  state, _ = launch(works)
  assert state.finished is not None and state.pauses == 1


def test_an_engine_that_fails_with_one_trial_alone_fails_the_trial(launch, machine):
  launch.collaborators['evaluator'] = unavailable(
    launch.stand_ins(works)['evaluator'], lambda request: 'r1w1' in request.get('out', '')
  )
  state, records = launch(works)
  assert failures(records, 'r1w1') == [('scoring', True)] and state.finished is not None


def test_a_disk_that_takes_no_record_has_the_pause_entered_when_the_campaign_goes_on(
  launch, machine, undisturbed
):
  """The note waits in the arbiter's home; the ledger may not grow by a byte (ulimit -f)."""
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def fails(trial, attempt, directory):
    if trial == 'r1w1':
      machine.refusal = errno.EFBIG
      size = (launch.run / 'ledger.jsonl').stat().st_size
      resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
      return DISK_STATUS
    return works(trial, attempt, directory)

  try:
    with pytest.raises(MachineFaultError, match='size limit'):
      launch(fails)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
  before = read(launch.run / 'ledger.jsonl', strict=False)
  assert 'campaign_paused' not in [record.kind for record in before]
  machine.refusal = None
  state, records = launch(works)
  assert [r.kind for r in records[len(before) :][:2]] == ['campaign_paused', 'controller_resumed']
  assert records[len(before)].payload['cause'] == 'file_size_limit' and state.pauses == 1
  assert outcome(state) == undisturbed
  assert not list((launch.run.parent / 'home' / 'pauses').iterdir())


def test_a_pause_that_was_noted_and_entered_is_one(launch, machine):
  machine.refusal = errno.ENOSPC
  with pytest.raises(MachineFaultError):
    launch(exits(1))
  note = launch.run.parent / 'home' / 'pauses' / 'c.json'
  note.parent.mkdir(parents=True)
  note.write_text(json.dumps(read(launch.run / 'ledger.jsonl')[-1].payload))
  machine.refusal = None
  state, _ = launch(works)
  assert state.pauses == 1 and not note.exists()


def test_a_result_that_was_there_before_the_pause_is_not_trained_again(launch, machine):
  def fails(trial, attempt, directory):
    if trial == 'r1w1':
      machine.free = 1000
      return DISK_STATUS
    return works(trial, attempt, directory)

  with pytest.raises(MachineFaultError):
    launch(fails)
  before = launch.attempts['r1w0']
  machine.free = 10**12
  state, _ = launch(works)
  assert launch.attempts['r1w0'] == before == 1 and state.trials['r1w0'].claim == CLAIM


DAMAGES = {
  'missing': (lambda path: path.unlink(), 'is missing'),
  'torn': (lambda path: path.write_text(path.read_text()[:40]), 'cannot be read'),
  'other answers': (
    lambda path: path.write_text(path.read_text().replace('true, true', 'false, false', 1)),
    'has 49 right answers and the ledger 50',
  ),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_a_score_file_that_the_verdicts_lack_pauses_and_put_back_it_goes_on(
  launch, machine, undisturbed, name
):
  """The arbiter is asked with dev's answers, and not with those of a file that was changed."""
  damage, said = DAMAGES[name]
  path = launch.run / 'scores' / 'r1w1.dev.json'
  arbiter = launch.stand_ins(works)['arbiter']
  answer = arbiter._handle
  kept = []

  def damaged_before(request):
    if request['op'] == 'release' and request['round'] == 1 and not kept:
      kept.append(path.read_text())
      damage(path)
    return answer(request)

  arbiter._handle = damaged_before
  launch.collaborators['arbiter'] = arbiter
  with pytest.raises(MachineFaultError, match=f'r1w1.dev.json {said}.*restore it') as fault:
    launch(works)
  assert fault.value.cause == 'score_file' and 'aevo campaign --resume=' in str(fault.value)
  path.write_text(kept[0])
  state, _ = launch(works)
  assert outcome(state) == undisturbed
