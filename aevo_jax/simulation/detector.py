"""The verdicts of a simulated campaign, by the functions that judge a real one."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.drift import levels, reversal
from aevo_jax.meta_agent.drift.reversal import ALARMS
from aevo_jax.stats import coarse, tracking
from aevo_jax.stats.gain_test import Answers
from aevo_jax.stats.tracking import OVERALL, Gains

# trial -> family -> answers [items]
Trials = Mapping[str, Mapping[str, Answers]]


@dataclasses.dataclass(frozen=True)
class Alarm:
  """The first round in which a stream was given a verdict of `reversal.ALARMS`."""

  round: int
  stream: str
  verdict: str


def alarm_order(alarm: Alarm) -> tuple[int, str]:
  """Returns the key by which alarms are sorted: round, then stream."""
  return alarm.round, alarm.stream


def by_trial(
  names: Sequence[str], families: Sequence[str], dev: np.ndarray, external: np.ndarray
) -> dict[str, dict[str, Answers]]:
  """Names the trials and families of answers.

  Args:
    names: of N trials.
    families: of F families.
    dev: booleans [N, F, items].
    external: booleans [N, F, items].

  Returns:
    trial -> family -> answers.
  """
  named = {}
  for i, name in enumerate(names):
    named[name] = {f: Answers(dev[i, k], external[i, k]) for k, f in enumerate(families)}
  return named


class Detector:
  """Judges one campaign, round after round.

  Args:
    constitution: its rules and budget.
    families: names; the streams are these and overall.
    seed: of the coins that break ties.

  Attributes:
    alarms: the first of each stream.
  """

  def __init__(self, constitution: Constitution, families: Sequence[str], seed: int):
    self._constitution = constitution
    self._streams = (*families, OVERALL)
    self._seed = seed
    self._start: dict[str, Mapping[str, Answers]] = {}
    self._measured: list[tracking.Round] = []
    self._rows: list[tracking.Rows] = []
    self.alarms: list[Alarm] = []

  def start(self, trials: Trials) -> None:
    """Takes replicates of the starting recipe, before the first round."""
    self._start |= trials

  def judge(self, trials: Trials, same: Collection[str] = ()) -> dict[str, dict]:
    """Judges the campaign after one more round, and notes new alarms.

    Args:
      trials: of the round.
      same: names of those that ran the starting recipe.

    Returns:
      Fields of the verdicts by stream.
    """
    rules = self._constitution.reversal
    number = len(self._rows) + 1
    fixed = levels.fix(
      rules,
      round_=number,
      planned_rounds=self._constitution.budget.rounds,
      streams=self._streams,
    )
    for name in same:
      self._start[f'{number}|{name}'] = trials[name]
    self._measured.append(tracking.of_answers(trials))
    changed = {name: answers for name, answers in trials.items() if name not in same}
    exact = tracking.measure(
      self._measured,
      calibration_rounds=rules.calibration_rounds,
      seed=self._seed + number,
      gains=Gains(self._start, changed, rules.transfer),
    )
    self._rows.append(
      coarse.rows(
        exact,
        gain_p=fixed.gain_p,
        slope_p=fixed.slope_p,
        decimals=self._constitution.release.decimals,
      )
    )
    spoken = reversal.verdicts(self._rows, rules, fixed)
    known = {alarm.stream for alarm in self.alarms}
    for stream, verdict in sorted(spoken.items()):
      if verdict.verdict in ALARMS and stream not in known:
        self.alarms.append(Alarm(number, stream, verdict.verdict))
    return {stream: dataclasses.asdict(verdict) for stream, verdict in spoken.items()}
