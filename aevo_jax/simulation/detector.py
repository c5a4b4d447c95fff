"""The verdicts of a simulated campaign, by the functions that judge a real one."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from aevo_jax.config.constitution import Constitution, Reversal
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.stats import concordance

ALARMS = ('reversed', 'decoupled')
OVERALL = 'overall'


@dataclasses.dataclass(frozen=True)
class Alarm:
  """The first round in which a stream was given a verdict of `ALARMS`."""

  round: int
  stream: str
  verdict: str


def rules(constitution: Constitution, replays: int) -> Reversal:
  """The constitution's, with the simulation's number of replays."""
  return dataclasses.replace(constitution.reversal, replays=replays)


def variances(dev: np.ndarray, items: int) -> np.ndarray:
  """[..., F + 1] binomial variance of a dev accuracy, mean over trials, by stream; overall is the
  mean of families. dev: [..., trials, F].
  """
  families = dev.shape[-1]
  accuracy = np.clip(dev, 0, 1)
  by_family = (accuracy * (1 - accuracy)).mean(axis=-2) / (items // families)
  return np.concatenate([by_family, by_family.sum(axis=-1, keepdims=True) / families**2], axis=-1)


class Detector:
  """Judges round after round of one campaign. families: names. replays: behind each threshold.
  seed: of the coins that break ties.
  """

  def __init__(self, constitution: Constitution, families: Sequence[str], replays: int, seed: int):
    self._rules, self._budget = rules(constitution, replays), constitution.budget
    self._streams, self._seed, self._items = (*families, OVERALL), seed, constitution.dev_set.items
    self._rounds: list[dict] = []
    self.alarms: list[Alarm] = []

  def judge(self, dev: np.ndarray, external: np.ndarray) -> dict[str, dict]:
    """Fields of the verdicts by stream after a round of trials. dev, external: accuracies [trials,
    F], unrounded.
    """
    noise = dict(zip(self._streams, variances(dev, self._items).tolist()))
    scores = lambda table: {
      s: {str(trial): v for trial, v in enumerate(column)}
      for s, column in zip(self._streams, [*table.T.tolist(), table.mean(axis=1).tolist()])
    }
    fixed = calibration.thresholds(
      self._rounds, self._rules, self._budget.rounds, self._budget.workers, 0
    )
    self._rounds.append(
      concordance.reduce_round(scores(dev), scores(external), noise, self._seed + len(self._rounds))
    )
    found = {
      stream: dataclasses.asdict(v)
      for stream, v in reversal.verdicts(self._rounds, self._rules, fixed).items()
    }
    known = {a.stream for a in self.alarms}
    self.alarms += [
      Alarm(len(self._rounds), s, v['verdict'])
      for s, v in sorted(found.items())
      if v['verdict'] in ALARMS and s not in known
    ]
    return found
