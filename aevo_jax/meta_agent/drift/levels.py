"""The levels of the verdicts' tests, fixed before the round that they judge.

An alarm of any test, stream and round counts as an alarm of the campaign, whose rate is to be
`reversal.alpha` at most. So alpha is divided: among the three kinds of tests by the constitution's
shares, within a kind by Bonferroni's inequality among streams that differ and rounds in which the
test is made. The e-process needs no division among rounds (Ville 1939), nor, by e-BH, among
streams.
"""

import dataclasses
from collections.abc import Iterable

from aevo_jax.config.constitution import Reversal

OVERALL = 'overall'


@dataclasses.dataclass(frozen=True)
class Levels:
  """What is fixed before a round.

  Attributes:
    round: the round it is for, counted from 1.
    planned_rounds: of the campaign.
    streams: how many of them differ.
    gain_p: the gain test alarms at a p value of at most this; None where it is never made.
    slope_p: likewise of the slope test; None before the calibration rounds are over.
    ranks_alpha: of the e-process with e-BH, or of the exact test with Holm, over all streams.
  """

  round: int
  planned_rounds: int
  streams: int
  gain_p: float | None
  slope_p: float | None
  ranks_alpha: float


def fix(
  rules: Reversal,
  *,
  round_: int,
  planned_rounds: int,
  streams: Iterable[str],
  with_gains: bool = True,
) -> Levels:
  """Fixes the levels of one round.

  Args:
    rules: of the verdicts.
    round_: to be judged, counted from 1.
    planned_rounds: of the whole campaign.
    streams: names. Overall beside a single family is the same stream.
    with_gains: whether answers item by item and replicates are known, so that there is a gain test.
      Where there is none, the other tests have its share.

  Returns:
    Levels, a function of nothing but the arguments.
  """
  names = set(streams)
  count = len(names) - (OVERALL in names and len(names) == 2)
  count = max(count, 1)
  gain_share = rules.gain_share if with_gains else 0.0
  rest = 1 - rules.gain_share
  slope_share = rules.slope_share if with_gains else rules.slope_share / rest
  looks = max(planned_rounds, round_)
  gain_p = rules.alpha * gain_share / (count * looks)
  slope_looks = looks - rules.calibration_rounds
  slope_p = None
  if round_ > rules.calibration_rounds and slope_share:
    slope_p = rules.alpha * slope_share / (count * slope_looks)
  return Levels(
    round=round_,
    planned_rounds=planned_rounds,
    streams=count,
    gain_p=gain_p or None,
    slope_p=slope_p,
    ranks_alpha=rules.alpha * (1 - gain_share - slope_share),
  )
