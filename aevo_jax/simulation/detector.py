"""The verdicts of a simulated campaign, by the functions that judge a real one."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent import calibration, reversal

ALARMS = ('reversed', 'decoupled')
OVERALL = 'overall'


@dataclasses.dataclass(frozen=True)
class Alarm:
  """The first round in which a stream was given a verdict of `ALARMS`."""

  round: int
  stream: str
  verdict: str


class Detector:
  """Judges round after round of one campaign. families: names. replays: behind each threshold. seed: of the coins that break ties and of the replays."""

  def __init__(self, constitution: Constitution, families: Sequence[str], replays: int, seed: int):
    self._rules = dataclasses.replace(constitution.reversal, replays=replays)
    self._budget, self._streams, self._seed = constitution.budget, (*families, OVERALL), seed
    self._items = constitution.dev_set.items
    self._rounds, self.alarms = [], []

  def judge(self, dev: np.ndarray, external: np.ndarray) -> dict[str, str]:
    """Verdicts by stream after a round of trials. dev, external: accuracies [trials, F], unrounded."""
    families = dev.shape[1]
    # Binomial variance of an accuracy, mean over trials; overall is the mean of families.
    by_family = (dev * (1 - dev)).mean(axis=0) / (self._items // families)
    variances = dict(zip(self._streams, [*map(float, by_family), float(by_family.sum()) / families**2]))
    scores = lambda table: {s: dict(enumerate(column)) for s, column in zip(self._streams, [*table.T.tolist(), table.mean(axis=1).tolist()])}
    fixed = calibration.thresholds(self._rounds, self._rules, self._budget.rounds, self._budget.workers, 0)
    self._rounds.append(reversal.reduce_round(scores(dev), scores(external), variances, self._seed + len(self._rounds)))
    found = {stream: v.verdict for stream, v in reversal.verdicts(self._rounds, self._rules, fixed).items()}
    known = {a.stream for a in self.alarms}
    self.alarms += [Alarm(len(self._rounds), s, v) for s, v in found.items() if v in ALARMS and s not in known]
    return found
