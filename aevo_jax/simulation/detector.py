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


def alarm_order(alarm: Alarm) -> tuple[int, str]:
  """Returns the key by which alarms are sorted: round, then stream."""
  return alarm.round, alarm.stream


def rules(constitution: Constitution, replays: int) -> Reversal:
  """Returns the constitution's rules with another number of replays behind each threshold."""
  return dataclasses.replace(constitution.reversal, replays=replays)


def variances(dev: np.ndarray, items: int) -> np.ndarray:
  """Computes the binomial variance of a dev accuracy, as the mean over trials.

  Args:
    dev: accuracies, [..., trials, F].
    items: of the dev set, spread evenly over the F families.

  Returns:
    [..., F + 1] variances by stream. The last stream, overall, is the mean of families.
  """
  families = dev.shape[-1]
  accuracy = np.clip(dev, 0, 1)
  by_family = (accuracy * (1 - accuracy)).mean(axis=-2) / (items // families)
  return np.concatenate([by_family, by_family.sum(axis=-1, keepdims=True) / families**2], axis=-1)


class Detector:
  """Judges one campaign, round after round.

  Args:
    constitution: its rules and budget.
    families: names; the streams are these and overall.
    replays: coupled campaigns behind each threshold.
    seed: of the coins that break ties.

  Attributes:
    alarms: the first of each stream.
  """

  def __init__(self, constitution: Constitution, families: Sequence[str], replays: int, seed: int):
    self._rules = rules(constitution, replays)
    self._budget = constitution.budget
    self._streams = (*families, OVERALL)
    self._seed = seed
    self._items = constitution.dev_set.items
    self._rounds: list[dict] = []
    self.alarms: list[Alarm] = []

  def judge(self, dev: np.ndarray, external: np.ndarray) -> dict[str, dict]:
    """Judges the campaign after one more round, and notes new alarms.

    Args:
      dev: accuracies of the round's trials, [trials, F], unrounded.
      external: of the same trials.

    Returns:
      Fields of the verdicts by stream.
    """
    noise = dict(zip(self._streams, variances(dev, self._items).tolist(), strict=True))
    thresholds = calibration.thresholds(
      self._rounds, self._rules, self._budget.rounds, self._budget.workers, 0
    )
    self._rounds.append(
      concordance.reduce_round(
        self._by_stream(dev), self._by_stream(external), noise, self._seed + len(self._rounds)
      )
    )
    verdicts = {}
    for stream, verdict in reversal.verdicts(self._rounds, self._rules, thresholds).items():
      verdicts[stream] = dataclasses.asdict(verdict)
    known = {alarm.stream for alarm in self.alarms}
    for stream, fields in sorted(verdicts.items()):
      if fields['verdict'] in ALARMS and stream not in known:
        self.alarms.append(Alarm(len(self._rounds), stream, fields['verdict']))
    return verdicts

  def _by_stream(self, accuracies: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns stream -> trial -> score of a table [trials, F]."""
    columns = [*accuracies.T.tolist(), accuracies.mean(axis=1).tolist()]
    scores = {}
    for stream, column in zip(self._streams, columns, strict=True):
      scores[stream] = {str(trial): score for trial, score in enumerate(column)}
    return scores
