"""Rows of a report: trials, rounds and what happened to them, as plain values for the template."""

import dataclasses
from typing import NamedTuple

from aevo_jax.meta_agent.evidence import Noise
from aevo_jax.report.gains import Gain


@dataclasses.dataclass(frozen=True)
class Measured:
  """An accuracy with its 95% interval.

  exact: False for a rounded score with the interval that goes with it.
  """

  value: float
  low: float
  high: float
  exact: bool = True


@dataclasses.dataclass(frozen=True)
class Change:
  """One parameter: its value in the recipe before and after, as gin writes them."""

  selector: str
  before: str
  after: str


@dataclasses.dataclass(frozen=True)
class TrialRow:
  """One trial.

  gain: on dev over the round's anchors, None for anchors and without scores. external: as far as it
  may be known.
  """

  trial: str
  axis: str
  anchor: bool
  changes: tuple[Change, ...]
  why: str
  status: str
  dev: Measured | None
  gain: Gain | None
  external: Measured | None
  promoted: bool
  rank: int | None


@dataclasses.dataclass(frozen=True)
class Round:
  """One round.

  decisions: the policy's reasons. promoted: changes to the standing recipe that followed. noise: as
  the evidence has it, None before it is written.
  """

  number: int
  trials: tuple[TrialRow, ...]
  standing: tuple[Change, ...]
  decisions: tuple[str, ...]
  promoted: tuple[Change, ...]
  noise: Noise | None
  finished: bool


@dataclasses.dataclass(frozen=True)
class Failure:
  """A failed attempt or refusal."""

  trial: str
  axis: str
  what: str
  cause: str
  message: str


@dataclasses.dataclass(frozen=True)
class DeadEndRow:
  """A setting that lost beyond the noise floor; holds: whether explorers still keep away."""

  axis: str
  changes: tuple[str, ...]
  gain: float
  confidence: float
  round: int
  expires: int
  holds: bool


class ProxyVerdict(NamedTuple):
  """One proxy against the consensus of the others, on one stream of items."""

  stream: str
  proxy: str
  verdict: str
  trust: float
  why: str


@dataclasses.dataclass(frozen=True)
class Judgement:
  """The proxies of one round against each other.

  evidence: what they were compared by. departures: verdicts beyond 'undetermined' and 'coupled'.
  nothing: a sentence for a round without any.
  """

  round: int
  evidence: str
  departures: tuple[ProxyVerdict, ...]
  nothing: str


class FamilyGap(NamedTuple):
  """A round's anchors on one family's dev items, by both comparisons of answers."""

  round: int
  strict: float
  challenge: float
