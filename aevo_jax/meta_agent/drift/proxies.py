"""Without an external target: dev and the probes judge each other, and what they agree on is the
score.

Every proxy is compared, per family and overall, with the consensus of the others: the mean of their
scores, each centred within its round and in units of its own spread in the calibration rounds.
(Units of each round's own spread would turn the slope into a correlation, which falls whenever a
policy converges.) The tests are those of `reversal`, the consensus standing where the external
score stands there: the slope of the consensus on the proxy against its own reference from the
calibration rounds, and the e-process of the ranks; alpha is of the whole campaign, over all
proxies, families and looks.

An alarm says that the panel does not agree any more; whoever departed drags the others' consensus
along. Who it was is decided by leaving out: the smallest set, less than half of the panel, after
whose removal none of those left alarms and clearly less disagreement is left than after leaving out
any other set of its size (`MARGIN`, `LEFT_SHARE`). Where there is none, because they are two, or
half stands against half, the verdict is 'undetermined: they disagree'. If all depart together
nothing shows.

Trust of a proxy on a family or overall: 1 while nothing speaks against it; 0 from the round on in
which it is found to depart, to the end of the campaign; 1/2 while it is in a dispute that is
undecided. Proxies with trust 0 leave the panel.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.meta_agent.drift.calibration import Thresholds
from aevo_jax.meta_agent.drift.reversal import Verdict
from aevo_jax.stats import concordance

DEV, CROSS, OVERALL = 'dev', 'cross', 'overall'
WEAKER = 'proxies only, weaker'
DISAGREE = 'undetermined: they disagree'
_ALARMS = ('reversed', 'decoupled')
# What is left of the disagreement, in standard errors of a slope, must be less by MARGIN than after
# leaving out any other set of that size, and at most this share of it.
MARGIN, LEFT_SHARE = 1.0, 0.6

Scores = Mapping[
  str, Mapping[str, tuple[float, float]]
]  # proxy -> stream (a family, or overall) -> (score, its variance by the luck of the items)
Round = Mapping[str, Scores]  # trial -> scores


def scores(
  dev: Mapping[str, Any], probes: Mapping[str, Any]
) -> dict[str, dict[str, tuple[float, float]]]:
  """A trial's scores by every proxy. `cross` is, for each family, the mean of dev's other families:
  shown beside them, and not judged, since a setting that trades families off against each other
  turns it around although nothing is wrong.

  Args:
    dev: summary of `evaluation.scoring`. probes: probe -> summary of `evaluation.probes`.
  """
  found = {
    DEV: {OVERALL: _of_counts(dev[OVERALL])}
    | {family: _of_counts(part) for family, part in dev['by_family'].items()}
  }
  for name, summary in probes.items():
    parts = {OVERALL: summary[OVERALL]} | summary['by_family']
    found[name] = {stream: (part['accuracy'], part['variance']) for stream, part in parts.items()}
  families = [family for family in found[DEV] if family != OVERALL]
  if len(families) > 1:
    others = {
      family: [found[DEV][other] for other in families if other != family] for family in families
    }
    found[CROSS] = {
      family: (sum(s for s, _ in rest) / len(rest), sum(v for _, v in rest) / len(rest) ** 2)
      for family, rest in others.items()
    }
  return found


def _of_counts(part: Mapping[str, Any]) -> tuple[float, float]:
  right, total = part['correct'], part['total']
  return part['accuracy'], (
    right * (total - right) / total + 0.25
  ) / total**2  # as evaluation.probes


@dataclasses.dataclass(frozen=True)
class Judgement:
  """After one round. verdicts: stream -> proxy -> verdict; of a proxy that was named, against those
  it departs from. trust: proxy -> stream -> trust. departed: stream -> proxies named in this round.
  thresholds: fixed before it."""

  verdicts: Mapping[str, Mapping[str, Verdict]]
  trust: Mapping[str, Mapping[str, float]]
  departed: Mapping[str, tuple[str, ...]]
  thresholds: Thresholds

  def to_json(self) -> dict[str, Any]:
    """What the evidence shows of it."""
    return {
      'evidence': WEAKER,
      'trust': {p: dict(t) for p, t in self.trust.items()},
      'departed': {s: list(p) for s, p in self.departed.items()},
      'thresholds': dataclasses.asdict(self.thresholds),
      'verdicts': {
        s: {p: dataclasses.asdict(v) for p, v in found.items()}
        for s, found in self.verdicts.items()
      },
    }


def judge(
  rounds: Sequence[Round], rules: Reversal, planned_rounds: int, workers: int
) -> list[Judgement]:
  """The judgement after every round, each from it and the rounds before.

  Args:
    rounds: of trials that differ; the noise floor's round of equal recipes is none. planned_rounds,
      workers: of the whole campaign.
  """
  said: list[Judgement] = []
  for done in range(1, len(rounds) + 1):
    said.append(
      _judge(rounds[:done], said[-1].trust if said else {}, rules, planned_rounds, workers)
    )
  return said


def _judge(
  rounds: Sequence[Round],
  trust: Mapping[str, Mapping[str, float]],
  rules: Reversal,
  planned_rounds: int,
  workers: int,
) -> Judgement:
  latest = next((trial for round_ in reversed(rounds) for trial in round_.values()), {})
  proxies = {
    stream: [p for p in latest if stream in latest[p] and p != CROSS]
    for stream in dict.fromkeys(s for parts in latest.values() for s in parts)
  }
  panels = {
    stream: tuple(p for p in names if trust.get(p, {}).get(stream, 1.0) > 0)
    for stream, names in proxies.items()
    if len(names) > 1
  }
  board = _Board(rounds, rules.calibration_rounds)
  rows = board.rows(
    {
      stream: [(p, _others(panel, p)) for p in panel]
      for stream, panel in panels.items()
      if len(panel) > 1
    }
  )
  thresholds = calibration.thresholds(rows[:-1], rules, planned_rounds, workers, seed=0)
  found = _by_stream(reversal.verdicts(rows, rules, thresholds)) if any(rows) else {}

  after = {p: {s: trust.get(p, {}).get(s, 1.0) for s in latest[p]} for p in latest}
  departed = {}
  for stream, verdicts in found.items():
    for p in panels[stream]:
      after[p][stream] = 1.0
    alarms = [p for p, verdict in verdicts.items() if verdict.verdict in _ALARMS]
    if not alarms:
      continue
    # Thresholds of the whole campaign, and rows of the other streams, stay: leaving out looks no
    # harder than the alarm did.
    examine = lambda left, out: _by_stream(
      reversal.verdicts(
        [
          others | own
          for others, own in zip(
            _without(rows, stream),
            board.rows({stream: [(p, _others(left, p)) for p in left] + [(p, left) for p in out]}),
          )
        ],
        rules,
        thresholds,
      )
    )[stream]
    named = _departed(panels[stream], examine)
    if named is None:
      for p in alarms:
        after[p][stream] = 0.5
        verdicts[p] = dataclasses.replace(
          verdicts[p],
          verdict=DISAGREE,
          why=(
            'it departs from the consensus of the others, and leaving out does not tell '
            'who departed'
          ),
        )
    else:
      departed[stream], found[stream] = named
      for p in departed[stream]:
        after[p][stream] = 0.0
        if (
          found[stream][p].verdict not in _ALARMS
        ):  # a consensus of few is a weaker reference than that of all
          found[stream][p] = dataclasses.replace(
            found[stream][p],
            verdict='decoupled',
            why='left out, it restores the agreement of the others',
          )
  return Judgement(found, after, departed, thresholds)


def _departed(panel: Sequence[str], examine) -> tuple[tuple[str, ...], dict[str, Verdict]] | None:
  """The smallest set whose removal restores agreement, with the verdicts then; None if there is
  none, or another set of its size does it nearly as well.
  """
  for size in range(1, (len(panel) - 1) // 2 + 1):
    tried = []
    for out in itertools.combinations(panel, size):
      left = tuple(p for p in panel if p not in out)
      verdicts = examine(left, out)
      tried.append(
        (
          _disagreement([verdicts[p] for p in left]),
          any(verdicts[p].verdict in _ALARMS for p in left),
          out,
          verdicts,
        )
      )
    (worst, alarmed, out, verdicts), *rest = sorted(tried, key=lambda t: t[0])
    if (
      not alarmed
      and worst < math.inf
      and worst <= rest[0][0] - MARGIN
      and worst <= LEFT_SHARE * rest[0][0]
    ):
      return out, verdicts
  return None


def _disagreement(verdicts: Sequence[Verdict]) -> float:
  """By how many of its standard errors the slope that fell most lies below its reference; infinite
  where less than half of them have a reference.
  """
  fallen = [(v.reference_slope - v.slope) / v.slope_error for v in verdicts if v.slope_error]
  return max(fallen) if 2 * len(fallen) >= len(verdicts) else math.inf


class _Board:
  """All scores, each proxy's in units of its spread within the calibration rounds."""

  def __init__(self, rounds: Sequence[Round], calibration_rounds: int):
    self._rounds = rounds
    self._first = rounds[:calibration_rounds]
    self._scales: dict[tuple[str, str], float] = {}

  def _scale(self, proxy: str, stream: str) -> float:
    if (proxy, stream) not in self._scales:
      values = [
        np.array([trial[proxy][stream][0] for trial in round_.values()]) for round_ in self._first
      ]
      squares, freedom = (
        sum(float(((v - v.mean()) ** 2).sum()) for v in values if len(v)),
        sum(max(len(v) - 1, 0) for v in values),
      )
      self._scales[proxy, stream] = float(np.sqrt(squares / freedom)) if freedom else 0.0
    return self._scales[proxy, stream]

  def rows(self, comparisons: Mapping[str, Iterable[tuple[str, Sequence[str]]]]) -> list[dict]:
    """Of every round, (stream, proxy) -> row of the proxy against the consensus of the proxies
    named with it; those that never differed have no say.
    """
    found = []
    for number, round_ in enumerate(self._rounds):
      dev, consensus, variance = {}, {}, {}
      for stream, pairs in comparisons.items():
        for proxy, others in pairs:
          heard = [
            (other, self._scale(other, stream)) for other in others if self._scale(other, stream)
          ]
          dev[stream, proxy] = {name: trial[proxy][stream][0] for name, trial in round_.items()}
          consensus[stream, proxy] = {
            name: sum(trial[other][stream][0] / scale for other, scale in heard)
            / max(len(heard), 1)
            for name, trial in round_.items()
          }
          variance[stream, proxy] = (
            float(np.mean([trial[proxy][stream][1] for trial in round_.values()]))
            if round_
            else None
          )
      found.append(concordance.reduce_round(dev, consensus, variance, seed=number))
    return found


def _others(panel: Sequence[str], proxy: str) -> tuple[str, ...]:
  return tuple(p for p in panel if p != proxy)


def _without(rows: Sequence[Mapping], stream: str) -> list[dict]:
  return [{key: row for key, row in of_round.items() if key[0] != stream} for of_round in rows]


def _by_stream(verdicts: Mapping[tuple[str, str], Verdict]) -> dict[str, dict[str, Verdict]]:
  found: dict[str, dict[str, Verdict]] = {}
  for (stream, proxy), verdict in verdicts.items():
    found.setdefault(stream, {})[proxy] = dataclasses.replace(verdict, stream=stream)
  return found


# -- the score -------------------------------------------------------------------------------------


def consensus(
  trial: Scores, trust: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]
) -> dict[str, float]:
  """stream -> score of a trial, an accuracy: the mean of the proxies' accuracies, weighted by their
  trust there.

  Overall, a family on which a proxy has lost trust counts in it with the consensus on that family
  instead. `cross` is no accuracy and does not count.

  Args:
    shares: family -> its share of dev's items.
  """
  weight = lambda proxy, stream: trust.get(proxy, {}).get(stream, 1.0)
  counted = {p: parts for p, parts in trial.items() if p != CROSS}

  def mean(stream: str, values: Mapping[str, float]) -> float:
    weights = {p: weight(p, stream) for p in values}
    return sum(weights[p] * values[p] for p in values) / sum(weights.values())

  found = {
    family: mean(family, {p: parts[family][0] for p, parts in counted.items() if family in parts})
    for family in shares
  }
  overall = {}
  for p, parts in counted.items():
    lost = [family for family in shares if family in parts and weight(p, family) == 0]
    overall[p] = parts[OVERALL][0] + sum(
      shares[family] * (found[family] - parts[family][0]) for family in lost
    )
  return {OVERALL: mean(OVERALL, overall)} | found
