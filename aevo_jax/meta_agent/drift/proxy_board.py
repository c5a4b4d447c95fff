"""The scores of all proxies, and rows that compare each with the consensus of others."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.stats import spread_test, tracking

# Log-odds of a score of 0 or 1 of an unknown number of items.
FARTHEST = 10.0

# proxy -> stream (a family, or overall) -> (score, its variance by the luck of the items)
Scores = Mapping[str, Mapping[str, Sequence[float]]]
# trial -> scores
Round = Mapping[str, Scores]


class Cell(NamedTuple):
  """A comparison: of one proxy on one stream with the others there."""

  stream: str
  proxy: str


# of every round: comparison -> row of `tracking.measure`
Rows = list[dict[Cell, Any]]
# stream -> what is compared there: (proxy, the others)
Comparisons = Mapping[str, Iterable[tuple[str, Sequence[str]]]]


class Board:
  """All scores as log-odds, each proxy's in units of its spread within the calibration rounds.

  Args:
    rounds: of trials that differ, oldest first.
    calibration_rounds: how many of them give the units and the reference slopes.
  """

  def __init__(self, rounds: Sequence[Round], calibration_rounds: int):
    self._rounds = rounds
    self._calibration = calibration_rounds
    self._scales: dict[Cell, float] = {}

  def _values(self, cell: Cell) -> list[np.ndarray]:
    """Of every round, the log-odds of its trials, [trials]."""
    values = []
    for round_ in self._rounds:
      scores = [trial[cell.proxy][cell.stream] for trial in round_.values()]
      values.append(np.array([log_odds(*score).value for score in scores]))
    return values

  def _scale(self, cell: Cell) -> float:
    """The pooled spread of a proxy's scores; 0 where they never differed."""
    if cell not in self._scales:
      first = self._values(cell)[: self._calibration]
      squares = sum(float(np.square(_centred(values)).sum()) for values in first)
      freedom = sum(max(len(values) - 1, 0) for values in first)
      self._scales[cell] = float(np.sqrt(squares / freedom)) if freedom else 0.0
    return self._scales[cell]

  def rows(self, comparisons: Comparisons) -> Rows:
    """Compares proxies with the consensus of others, in every round.

    Args:
      comparisons: stream -> each proxy with the others. Others that never differed have no say.

    Returns:
      Rows of `tracking.measure`. The p value of a slope is the larger one of its fall ('fall_p')
      and of the distance from the consensus having grown.
    """
    dev: list[dict] = [{} for _ in self._rounds]
    consensus: list[dict] = [{} for _ in self._rounds]
    variance: list[dict] = [{} for _ in self._rounds]
    for stream, pairs in comparisons.items():
      for proxy, others in pairs:
        cell = Cell(stream, proxy)
        own = self._values(cell)
        theirs = self._consensus(stream, others)
        for number, round_ in enumerate(self._rounds):
          dev[number][cell] = dict(zip(round_, own[number].tolist(), strict=True))
          consensus[number][cell] = dict(zip(round_, theirs[number].tolist(), strict=True))
          items = [log_odds(*trial[proxy][stream]).variance for trial in round_.values()]
          variance[number][cell] = float(np.mean(items)) if items else None
    rounds = []
    rows = []
    for number in range(len(self._rounds)):
      rounds.append(tracking.Round(dev[number], consensus[number], variance[number]))
      measured = tracking.measure(rounds, calibration_rounds=self._calibration, seed=number)
      for cell, row in measured.items():
        if 'p' in row['slope']:
          row['slope']['fall_p'] = row['slope']['p']
          row['slope']['p'] = max(row['slope']['p'], self._disagreement_p(rounds, cell))
      rows.append(measured)
    return rows

  def _disagreement_p(self, rounds: Sequence[tracking.Round], cell: Cell) -> float:
    """The p value of a proxy's distance from the consensus having grown since calibration.

    When policies converge, what proxies share shrinks and what each has of its own stays. The slope
    falls then, although nobody departed; the distance does not grow, since what is shared drops out
    of it.
    """
    scale = self._scale(cell) or 1.0
    before = []
    since = []
    for number, round_ in enumerate(rounds):
      own = np.array(list(round_.dev[cell].values())) / scale
      distances = own - np.array(list(round_.external[cell].values()))
      (before if number < self._calibration else since).append(distances)
    return spread_test.grew_p(before, since)

  def _consensus(self, stream: str, others: Sequence[str]) -> list[np.ndarray]:
    """Of every round, the mean of the others' log-odds in units of their spreads, [trials]."""
    parts = []
    for other in others:
      scale = self._scale(Cell(stream, other))
      if scale:
        parts.append([values / scale for values in self._values(Cell(stream, other))])
    if not parts:
      return [np.zeros(len(round_)) for round_ in self._rounds]
    return [np.mean(of_round, axis=0) for of_round in zip(*parts, strict=True)]


class LogOdds(NamedTuple):
  """A score's log-odds, and their variance by the luck of the items.

  Attributes:
    value: ln(p / (1 - p)).
    variance: by the delta method.
  """

  value: float
  variance: float


def log_odds(score: float, variance: float) -> LogOdds:
  """Turns an accuracy into log-odds, with half an item on each side so that they are finite.

  Args:
    score: in [0, 1].
    variance: by the luck of the items. Their number is the one that gives it, see
      `proxies.scores`; 0 where it is not known.

  Returns:
    The log-odds, `FARTHEST` from 0 where all is right or wrong of an unknown number of items.
  """
  spread = score * (1 - score)
  half = 0.0
  if variance > 0:
    half = variance / (spread + math.sqrt(spread**2 + variance))
  low, high = score + half, 1 - score + half
  if not min(low, high) > 0:  # of unknown items, all right or all wrong
    return LogOdds(math.copysign(FARTHEST, score - 0.5), 0.0)
  return LogOdds(math.log(low / high), variance / (low * high) ** 2)


def _centred(values: np.ndarray) -> np.ndarray:
  return values - values.mean() if len(values) else values
