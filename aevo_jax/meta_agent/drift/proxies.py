"""Proxies: without an external target, dev and the probes judge each other.

Every proxy is compared, per family and overall, with the consensus of the others: the mean of their
scores, each centred within its round and in units of its spread in the calibration rounds. (Units
of each round's spread would turn the slope into a correlation, which falls whenever a policy
converges.) The tests are those of `reversal`, the consensus standing where the external score
stands there: the slope of the consensus on the proxy against its reference from the calibration
rounds, and the e-process of the ranks. Alpha is of the whole campaign, over all proxies, families
and looks.

An alarm says that the panel does not agree any more; whoever departed drags the others' consensus
along. Who it was is decided by leaving out: the smallest set, less than half of the panel, after
whose removal none of those left alarms and clearly less disagreement is left than after leaving out
any other set of its size (`MARGIN`, `LEFT_SHARE`). Where there is none, because they are two, or
half stands against half, the verdict is 'undetermined: they disagree'. If all depart together
nothing shows.

Trust of a proxy on a family or overall is 1 while nothing speaks against it. It is 0 from the round
on in which the proxy is found to depart, to the end of the campaign, and 1/2 while it is in a
dispute that is undecided. Proxies with trust 0 leave the panel.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import levels as levels_lib
from aevo_jax.meta_agent.drift import reversal
from aevo_jax.meta_agent.drift.levels import Levels
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.stats import tracking

DEV = 'dev'
CROSS = 'cross'
OVERALL = 'overall'
WEAKER = 'proxies only, weaker'
DISAGREE = 'undetermined: they disagree'
_ALARMS = ('reversed', 'decoupled')
# What is left of the disagreement, in standard errors of a slope, must be less by MARGIN than after
# leaving out any other set of that size, and at most this share of it.
MARGIN = 1.0
LEFT_SHARE = 0.6

# proxy -> stream (a family, or overall) -> (score, its variance by the luck of the items)
Scores = Mapping[str, Mapping[str, Sequence[float]]]
# trial -> scores
Round = Mapping[str, Scores]


class _Cell(NamedTuple):
  """A comparison: of one proxy on one stream with the others there."""

  stream: str
  proxy: str


# of every round: comparison -> row of `tracking.measure`
_Rows = list[dict[_Cell, Any]]
# stream -> what is compared there: (proxy, the others)
_Comparisons = Mapping[str, Iterable[tuple[str, Sequence[str]]]]


def scores(
  dev: Mapping[str, Any], probes: Mapping[str, Any]
) -> dict[str, dict[str, tuple[float, float]]]:
  """Collects a trial's scores by every proxy.

  `cross` is, for each family, the mean of dev's other families. It is shown beside the others and
  not judged, since a setting that trades families off against each other turns it around although
  nothing is wrong.

  Args:
    dev: summary of `evaluation.scoring`.
    probes: probe -> summary of `evaluation.probes`.

  Returns:
    proxy -> stream -> (score, its variance by the luck of the items).
  """
  of_families = {}
  for family, part in dev['by_family'].items():
    of_families[family] = _of_counts(part)
  collected = {DEV: {OVERALL: _of_counts(dev[OVERALL])} | of_families}
  for name, summary in probes.items():
    collected[name] = {}
    for stream, part in ({OVERALL: summary[OVERALL]} | summary['by_family']).items():
      collected[name][stream] = (part['accuracy'], part['variance'])
  if len(of_families) > 1:
    collected[CROSS] = {}
    for family in of_families:
      collected[CROSS][family] = _mean_of_others(of_families, family)
  return collected


def _mean_of_others(
  of_families: Mapping[str, tuple[float, float]], family: str
) -> tuple[float, float]:
  """The mean of the scores of other families, and its variance."""
  scores = []
  variances = []
  for other, (score, variance) in of_families.items():
    if other != family:
      scores.append(score)
      variances.append(variance)
  return sum(scores) / len(scores), sum(variances) / len(scores) ** 2


def _of_counts(part: Mapping[str, Any]) -> tuple[float, float]:
  """A score with its variance as `evaluation.probes` computes it."""
  right = part['correct']
  total = part['total']
  return part['accuracy'], (right * (total - right) / total + 0.25) / total**2


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What the proxies say of each other after one round.

  Attributes:
    verdicts: stream -> proxy -> verdict; of a proxy that was named, against those it departs from.
    trust: proxy -> stream -> trust.
    departed: stream -> proxies named in this round.
    thresholds: levels, fixed before the round; None before the first round of recipes that differ,
      and in evidence of versions whose tests had other ones.
  """

  verdicts: Mapping[str, Mapping[str, Verdict]] = dataclasses.field(default_factory=dict)
  trust: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
  departed: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  thresholds: Levels | None = None

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Judgement':
    """Reads what `to_json` renders.

    Args:
      fields: the object.

    Returns:
      The judgement.
    """
    verdicts: dict[str, dict[str, Verdict]] = {}
    for stream, parts in fields['verdicts'].items():
      verdicts[stream] = {}
      for proxy, verdict in parts.items():
        verdicts[stream][proxy] = Verdict(**verdict)
    departed = {}
    for stream, named in fields['departed'].items():
      departed[stream] = tuple(named)
    fixed = fields['thresholds']
    if fixed is not None:
      fixed = None if 'replays' in fixed else Levels(**fixed)
    return cls(verdicts, fields['trust'], departed, fixed)

  def to_json(self) -> dict[str, Any]:
    """Renders the judgement, with a word on how weak such evidence is.

    Returns:
      An object for `json.dumps`.
    """
    # Sequences stay as they are: JSON has one kind.
    return {'evidence': WEAKER, **dataclasses.asdict(self)}


def judge(rounds: Sequence[Round], rules: Reversal, planned_rounds: int) -> list[Judgement]:
  """Judges after every round, each time from that round and the rounds before.

  Args:
    rounds: of trials that differ; the noise floor's round of equal recipes is none.
    rules: of the verdicts.
    planned_rounds: of the whole campaign.

  Returns:
    One judgement for each round.
  """
  judgements: list[Judgement] = []
  trust: Mapping[str, Mapping[str, float]] = {}
  for done in range(1, len(rounds) + 1):
    judgements.append(_judge(rounds[:done], trust, rules, planned_rounds))
    trust = judgements[-1].trust
  return judgements


def _judge(
  rounds: Sequence[Round],
  trust: Mapping[str, Mapping[str, float]],
  rules: Reversal,
  planned_rounds: int,
) -> Judgement:
  """Judges after the latest of some rounds, under the trust before it."""
  latest = _latest_trial(rounds)
  panels = _panels(latest, trust)
  board = _Board(rounds, rules.calibration_rounds)
  comparisons = {}
  for stream, panel in panels.items():
    if len(panel) > 1:
      comparisons[stream] = _against_each_other(panel)
  rows = board.rows(comparisons)
  thresholds = levels_lib.fix(
    rules,
    round_=len(rounds),
    planned_rounds=planned_rounds,
    streams=[_Cell(stream, proxy) for stream in comparisons for proxy in panels[stream]],
    with_gains=False,
  )
  verdicts: dict[str, dict[str, Verdict]] = {}
  if any(rows):
    verdicts = _by_stream(reversal.verdicts(rows, rules, thresholds))

  after = _trust_of(latest, trust)
  departed = {}
  for stream, spoken in verdicts.items():
    panel = panels[stream]
    for proxy in panel:
      after[proxy][stream] = 1.0
    alarms = [proxy for proxy, verdict in spoken.items() if verdict.verdict in _ALARMS]
    if not alarms:
      continue
    examination = _Examination(board, rows, stream, rules, thresholds)
    named = _departed(panel, examination.verdicts)
    if named is None:
      for proxy in alarms:
        after[proxy][stream] = 0.5
        spoken[proxy] = _disputed(spoken[proxy])
    else:
      departed[stream] = named.out
      verdicts[stream] = named.verdicts
      for proxy in named.out:
        after[proxy][stream] = 0.0
        named.verdicts[proxy] = _named(named.verdicts[proxy])
  return Judgement(verdicts, after, departed, thresholds)


def _latest_trial(rounds: Sequence[Round]) -> Scores:
  """The scores of the first trial of the latest round that has one; empty without any."""
  for round_ in reversed(rounds):
    for trial in round_.values():
      return trial
  return {}


def _trust_of(
  latest: Scores, trust: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
  """proxy -> stream -> trust, 1 where there is none before."""
  complete: dict[str, dict[str, float]] = {}
  for proxy, parts in latest.items():
    complete[proxy] = dict.fromkeys(parts, 1.0)
    for stream, before in trust.get(proxy, {}).items():
      if stream in parts:
        complete[proxy][stream] = before
  return complete


def _panels(latest: Scores, trust: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
  """stream -> proxies that judge each other there, of the streams that two or more have."""
  streams: dict[str, list[str]] = {}
  for parts in latest.values():
    for stream in parts:
      streams.setdefault(stream, [])
  for proxy, parts in latest.items():
    for stream in parts:
      if proxy != CROSS:
        streams[stream].append(proxy)
  panels = {}
  for stream, names in streams.items():
    if len(names) > 1:
      trusted = (p for p in names if trust.get(p, {}).get(stream, 1.0) > 0)
      panels[stream] = tuple(trusted)
  return panels


def _disputed(verdict: Verdict) -> Verdict:
  return dataclasses.replace(
    verdict,
    verdict=DISAGREE,
    why=('it departs from the consensus of the others, and leaving out does not tell who departed'),
  )


def _named(verdict: Verdict) -> Verdict:
  """The verdict on a proxy that departed; a consensus of few is a weak reference for an alarm."""
  if verdict.verdict in _ALARMS:
    return verdict
  return dataclasses.replace(
    verdict, verdict='decoupled', why='left out, it restores the agreement of the others'
  )


@dataclasses.dataclass(frozen=True)
class _Examination:
  """The verdicts on one stream with some proxies left out.

  Thresholds of the whole campaign, and rows of the other streams, stay: leaving out looks no harder
  than the alarm did.
  """

  board: '_Board'
  rows: _Rows
  stream: str
  rules: Reversal
  thresholds: Levels

  def verdicts(self, left: Sequence[str], out: Sequence[str]) -> dict[str, Verdict]:
    """proxy -> verdict: those left against each other, those out against all that are left."""
    pairs = _against_each_other(left)
    for proxy in out:
      pairs.append((proxy, left))
    examined = self.board.rows({self.stream: pairs})
    together = []
    for of_round, ours in zip(self.rows, examined, strict=True):
      others = {cell: row for cell, row in of_round.items() if cell.stream != self.stream}
      together.append(others | ours)
    return _by_stream(reversal.verdicts(together, self.rules, self.thresholds))[self.stream]


class _Departure(NamedTuple):
  """The proxies that departed, with the verdicts once they are left out."""

  out: tuple[str, ...]
  verdicts: dict[str, Verdict]


class _Attempt(NamedTuple):
  """What is left after leaving out a set: disagreement, whether any still alarms, verdicts."""

  disagreement: float
  alarmed: bool
  out: tuple[str, ...]
  verdicts: dict[str, Verdict]


def _departed(
  panel: Sequence[str],
  examine: Callable[[Sequence[str], Sequence[str]], dict[str, Verdict]],
) -> _Departure | None:
  """The smallest set that restores agreement; None without one that is clearly the best."""
  for size in range(1, (len(panel) - 1) // 2 + 1):
    attempts = []
    for out in itertools.combinations(panel, size):
      left = _without(panel, out)
      verdicts = examine(left, out)
      of_left = [verdicts[p] for p in left]
      alarmed = any(v.verdict in _ALARMS for v in of_left)
      attempts.append(_Attempt(_disagreement(of_left), alarmed, out, verdicts))
    best, second, *_ = sorted(attempts, key=lambda attempt: attempt.disagreement)
    if (
      not best.alarmed
      and best.disagreement < math.inf
      and best.disagreement <= second.disagreement - MARGIN
      and best.disagreement <= LEFT_SHARE * second.disagreement
    ):
      return _Departure(best.out, best.verdicts)
  return None


def _disagreement(verdicts: Sequence[Verdict]) -> float:
  """By how many standard errors the slope that fell most lies below its reference.

  Infinite where less than half of the verdicts have a reference.
  """
  fallen = [(v.reference_slope - v.slope) / v.slope_error for v in verdicts if v.slope_error]
  return max(fallen) if 2 * len(fallen) >= len(verdicts) else math.inf


class _Board:
  """All scores, each proxy's in units of its spread within the calibration rounds."""

  def __init__(self, rounds: Sequence[Round], calibration_rounds: int):
    self._rounds = rounds
    self._first = rounds[:calibration_rounds]
    self._scales: dict[_Cell, float] = {}

  def _scale(self, cell: _Cell) -> float:
    """The pooled spread of a proxy's scores; 0 where they never differed."""
    if cell not in self._scales:
      squares = []
      freedom = 0
      for round_ in self._first:
        values = np.array([trial[cell.proxy][cell.stream][0] for trial in round_.values()])
        if len(values):
          squares.append(float(((values - values.mean()) ** 2).sum()))
          freedom += len(values) - 1
      self._scales[cell] = float(np.sqrt(sum(squares) / freedom)) if freedom else 0.0
    return self._scales[cell]

  def rows(self, comparisons: _Comparisons) -> _Rows:
    """Compares proxies with the consensus of others, in every round.

    Others that never differed have no say.
    """
    rounds = []
    rows = []
    for number, round_ in enumerate(self._rounds):
      dev = {}
      consensus = {}
      variance = {}
      for stream, pairs in comparisons.items():
        for proxy, others in pairs:
          cell = _Cell(stream, proxy)
          dev[cell] = {name: trial[proxy][stream][0] for name, trial in round_.items()}
          consensus[cell] = self._consensus(round_, stream, others)
          variance[cell] = None
          if round_:
            variances = [trial[proxy][stream][1] for trial in round_.values()]
            variance[cell] = float(np.mean(variances))
      rounds.append(tracking.Round(dev, consensus, variance))
      rows.append(tracking.measure(rounds, calibration_rounds=len(self._first), seed=number))
    return rows

  def _consensus(self, round_: Round, stream: str, others: Sequence[str]) -> dict[str, float]:
    """trial -> mean of the others' scores, each in units of its spread."""
    scales = {}
    for other in others:
      scale = self._scale(_Cell(stream, other))
      if scale:
        scales[other] = scale
    means = {}
    for name, trial in round_.items():
      total = sum(trial[other][stream][0] / scale for other, scale in scales.items())
      means[name] = total / max(len(scales), 1)
    return means


def _against_each_other(panel: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
  """Each proxy, with the others of the panel."""
  return [(proxy, _without(panel, {proxy})) for proxy in panel]


def _without(panel: Sequence[str], out: Collection[str]) -> tuple[str, ...]:
  return tuple(proxy for proxy in panel if proxy not in out)


def _by_stream(verdicts: Mapping[_Cell, Verdict]) -> dict[str, dict[str, Verdict]]:
  """stream -> proxy -> verdict, of verdicts by comparison."""
  by_stream: dict[str, dict[str, Verdict]] = {}
  for cell, verdict in verdicts.items():
    of_stream = by_stream.setdefault(cell.stream, {})
    of_stream[cell.proxy] = dataclasses.replace(verdict, stream=cell.stream)
  return by_stream


# -- the score -------------------------------------------------------------------------------------


def consensus(
  trial: Scores, trust: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]
) -> dict[str, float]:
  """Computes a trial's score on every stream, an accuracy.

  It is the mean of the proxies' accuracies, weighted by their trust there. Overall, a family on
  which a proxy has lost trust counts in it with the consensus on that family instead. `cross` is no
  accuracy and does not count.

  Args:
    trial: scores by every proxy.
    trust: proxy -> stream -> trust; 1 where there is none.
    shares: family -> its share of dev's items.

  Returns:
    stream -> score.
  """
  counted = dict(trial)
  counted.pop(CROSS, None)

  def weight(proxy: str, stream: str) -> float:
    return trust.get(proxy, {}).get(stream, 1.0)

  def mean(stream: str, values: Mapping[str, float]) -> float:
    weights = [weight(proxy, stream) for proxy in values]
    weighted = [w * value for w, value in zip(weights, values.values(), strict=True)]
    return sum(weighted) / sum(weights)

  of_families = {}
  for family in shares:
    of_family = {}
    for proxy, parts in counted.items():
      if family in parts:
        of_family[proxy] = parts[family][0]
    of_families[family] = mean(family, of_family)
  overall = {}
  for proxy, parts in counted.items():
    corrections = []
    for family, share in shares.items():
      if family in parts and weight(proxy, family) == 0:
        corrections.append(share * (of_families[family] - parts[family][0]))
    overall[proxy] = parts[OVERALL][0] + sum(corrections)
  return {OVERALL: mean(OVERALL, overall)} | of_families
