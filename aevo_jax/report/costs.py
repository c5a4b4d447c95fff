"""Where a campaign's time went, from the ledger's clock and what the workers claim of their own.

The ledger's times say how long a worker process lived; its claim says how much of that was training
steps. What no worker used of the processors (scoring, the controller, idling) is the rest. The time
between a kill and its resume belongs to nobody and is left out.
"""

import dataclasses
import math

from aevo_jax.campaign.decisions import FINAL
from aevo_jax.campaign.state import AFTER_A_STOP
from aevo_jax.ledger.records import Record

TRAINING, STARTING, OVERHEAD, FAILED, LOST, REST = (
  'training',
  'starting',
  'overhead',
  'failed',
  'lost',
  'rest',
)
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
  """A round, or the final (round -1). wall: seconds, pauses left out. tokens, steps, flops: of
  sealed trials.
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
  """wall, paused: seconds. parts: processor seconds by `PARTS`, which add up to (wall - paused) x
  slots. phases: by round, the final last.
  """

  wall: float
  paused: float
  slots: int
  parts: dict[str, float]
  phases: tuple[Phase, ...]

  @property
  def processor_seconds(self) -> float:
    return (self.wall - self.paused) * self.slots

  @property
  def non_training_share(self) -> float:
    """Of the processors' time, 0 before any of it has passed."""
    return 1 - self.parts[TRAINING] / self.processor_seconds if self.processor_seconds > 0 else 0.0

  def total(self, what: str) -> int | float:
    """Sum over the phases."""
    return sum(getattr(phase, what) for phase in self.phases)


def costs(records: list[Record]) -> Costs:
  """Folds a campaign's records, the first of which is campaign_started."""
  parts = dict.fromkeys(PARTS, 0.0)
  phases: dict[int, Phase] = {}
  rounds: dict[str, int] = {}
  began: dict[str, float] = {}
  paused, before, current = 0.0, records[0].time, 0
  for record in records:
    p, passed = record.payload, max(0.0, record.time - before)
    if record.kind in AFTER_A_STOP:
      paused += passed
      parts[LOST] += sum(before - start for start in began.values())
      began.clear()
      passed = 0.0
    match record.kind:
      case 'trial_assigned':
        rounds[p['trial']] = p['round']
        phases.setdefault(p['round'], Phase(p['round'])).trials += 1
        if p['round'] != FINAL:  # some retrainings of the final are assigned early
          current = p['round']
      case 'round_finished':
        current = FINAL  # unless another round follows, which its first trial shows
      case 'trial_started':
        began[p['trial']] = record.time
      case 'trial_failed' | 'trial_refused' if p['trial'] in began:
        parts[FAILED] += record.time - began.pop(p['trial'])
      case 'trial_sealed':
        phase, seconds = (
          phases[rounds[p['trial']]],
          {name: _number(value) for name, value in p['claim'].get('seconds', {}).items()},
        )
        train, start = seconds.get('train', 0.0), seconds.get('start', 0.0)
        # A trial that an earlier controller's worker had finished is sealed without a start of its
        # own.
        lived = (
          record.time - began.pop(p['trial']) if p['trial'] in began else sum(seconds.values())
        )
        train = min(train, lived)
        start = min(start, lived - train)
        parts[TRAINING] += train
        parts[STARTING] += start
        parts[OVERHEAD] += lived - train - start
        phase.sealed += 1
        phase.training += train
        for name in ('tokens', 'steps', 'flops'):
          setattr(phase, name, getattr(phase, name) + int(_number(p['claim'].get(name, 0))))
    if current in phases:
      phases[current].wall += passed
    before = record.time
  wall, slots = records[-1].time - records[0].time, records[0].payload['slots']
  parts[REST] = max(0.0, (wall - paused) * slots - sum(parts.values()))
  return Costs(
    wall,
    paused,
    slots,
    parts,
    tuple(sorted(phases.values(), key=lambda phase: (phase.round == FINAL, phase.round))),
  )


def _number(claimed: object) -> float:
  """A worker's number, 0 if it is none."""
  usable = (
    isinstance(claimed, (int, float))
    and not isinstance(claimed, bool)
    and math.isfinite(claimed)
    and claimed >= 0
  )
  return float(claimed) if usable else 0.0


def wall_clock(records: list[Record]) -> dict[str, float]:
  """{'wall', 'paused', 'training', 'slots', 'non_training_share'}: see `Costs`."""
  found = costs(records)
  return {
    'wall': found.wall,
    'paused': found.paused,
    'training': found.parts[TRAINING],
    'slots': found.slots,
    'non_training_share': found.non_training_share,
  }
