"""What the verdicts change: how far dev is believed, family by family, and what a step of dev is
worth to the agent.

A family whose dev is called reversed or decoupled stops being rewarded for dev: its `objective`,
the worth of a step on dev in external score, falls from 1 to the measured slope over the reference
slope, at most 0 for a reversed one. Below 0 the agent looks for what lowers dev there, since that
is what raised the external score. Its released external scores take the place of dev wherever there
are some (see statistical_agent).

An alarm on the overall score, where no family has had one, concerns every family that is not
coupled at that time: dev as a whole has lost touch, and nothing vouches for them.

The dev set is frozen for the whole campaign, and so is its flaw: what lost trust does not get it
back when dev and external agree again, which they will as soon as nobody exploits the flaw any
more. A later alarm changes an objective only if it turns its sign: the worth is an estimate, and
moves a little with every round.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

DEV, OVERALL = 'dev', 'overall'
ALARMS = ('reversed', 'decoupled')


@dataclasses.dataclass(frozen=True)
class Revision:
  """What follows from a round's verdicts. objectives, trust: as in Policy. reasons: a sentence for
  each change, none if nothing changed.
  """

  objectives: dict[str, float]
  trust: dict[str, dict[str, float]]
  reasons: tuple[str, ...]


def revise(
  objectives: Mapping[str, float],
  trust: Mapping[str, Mapping[str, float]],
  verdicts: Mapping[str, Mapping[str, Any]],
  families: Sequence[str],
) -> Revision:
  """Applies a round's verdicts (stream -> the fields of a reversal.Verdict). families: that dev is
  told by, also where external is told as a whole only.
  """
  objectives, believed, reasons = dict(objectives), dict(trust.get(DEV, {})), []
  alarms = {
    stream: verdict for stream, verdict in sorted(verdicts.items()) if verdict['verdict'] in ALARMS
  }
  concerned = [(stream, stream) for stream in alarms if stream != OVERALL]
  if OVERALL in alarms:
    believed[OVERALL] = min(believed.get(OVERALL, 1.0), max(_worth(alarms[OVERALL]), 0.0))
    if not concerned and not objectives:
      concerned = [
        (f, OVERALL) for f in families if verdicts.get(f, {'verdict': ''})['verdict'] != 'coupled'
      ]
  for family, stream in concerned:
    worth, before = _worth(alarms[stream]), objectives.get(family, 1.0)
    if worth < before and (family not in objectives or (worth < 0) != (before < 0)):
      reasons.append(_sentence(family, stream, alarms[stream], before, worth))
      objectives[family], believed[family] = worth, min(believed.get(family, 1.0), max(worth, 0.0))
  return Revision(
    objectives,
    {**{k: dict(v) for k, v in trust.items()}, **({DEV: believed} if believed else {})},
    tuple(reasons),
  )


def _worth(verdict: Mapping[str, Any]) -> float:
  """Slope over reference, in [-1, 1), rounded; 0 where it is not known, and at most 0 of a reversed
  stream.
  """
  slope, reference = verdict['slope'], verdict['reference_slope']
  worth = max(-1.0, min(slope / reference, 0.99)) if slope is not None and reference else 0.0
  return round(min(worth, 0.0) if verdict['verdict'] == 'reversed' else worth, 2)


def _statistic(verdict: Mapping[str, Any]) -> str:
  value = (
    f'e = {verdict["e_value"]:.3g}'
    if verdict['e_value'] is not None
    else f'p = {verdict["p_value"]:.2g}'
  )
  return f'{verdict["test"]} test, {value} over {verdict["n"]} trials'


def _sentence(
  family: str, stream: str, verdict: Mapping[str, Any], before: float, worth: float
) -> str:
  where = '' if stream == family else ' overall, and nothing vouches for it here'
  aim = (
    (
      'the objective no longer rewards dev there, but asks for what lowers dev while the '
      'external score rises'
    )
    if worth < 0
    else 'the objective no longer rewards dev there, only the external score'
    if worth == 0
    else f'a step of dev counts {worth:.2f} there'
  )
  return (
    f'{family}: dev is {verdict["verdict"]}{where} ({_statistic(verdict)}), worth '
    f'{worth:+.2f} instead of {before:+.2f}: {aim}'
  )
