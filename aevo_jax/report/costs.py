"""Where a campaign's time went, from the ledger's clock and what the workers claim of their own.

The ledger's times say how long a worker process lived; its claim says how much of that was training
steps. What no worker used of the processors (scoring, the controller, idling) is the rest. The time
between a kill and its resume belongs to nobody and is left out.
"""

import dataclasses
import math
from collections.abc import Sequence

from aevo_jax.campaign.decisions.decisions import FINAL
from aevo_jax.campaign.decisions.state import AFTER_A_STOP
from aevo_jax.ledger.records import Record

TRAINING = 'training'
STARTING = 'starting'
OVERHEAD = 'overhead'
FAILED = 'failed'
LOST = 'lost'
REST = 'rest'
# Parts of the processors' time, with the words a report uses.
PARTS = {
  TRAINING: 'training steps',
  STARTING: 'loading, liveness checks and drawing data',
  OVERHEAD: 'process start, export and sealing',
  FAILED: 'attempts that failed or were refused',
  LOST: 'work lost to interruptions',
  REST: 'scoring, controller and idle processors',
}


@dataclasses.dataclass
class Phase:
  """A round, or the final (round -1).

  wall: seconds, pauses left out. tokens, steps, flops: of sealed trials. training: seconds of
  training steps of all processors.
  """

  round: int
  wall: float = 0.0
  trials: int = 0
  sealed: int = 0
  tokens: int = 0
  steps: int = 0
  flops: int = 0
  training: float = 0.0


@dataclasses.dataclass(frozen=True)
class Costs:
  """The time and work of a campaign.

  wall, paused: seconds. parts: processor seconds by `PARTS`, which add up to (wall - paused) x
  slots. phases: by round, the final last.
  """

  wall: float
  paused: float
  slots: int
  parts: dict[str, float]
  phases: tuple[Phase, ...]

  @property
  def processor_seconds(self) -> float:
    """Seconds that the processors were the campaign's."""
    return (self.wall - self.paused) * self.slots

  @property
  def non_training_share(self) -> float:
    """Share of the processors' time without training steps, 0 before any of it has passed."""
    if self.processor_seconds <= 0:
      return 0.0
    return 1 - self.parts[TRAINING] / self.processor_seconds

  def total(self, field: str) -> int | float:
    """Adds up the phases.

    Args:
      field: a number of `Phase`.

    Returns:
      The sum of that field.
    """
    return sum(getattr(phase, field) for phase in self.phases)


class _Accountant:
  """Folds records into costs. began: trial -> time at which its attempt started."""

  def __init__(self, started: Record):
    self.parts = dict.fromkeys(PARTS, 0.0)
    self.phases: dict[int, Phase] = {}
    self.paused = 0.0
    self._phase_of: dict[str, Phase] = {}
    self._began: dict[str, float] = {}
    self._before = started.time
    self._current = 0

  def add(self, record: Record) -> None:
    """Books the time since the record before, and the event itself."""
    passed = max(0.0, record.time - self._before)
    if record.kind in AFTER_A_STOP:
      self.paused += passed
      self.parts[LOST] += sum(self._before - start for start in self._began.values())
      self._began.clear()
      passed = 0.0
    self._book(record)
    if self._current in self.phases:
      self.phases[self._current].wall += passed
    self._before = record.time

  def _book(self, record: Record) -> None:
    payload = record.payload
    match record.kind:
      case 'trial_assigned':
        phase = self.phases.setdefault(payload['round'], Phase(payload['round']))
        phase.trials += 1
        self._phase_of[payload['trial']] = phase
        # Some retrainings of the final are assigned early.
        if phase.round != FINAL:
          self._current = phase.round
      case 'round_finished':
        self._current = FINAL  # unless another round follows, which its first trial shows
      case 'trial_started':
        self._began[payload['trial']] = record.time
      case 'trial_failed' | 'trial_refused' if payload['trial'] in self._began:
        self.parts[FAILED] += record.time - self._began.pop(payload['trial'])
      case 'trial_interrupted' if payload['trial'] in self._began:
        self.parts[LOST] += record.time - self._began.pop(payload['trial'])
      case 'trial_sealed':
        self._seal(record)

  def _seal(self, record: Record) -> None:
    """Divides the life of a worker process by its claim, of which no more than its life counts."""
    trial = record.payload['trial']
    claim = record.payload['claim']
    seconds = {name: _number(value) for name, value in claim.get('seconds', {}).items()}
    # A trial that an earlier controller's worker had finished is sealed without a start of its own.
    lived = sum(seconds.values())
    if trial in self._began:
      lived = record.time - self._began.pop(trial)
    train = min(seconds.get('train', 0.0), lived)
    start = min(seconds.get('start', 0.0), lived - train)
    self.parts[TRAINING] += train
    self.parts[STARTING] += start
    self.parts[OVERHEAD] += lived - train - start
    phase = self._phase_of[trial]
    phase.sealed += 1
    phase.training += train
    phase.tokens += int(_number(claim.get('tokens', 0)))
    phase.steps += int(_number(claim.get('steps', 0)))
    phase.flops += int(_number(claim.get('flops', 0)))


def costs(records: Sequence[Record]) -> Costs:
  """Computes where a campaign's time went.

  Args:
    records: of a ledger; the first is campaign_started.

  Returns:
    The costs up to the last record.
  """
  accountant = _Accountant(records[0])
  for record in records:
    accountant.add(record)
  wall = records[-1].time - records[0].time
  slots = records[0].payload['slots']
  parts = accountant.parts
  parts[REST] = max(0.0, (wall - accountant.paused) * slots - sum(parts.values()))
  phases = sorted(accountant.phases.values(), key=lambda phase: (phase.round == FINAL, phase.round))
  return Costs(wall, accountant.paused, slots, parts, tuple(phases))


def _number(claimed: object) -> float:
  """A worker's number, 0 if it is none."""
  if isinstance(claimed, bool) or not isinstance(claimed, int | float):
    return 0.0
  if not math.isfinite(claimed) or claimed < 0:
    return 0.0
  return float(claimed)


def wall_clock(records: Sequence[Record]) -> dict[str, float]:
  """Summarizes a campaign's time; see `Costs`.

  Args:
    records: of a ledger; the first is campaign_started.

  Returns:
    'wall', 'paused', 'training', 'slots' and 'non_training_share'.
  """
  totals = costs(records)
  return {
    'wall': totals.wall,
    'paused': totals.paused,
    'training': totals.parts[TRAINING],
    'slots': totals.slots,
    'non_training_share': totals.non_training_share,
  }
