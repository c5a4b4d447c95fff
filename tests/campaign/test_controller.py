"""The controller's bookkeeping: what every way a worker can end becomes in the ledger, and that the
campaign goes on.

Workers and servers are stand-ins that end at once in the way a test asks for; ledger, gate,
sealing, arbiter, evidence and agent are the real ones. The last tests run real worker processes.
"""

import collections
import dataclasses
import json
import pathlib
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from aevo_jax import layout
from aevo_jax.campaign import campaign as campaign_lib
from aevo_jax.campaign import manual_arbiter
from aevo_jax.campaign.campaign import Campaign
from aevo_jax.campaign.executors.processes import Nursery
from aevo_jax.campaign.settings import CampaignSettings, Inputs
from aevo_jax.campaign.state import fold
from aevo_jax.campaign.trial import submission
from aevo_jax.campaign.trial.spec import EXPORT, RESULT, TrialSpec
from aevo_jax.config import constitution as constitution_lib
from aevo_jax.config import loading
from aevo_jax.config.statements import Binding, parse_statements, render
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers.arbiter import Arbiter
from aevo_jax.ledger.append import Ledger, read
from aevo_jax.meta_agent.policy import Assignment

RECIPE = (layout.root_file('substrate') / 'recipe.gin').read_text()
WEIGHTS = {'w': np.arange(6, dtype=np.float32).reshape(2, 3)}
CLAIM = {'status': 'trained', 'steps': 4, 'tokens': 8192, 'flops': 1, 'seconds': {}}


def summary(right: int) -> dict:
  return scoring.summary(
    [ItemResult('family', 'kind', 'a', i < right, i < right) for i in range(100)], 'strict'
  )


class StandInWorker:
  """Ends at once, or after being asked `questions[trial]` times; `behaviour(trial, attempt)` writes
  into the directory and returns the exit status, or 'deadline'."""

  behaviour = None
  questions: dict[str, int] = {}
  attempts: collections.Counter = collections.Counter()

  def __init__(self, trial, directory, deadline_s):
    self.trial, self.timed_out, self.attempts[trial] = trial, False, self.attempts[trial] + 1
    self._status, self._left = (
      type(self).behaviour(trial, self.attempts[trial], directory),
      self.questions.get(trial, 0),
    )
    if self._status == 'deadline':
      self._status, self.timed_out = -9, True

  def poll(self):
    self._left -= 1
    return self._status if self._left < 0 else None

  def kill(self):
    pass


class StandInNursery:
  start = staticmethod(StandInWorker)

  def __init__(self, log):
    pass

  def open(self):
    pass

  def close(self):
    pass


class StandInCompiler:
  """Compiles one more program at every second question whether it has ended; a `broken` one ends at
  once.
  """

  broken = False
  asked: list[pathlib.Path] = []

  def __init__(self, module, log):
    self._left = [
      pathlib.Path(json.loads(pathlib.Path(path).read_text())['marker']) for path in module[1:]
    ]
    self.asked.extend(self._left)
    self._questions = 0

  def poll(self):
    if self.broken:
      return 1
    if not self._left:
      return 0
    self._questions += 1
    if self._questions % 2:
      return None
    self._left[0].parent.mkdir(parents=True, exist_ok=True)
    self._left.pop(0).touch()
    return None

  def kill(self):
    pass


class StandInServer:
  """Answers at once; dev accuracy is .5 for everybody."""

  def __init__(self, command, log):
    self._queue, self.busy = collections.deque(), False
    score = lambda split, weights, digest: (
      [ItemResult('family', 'kind', 'a', True, True)],
      summary(50),
    )
    self._arbiter = None
    if command[2].endswith('arbiter'):
      constitution = constitution_lib.read(
        pathlib.Path(command[command.index('--constitution') + 1])
      )
      private = (
        pathlib.Path(command[command.index('--home') + 1])
        / command[command.index('--campaign') + 1]
      )
      self._arbiter = Arbiter(
        private=private, secret=b's' * 32, constitution=constitution, score=score
      )

  def submit(self, tag, request):
    self._queue.append((tag, request))

  @property
  def waiting(self):
    return bool(self._queue) and not self.busy

  def send_next(self):
    self.busy = True

  def poll(self):
    if not self.busy:
      return None
    self.busy = False
    tag, request = self._queue.popleft()
    return tag, self.call(request)

  def call(self, request):
    return (
      getattr(self._arbiter, request['op'])(request) if self._arbiter else {'summary': summary(50)}
    )

  def close(self):
    pass


def trains(trial, attempt, directory):
  (directory / EXPORT).parent.mkdir()
  save_file({'w': WEIGHTS['w'] + attempt}, directory / EXPORT)
  (directory / RESULT).write_text(json.dumps(CLAIM))
  return 0


def claims(claim) -> object:
  def behaviour(trial, attempt, directory):
    trains(trial, attempt, directory)
    (directory / RESULT).write_text(claim if isinstance(claim, str) else json.dumps(claim))
    return 0

  return behaviour


def exits(status):
  def behaviour(trial, attempt, directory):
    (directory / 'log.txt').write_text('the last words')
    return status

  return behaviour


def links(trial, attempt, directory):
  (directory / 'passwords').symlink_to('/etc/passwd')
  return trains(trial, attempt, directory)


def exports(weights) -> object:
  def behaviour(trial, attempt, directory):
    trains(trial, attempt, directory)
    if isinstance(weights, bytes):
      (directory / EXPORT).write_bytes(weights)
    else:
      save_file(weights, directory / EXPORT)
    return 0

  return behaviour


@pytest.fixture
def launch(tmp_path, monkeypatch):
  """run(behaviour, observer, **settings) -> (state, records) of a campaign of 2 rounds x 3 workers;
  called again it resumes.
  """
  monkeypatch.setattr(campaign_lib, 'Nursery', StandInNursery)
  monkeypatch.setattr(campaign_lib, 'Server', StandInServer)
  monkeypatch.setattr(campaign_lib, 'start_child', StandInCompiler)
  monkeypatch.setattr(StandInWorker, 'attempts', collections.Counter())
  monkeypatch.setattr(StandInCompiler, 'asked', [])
  loading.load(
    [str(layout.root_file('constitution.gin'))],
    [
      'budget.rounds = 2',
      'budget.workers = 3',
      'budget.noise_seeds = 2',
      'budget.final_seeds = 1',
      'release.per_round = 2',
    ],
    search_paths=layout.search_paths(),
  )
  run = tmp_path / 'run'
  run.mkdir()
  constitution = constitution_lib.from_gin()
  (run / 'constitution.gin').write_text(constitution.text())
  save_file(WEIGHTS, run / 'base.safetensors')
  inputs = Inputs(
    constitution=constitution_lib.read(run / 'constitution.gin'),
    holdout='h',
    arbiter_campaign='c',
    store=str(tmp_path),
    substrate_object='o',
    substrate_identity='i',
    base_digest='b',
    recipe=RECIPE,
    cache=str(tmp_path / 'cache'),
    arbiter_home=str(tmp_path / 'home'),
  )

  def start(behaviour, observer=lambda record: None, budget={}, **settings):
    monkeypatch.setattr(StandInWorker, 'behaviour', staticmethod(behaviour))
    with Ledger.open(run / 'ledger.jsonl') as ledger:
      rules = dataclasses.replace(
        inputs.constitution, budget=dataclasses.replace(inputs.constitution.budget, **budget)
      )
      state = Campaign(
        run,
        ledger,
        CampaignSettings(sandbox='open', parallel=2, **settings),
        dataclasses.replace(inputs, constitution=rules),
        observer,
      ).run()
    return state, read(run / 'ledger.jsonl')

  start.run = run
  return start


def only(trials, behaviour):
  return lambda trial, attempt, directory: (behaviour if trial in trials else trains)(
    trial, attempt, directory
  )


def failures(records, trial):
  return [
    (r.payload['cause'], r.payload['final'])
    for r in records
    if r.kind == 'trial_failed' and r.payload['trial'] == trial
  ]


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
  assert StandInWorker.attempts['r1w1'] == max(1, len(rows))
  assert message in next(
    r.payload.get('message', r.payload['cause'])
    for r in records
    if r.kind in ('trial_failed', 'trial_refused')
  )
  assert trial.dev is None and not trial.external_scored and trial.released is None
  assert state.finished is not None and state.finished_rounds == {0, 1, 2}
  assert all(t.status == 'sealed' for name, t in state.trials.items() if name != 'r1w1')
  evidence = json.loads((launch.run / 'evidence' / 'round_001.json').read_text())
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
  assert (
    json.loads((launch.run / 'evidence' / 'round_001.json').read_text())['trials'][0]['cause'] == ''
  )


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


def test_a_refused_recipe_is_a_row_and_never_starts(launch, monkeypatch):
  def decide(history, policy, constitution, recipe, agent, campaign_seed, dialogue):
    following = campaign_lib.policy_lib.starting(3)
    bad = Assignment('batch', {}, {'budget.trial_tokens': 10**9}, 'greed')
    return dataclasses.replace(
      following,
      round=policy.round + 1,
      assignments=(following.assignments[0], bad, following.assignments[2]),
    )

  monkeypatch.setattr(
    campaign_lib.decisions,
    'next_policy',
    lambda history, policy, constitution, **k: decide(history, policy, constitution, **k),
  )
  state, records = launch(trains)
  assert [state.trials[name].status for name in ('r1w0', 'r1w1', 'r1w2')] == [
    'sealed',
    'refused',
    'sealed',
  ]
  assert (
    'budget.trial_tokens may not be bound' in state.trials['r1w1'].cause
    and StandInWorker.attempts['r1w1'] == 0
  )
  assert state.trials['r1w1'].recipe == ''


class Killed(BaseException):
  """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize(
  ('what', 'changed', 'said'),
  [
    (
      constitution_lib.Constitution,
      {'digest': lambda self: 'other rules'},
      'constitution of .* is not what the campaign began with',
    ),
    (CampaignSettings, {'locked': lambda self: True}, 'began with its workers open'),
  ],
)
def test_a_campaign_does_not_go_on_under_other_rules(launch, monkeypatch, what, changed, said):
  def stop(record):
    if record is not None and record.kind == 'trial_started':
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    launch(trains, stop)
  records = read(launch.run / 'ledger.jsonl')
  with monkeypatch.context() as patch:
    for name, function in changed.items():
      patch.setattr(what, name, function)
    with pytest.raises(campaign_lib.FrozenInputsError, match=said):
      launch(trains)
  assert read(launch.run / 'ledger.jsonl') == records
  state, _ = launch(trains)
  assert state.finished is not None


def test_a_stop_after_every_single_record_resumes_to_the_same_end(launch, monkeypatch):
  """The controller is stopped right after record 1, 2, 3 ... by turns, until it reaches the end; a
  refused recipe is among the trials.
  """
  greedy = Assignment('batch', {}, {'train.batch_rows': 5}, 'not a choice')
  real = campaign_lib.decisions.next_policy

  def decide(history, policy, constitution, **k):
    following = real(history, policy, constitution, **k)
    return dataclasses.replace(following, assignments=(*following.assignments[:2], greedy))

  monkeypatch.setattr(campaign_lib.decisions, 'next_policy', decide)
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
    name
    for name, t in state.trials.items()
    if t.status == 'refused' and StandInWorker.attempts[name]
  ]


@pytest.mark.parametrize('slow', [{'r0w1': 8}, {'r1w2': 8, 'starting0': 40}])
def test_a_retraining_of_the_starting_recipe_fills_an_idle_slot_and_keeps_nothing_waiting(
  launch, monkeypatch, slow
):
  """In the second case it still trains when the round's own trials and scores are done: the next
  round begins beside it, and the final waits for it.
  """
  monkeypatch.setattr(StandInWorker, 'questions', slow)
  _, records = launch(
    only(
      ['starting0'],
      lambda trial, attempt, directory: trains(trial, attempt, directory) if attempt > 1 else 1,
    )
  )
  at = lambda kind, trial=None, round_=None: [
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


@pytest.mark.parametrize('broken', [False, True])
def test_a_trial_waits_for_the_compilation_of_its_own_program_only(launch, monkeypatch, broken):
  """Round 0 has one program, the following ones several; each is asked for once, unless compiling
  failed, when the workers do without.
  """
  monkeypatch.setattr(StandInCompiler, 'broken', broken)
  compiled_at_start = []

  def behaviour(trial, attempt, directory):
    marker = campaign_lib.compiled_marker(TrialSpec.read(directory), 'i')
    compiled_at_start.append(
      (marker.exists(), all(path.exists() for path in StandInCompiler.asked))
    )
    return trains(trial, attempt, directory)

  state, _ = launch(behaviour)
  assert state.finished is not None and len(compiled_at_start) == len(state.trials)
  assert {own for own, _ in compiled_at_start} == {not broken}
  if not broken:
    assert len(set(StandInCompiler.asked)) == len(StandInCompiler.asked) > 1
    assert not all(everything for _, everything in compiled_at_start), (
      'some trial started while other programs were being compiled'
    )


# -- scored by somebody else -----------------------------------------------------------------------


@pytest.fixture
def handed_out(monkeypatch):
  """Submissions are small files, as stand-in workers leave no checkpoint."""

  def write(stage, directory, base, recipe, *, base_name, max_rank):
    stage.mkdir()
    (stage / 'weights.bin').write_text(directory.name)
    return 'weights'

  monkeypatch.setattr(submission, 'write', write)


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
  assert state.ranks[1] == {'r1w0': 0, 'r1w1': 1}
  evidence = json.loads((launch.run / 'evidence' / 'round_001.json').read_text())
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
  state, records = launch(trains, arbiter='manual')
  assert state.finished is not None and [t.trial for t in state.trials.values() if t.waived] == [
    'r0w1',
    'r1w0',
    'r1w1',
    'promoted0',
  ]
  assert (
    1 not in state.ranks
    and state.trials['r0w0'].released == 0.4
    and state.trials['r0w1'].released is None
  )
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
    and kinds['external_ranked'] == 3
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
  with pytest.raises(campaign_lib.FrozenInputsError, match='settings'):
    launch(trains)


def test_a_local_campaign_takes_no_scores(launch):
  launch(trains)
  with pytest.raises(manual_arbiter.ScoreRefusedError, match='scores its trials itself'):
    manual_arbiter.submit(launch.run, 'r0w0', 0.5)


# -- the wall-clock cap ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
  """The ledger's clock: a second at every record, and `clock.now` can be moved."""

  class Clock:
    now = 1e9

    def __call__(self):
      self.now += 1
      return self.now

  ticking, opened = Clock(), Ledger.open
  monkeypatch.setattr(Ledger, 'open', lambda path: opened(path, clock=ticking))
  return ticking


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


def test_hundreds_of_rounds_read_their_evidence_once(launch, monkeypatch):
  """Reads of evidence files grow with the rounds, not with their square."""
  reads, real = [], pathlib.Path.read_text
  monkeypatch.setattr(
    pathlib.Path,
    'read_text',
    lambda self, *a, **k: (
      (reads.append(self.name) if self.name.startswith('round_') else None) or real(self, *a, **k)
    ),
  )
  launch(trains, budget={'rounds': 6})
  assert collections.Counter(reads) == {f'round_{k:03d}.json': 1 for k in range(7)}


# -- real workers ----------------------------------------------------------------------------------


def real_worker(tiny_run, directory, **changes) -> dict:
  """A worker process on the spec of the finished run's r0w0 with some bindings changed; its claim."""
  spec = TrialSpec.read(tiny_run / 'trials' / 'r0w0')
  bindings = {b.selector: b.value for b in parse_statements(spec.recipe)} | changes.pop(
    'recipe', {}
  )
  spec = dataclasses.replace(
    spec, recipe=render(Binding(k, v) for k, v in bindings.items()), **changes
  )
  directory.mkdir()
  spec.write(directory)
  (directory / 'substrate.fork.json').write_text(
    (tiny_run / 'trials' / 'r0w0' / 'substrate.fork.json').read_text()
  )
  nursery = Nursery(directory / 'nursery.log')
  worker = nursery.start('r0w0', directory, 300)
  while worker.poll() is None:
    time.sleep(0.05)
  nursery.close()
  assert worker.poll() == 0, (directory / 'log.txt').read_text()[-2000:]
  return json.loads((directory / RESULT).read_text())


def test_a_diverging_recipe_of_the_operator_is_stopped_as_non_finite(tiny_run, tmp_path):
  # Decay of 10 at rate 10 multiplies every weight by -99 a step: float32 ends within twenty steps,
  # whatever the model does with it.
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=20_480,
    steps=40,
    recipe={
      'optimizer.learning_rate': 10.0,
      'optimizer.weight_decay': 10.0,
      'optimizer.schedule': 'constant',
      'optimizer.warmup_fraction': 0.0,
      'train.batch_rows': 4,
    },
  )
  assert (claim['status'], claim['cause']) == ('failed', 'non_finite')
  assert not (tmp_path / 't' / EXPORT).exists()


AXES = {
  'method': {
    'method.name': {'kind': 'choice', 'choices': ['sft', 'sft_then_rl', 'sft_then_dpo']},
    'rollout.prompts': {'kind': 'choice', 'choices': [4, 8]},
    'advantage.kind': {
      'kind': 'choice',
      'choices': ['group_std', 'batch_mean'],
      'when': {'method.name': ['sft_then_rl']},
    },
    'policy_gradient.clip_low': {
      'kind': 'float',
      'low': 0.1,
      'high': 0.3,
      'when': {'method.name': ['sft_then_rl']},
    },
  }
}


@pytest.mark.parametrize(
  'chosen',
  [{'method.name': 'sft_then_rl', 'advantage.kind': 'batch_mean'}, {'method.name': 'sft_then_dpo'}],
  ids=['rl', 'dpo'],
)
def test_a_worker_may_go_on_to_reinforcement_learning(tiny_run, tmp_path, chosen):
  """In its sandbox, and within its tokens."""
  overlay = chosen | {'rollout.prompts': 4}
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=65_536,
    steps=40,
    axes=AXES,
    overlay=render(Binding(k, v) for k, v in overlay.items()),
    recipe=overlay | {'rollout.max_new_tokens': 16},
  )
  assert claim['status'] == 'trained', claim
  plan = json.loads((tmp_path / 't' / 'resolved.json').read_text())['plan']
  assert (
    claim['tokens'] == plan['tokens'] <= 65_536
    and claim['steps'] == plan['sft_steps'] + plan['rl_steps']
    and plan['rl_steps'] > 3
  )
  assert (
    len((tmp_path / 't' / 'then' / 'metrics.jsonl').read_text().splitlines()) == plan['rl_steps']
  )
  assert json.loads((tmp_path / 't' / 'liveness.json').read_text()).keys() == overlay.keys()
  assert (tmp_path / 't' / EXPORT).exists()


def test_a_clip_that_never_acts_is_refused_by_the_worker(tiny_run, tmp_path):
  """One update a step: every ratio is 1. With two, the same binding is live."""
  overlay = {'method.name': 'sft_then_rl', 'policy_gradient.clip_low': 0.15}
  asked = {
    'tokens': 65_536,
    'steps': 40,
    'axes': AXES,
    'overlay': render(Binding(k, v) for k, v in overlay.items()),
  }
  claim = real_worker(
    tiny_run, tmp_path / 'dead', recipe=overlay | {'rollout.max_new_tokens': 16}, **asked
  )
  assert (
    claim['status'] == 'refused'
    and 'policy_gradient.clip_low' in claim['message']
    and 'method.name' not in claim['message']
  )
  assert (
    real_worker(
      tiny_run,
      tmp_path / 'live',
      recipe=overlay | {'rollout.max_new_tokens': 16, 'rl.epochs': 2},
      **asked,
    )['status']
    == 'trained'
  )


def test_a_gate_of_reinforcement_learning_fails_the_trial_by_name(tiny_run, tmp_path):
  claim = real_worker(
    tiny_run,
    tmp_path / 't',
    tokens=65_536,
    steps=40,
    overlay='',
    recipe={'method.name': 'sft_then_rl', 'rollout.max_new_tokens': 16, 'gates.logprob_gap': 1e-9},
  )
  assert (claim['status'], claim['cause']) == (
    'failed',
    'stopped',
  ) and 'gates.logprob_gap' in claim['message']
  assert not (tmp_path / 't' / EXPORT).exists()


def test_a_dead_binding_past_the_gate_is_refused_by_the_worker(tiny_run, tmp_path):
  claim = real_worker(
    tiny_run, tmp_path / 't', recipe={'lora.rank': 8}, overlay='lora.rank = 8\n'
  )  # under full fine-tuning nobody reads it
  assert claim['status'] == 'refused' and 'lora.rank' in claim['message']
