"""Trust: how far dev is believed, family by family, and what a step of dev is worth to the agent.

A family whose dev is called reversed, decoupled or gaining nothing stops being rewarded for dev.
Its `objective`, the worth of a step on dev in external score, falls from 1 to the measured slope
over the reference slope, to external's gain over dev's where dev gains nothing, and to at most 0
for a reversed one. Below 0 the agent looks for what lowers dev there, since that
is what raised the external score. Its released external scores take the place of dev wherever there
are some (see agents.statistical).

An alarm on the overall score, where no family has had one, concerns every family that is not
coupled at that time: dev as a whole has lost touch, and nothing vouches for them.

The dev set is frozen for the whole campaign, and so is its flaw: what lost trust does not get it
back when dev and external agree again, which they will as soon as nobody exploits the flaw any
more. A later alarm changes an objective only if it turns its sign: the worth is an estimate, and
moves a little with every round.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from aevo_jax.meta_agent.drift.reversal import ALARMS, Verdict

DEV = 'dev'
OVERALL = 'overall'


@dataclasses.dataclass(frozen=True)
class Revision:
  """What follows from a round's verdicts.

  Attributes:
    objectives: as in `Policy`.
    trust: as in `Policy`.
    reasons: a sentence for each change, none if nothing changed.
  """

  objectives: dict[str, float]
  trust: dict[str, dict[str, float]]
  reasons: tuple[str, ...]


def revise(
  objectives: Mapping[str, float],
  trust: Mapping[str, Mapping[str, float]],
  verdicts: Mapping[str, Verdict],
  families: Sequence[str],
) -> Revision:
  """Applies a round's verdicts.

  Args:
    objectives: family -> worth before.
    trust: proxy -> family -> trust before.
    verdicts: stream -> verdict.
    families: that dev is told by, also where external is told as a whole only.

  Returns:
    Objectives and trust after.
  """
  objectives = dict(objectives)
  believed = dict(trust.get(DEV, {}))
  reasons = []
  alarms = {s: v for s, v in sorted(verdicts.items()) if v.verdict in ALARMS}
  concerned = [(stream, stream) for stream in alarms if stream != OVERALL]
  if OVERALL in alarms:
    believed[OVERALL] = min(believed.get(OVERALL, 1.0), max(_worth(alarms[OVERALL]), 0.0))
    if not concerned and not objectives:
      coupled = {s for s, v in verdicts.items() if v.verdict == 'coupled'}
      concerned = [(family, OVERALL) for family in families if family not in coupled]
  for family, stream in concerned:
    worth = _worth(alarms[stream])
    before = objectives.get(family, 1.0)
    turns = (worth < 0) != (before < 0)
    if worth < before and (family not in objectives or turns):
      reasons.append(_sentence(family, stream, alarms[stream], before, worth))
      objectives[family] = worth
      believed[family] = min(believed.get(family, 1.0), max(worth, 0.0))
  revised = {proxy: dict(parts) for proxy, parts in trust.items()}
  if believed:
    revised[DEV] = believed
  return Revision(objectives, revised, tuple(reasons))


def _worth(verdict: Verdict) -> float:
  """What a step of dev is worth, in [-1, 1), rounded; 0 where that is not known.

  External's gain over dev's where nothing is gained, at least 0; else slope over reference, at most
  0 of a reversed stream.
  """
  worth = 0.0
  if verdict.verdict == 'gaining_nothing':
    if verdict.dev_gain and verdict.external_gain is not None:
      worth = max(0.0, min(verdict.external_gain / verdict.dev_gain, 0.99))
  elif verdict.slope is not None and verdict.reference_slope:
    worth = max(-1.0, min(verdict.slope / verdict.reference_slope, 0.99))
  if verdict.verdict == 'reversed':
    worth = min(worth, 0.0)
  return round(worth, 2)


def _sentence(family: str, stream: str, verdict: Verdict, before: float, worth: float) -> str:
  """Words one change of an objective, after a verdict on the family or on the overall score."""
  where = '' if stream == family else ' overall, and nothing vouches for it here'
  if worth < 0:
    aim = (
      'the objective no longer rewards dev there, but asks for what lowers dev while the '
      'external score rises'
    )
  elif worth == 0:
    aim = 'the objective no longer rewards dev there, only the external score'
  else:
    aim = f'a step of dev counts {worth:.2f} there'
  if verdict.e_value is not None:
    value = f'e = {verdict.e_value:.3g}'
  else:
    value = f'p = {verdict.p_value:.2g}'
  said = verdict.verdict.replace('_', ' ')
  return (
    f'{family}: dev is {said}{where} ({verdict.test} test, {value} over {verdict.n} '
    f'trials), worth {worth:+.2f} instead of {before:+.2f}: {aim}'
  )
