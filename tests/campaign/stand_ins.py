"""Stand-ins for a campaign's collaborators, which end at once in the way a test wants, and what
workers leave behind.
"""

import collections
import errno
import json
import os
import pathlib

import numpy as np
from safetensors.numpy import save_file

from aevo_jax.campaign.executors.protocol import Ended, Lost, Running
from aevo_jax.campaign.trial.spec import EXPORT, RESULT
from aevo_jax.evaluation import scoring
from aevo_jax.evaluation.scoring import ItemResult
from aevo_jax.evaluation.servers.client import Answer
from aevo_jax.evaluation.servers.score_files import write_scores

WEIGHTS = {'w': np.arange(6, dtype=np.float32).reshape(2, 3)}
CLAIM = {'status': 'trained', 'steps': 4, 'tokens': 8192, 'flops': 1, 'seconds': {}}


class Killed(BaseException):
  """Stands for kill -9: nothing after it runs."""


def results(right: int) -> list[ItemResult]:
  return [ItemResult('family', 'kind', 'a', i < right, i < right) for i in range(100)]


def summary(right: int) -> dict:
  return scoring.summary(results(right), 'strict')


def scored(right: int):
  """An evaluator's handler that gives everything the same dev score, and writes its file."""

  def handle(request):
    if 'out' in request:
      write_scores(pathlib.Path(request['out']), results(right), summary(right), file_digest='')
    return {'summary': summary(right)}

  return handle


class StandInExecutor:
  """Each job ends at once, or after `questions[trial]` polls.

  `behaviour(trial, attempt, directory)` writes into the directory and returns the exit status,
  'deadline', 'lost' or an `Ended`; `attempts` counts.
  """

  slots = 2
  shares_machine = True

  def __init__(self, behaviour, questions, attempts):
    self._behaviour = behaviour
    self._questions = questions
    self._attempts = attempts
    self._ends = {}
    self._left = {}

  def prepare(self):
    pass

  def submit(self, key, job):
    trial = job.directory.name
    self._attempts[trial] += 1
    status = self._behaviour(trial, self._attempts[trial], job.directory)
    ends = {'deadline': Ended(-9, timed_out=True), 'lost': Lost('the node is gone')}
    self._ends[key] = status if isinstance(status, Ended) else ends.get(status) or Ended(status)
    self._left[key] = self._questions.get(trial, 0)
    return key

  def find(self, key):
    return key if key in self._ends else None

  def poll(self, handle):
    self._left[handle] -= 1
    return self._ends[handle] if self._left[handle] < 0 else Running(0.0)

  def cancel(self, handle):
    pass

  def close(self):
    pass


class StandInPrecompiler:
  """Compiles one more program at every second poll; a `broken` one ends at once. `requested` gets
  the markers.
  """

  def __init__(self, requested, broken):
    self._requested = requested
    self._broken = broken
    self._left = []
    self._polls = 0
    self.running = False

  def start(self, requests):
    self.running = True
    self._left = [request.marker for request in requests]
    self._requested.extend(self._left)

  def poll(self):
    if self._broken or not self._left:
      self.running = False
      return
    self._polls += 1
    if self._polls % 2 == 0:
      self._left[0].parent.mkdir(parents=True, exist_ok=True)
      self._left.pop(0).touch()

  def close(self):
    pass


class StandInServer:
  """Answers at once, by `handle(request)`."""

  def __init__(self, handle):
    self._handle = handle
    self._queue = collections.deque()
    self.busy = False

  def submit(self, tag, request, *, first=False):
    self._queue.insert(0 if first else len(self._queue), (tag, request))

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
    return Answer(tag, self.call(request))

  def call(self, request):
    return self._handle(request)

  def close(self):
    pass


# -- what workers do -------------------------------------------------------------------------------


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


def only(trials, behaviour):
  return lambda trial, attempt, directory: (behaviour if trial in trials else trains)(
    trial, attempt, directory
  )


# -- what tests read -------------------------------------------------------------------------------


def failures(records, trial):
  return [
    (r.payload['cause'], r.payload['final'])
    for r in records
    if r.kind == 'trial_failed' and r.payload['trial'] == trial
  ]


def evidence_of(run: pathlib.Path, round_: int) -> dict:
  return json.loads((run / 'evidence' / f'round_{round_:03d}.json').read_text())


class StandInMachine:
  """A machine whose probes find what its attributes say; by default nothing is wrong."""

  def __init__(self):
    self.refusal = None  # an errno of the disk
    self.free = 10**12  # bytes of disk
    self.memory = 10**12
    self.limit = None
    self.killed = 0
    self.devices = ('gpu0',)
    self.silent = None  # what a device says that does not compute

  def disk_error(self, directory, needed):
    code = self.refusal or (errno.ENOSPC if self.free < needed else None)
    return code and OSError(code, os.strerror(code), str(directory))

  def disk_free(self, directory):
    return self.free

  def memory_free(self):
    return self.memory

  def memory_limit(self):
    return self.limit

  def oom_kills(self):
    return self.killed

  def accelerators(self):
    return self.devices

  def device_error(self):
    return self.silent
