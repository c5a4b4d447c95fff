"""The scheduler: what starts next while trials train and their weights are scored."""

import collections
import pathlib
from collections.abc import Callable, Sequence

from aevo_jax.campaign.attempts import Attempts
from aevo_jax.campaign.clock import Clock
from aevo_jax.campaign.decisions.state import TrialState
from aevo_jax.campaign.executors.precompiler import Precompiler, Request
from aevo_jax.campaign.executors.protocol import Executor
from aevo_jax.campaign.journal import Journal
from aevo_jax.campaign.scoring import Scoring
from aevo_jax.evaluation.servers.client import Server

POLL_SECONDS = 0.02


class Scheduler:
  """Trains, seals and scores trials within the executor's slots.

  Servers and the precompiler take slots as well where jobs run on the controller's machine.

  Args:
    journal: of the campaign.
    executor: owns the slots.
    attempts: starts and concludes attempts.
    scoring: submits and collects scores.
    servers: first the one that takes longer.
    precompiler: compiles programs that no run has compiled yet.
    request_of: gives the program that a trial runs.
    clock: waits between two looks.
  """

  def __init__(
    self,
    journal: Journal,
    executor: Executor,
    attempts: Attempts,
    scoring: Scoring,
    servers: Sequence[Server],
    precompiler: Precompiler,
    request_of: Callable[[TrialState], Request],
    clock: Clock,
  ):
    self._journal = journal
    self._executor = executor
    self._attempts = attempts
    self._scoring = scoring
    self._servers = servers
    self._precompiler = precompiler
    self._request_of = request_of
    self._clock = clock
    self._wanted: set[str] = set()
    self._to_train: collections.deque[TrialState] = collections.deque()
    self._requests: dict[str, Request] = {}

  def run(self, trials: Sequence[TrialState], spare: Sequence[TrialState] = ()) -> None:
    """Works until every trial has ended and every score has come.

    Args:
      trials: what is waited for. Sealed ones are only scored.
      spare: trials that start where a slot would be idle, and are not waited for.

    Raises:
      ServerError, OSError: a server fails.
      ExecutorError: no attempt can be started.
      MachineFaultError: an attempt or the engine below a server fails for the machine.
    """
    self._wanted = {trial.trial for trial in trials}
    running = self._attempts.running
    self._to_train.clear()
    for trial in (*trials, *spare):
      if not trial.done and trial.trial not in running:
        self._to_train.append(trial)
    for trial in trials:
      if trial.status == 'sealed':
        self._scoring.submit(trial)
    if self._to_train:
      self._executor.prepare()
    self._requests = {}
    self._precompile()
    while self._unfinished():
      self._precompiler.poll()
      self._start_scoring()
      self._start_training()
      self._scoring.collect()
      self._collect_attempts()
      self._journal.wait()
      self._clock.sleep(POLL_SECONDS)

  def _unfinished(self) -> bool:
    if self._precompiler.running:
      return True
    if any(server.waiting or server.busy for server in self._servers):
      return True
    waiting = {trial.trial for trial in self._to_train}
    return bool(self._wanted & (waiting | self._attempts.running))

  def _precompile(self) -> None:
    """Starts to compile the missing programs, those that most trials wait for first."""
    waiting: dict[pathlib.Path, list[Request]] = collections.defaultdict(list)
    for trial in self._to_train:
      request = self._request(trial)
      if request.spec.cache and not request.marker.exists():
        waiting[request.marker].append(request)
    groups = sorted(waiting.values(), key=len, reverse=True)
    if groups:
      self._precompiler.start([group[0] for group in groups])

  def _request(self, trial: TrialState) -> Request:
    if trial.trial not in self._requests:
      self._requests[trial.trial] = self._request_of(trial)
    return self._requests[trial.trial]

  def _ready(self) -> TrialState | None:
    """The next trial whose program is compiled, or any once nothing is being compiled."""
    for trial in self._to_train:
      if not self._precompiler.running or self._request(trial).marker.exists():
        return trial
    return None

  def _has_slot(self) -> bool:
    """Whether one more process may compute on the machine of the jobs."""
    busy = len(self._attempts.running)
    if self._executor.shares_machine:
      busy += sum(server.busy for server in self._servers) + self._precompiler.running
    return busy < self._executor.slots

  def _start_scoring(self) -> None:
    for server in self._servers:
      if not server.waiting:
        continue
      if not self._executor.shares_machine or (self._has_slot() and self._scores_may_start()):
        server.send_next()

  def _scores_may_start(self) -> bool:
    """Whether another server may take a slot.

    One at a time does while a trial of the round could start instead, which has the longer way to
    go.
    """
    if not any(server.busy for server in self._servers):
      return True
    trial = self._ready()
    return trial is None or trial.trial not in self._wanted

  def _start_training(self) -> None:
    while self._has_slot():
      trial = self._ready()
      if trial is None:
        return
      self._to_train.remove(trial)
      self._attempts.conclude_leftover(trial)
      if trial.status == 'sealed':
        self._scoring.submit(trial)
      if not trial.done:
        self._attempts.start(trial)

  def _collect_attempts(self) -> None:
    for trial in self._attempts.collect():
      if trial.status == 'sealed':
        self._scoring.submit(trial)
      elif not trial.done:
        self._to_train.appendleft(trial)
