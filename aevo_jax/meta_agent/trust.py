"""What the verdicts change: how far dev is believed, family by family, and what a step of dev is worth to the agent.

A family whose dev is called reversed or decoupled stops being rewarded for dev: its `objective`, the worth of a step on dev in external score, falls from 1 to the
measured slope over the reference slope, at most 0 for a reversed one. Below 0 the agent looks for what lowers dev there, since that is what raised the external score.
Its released external scores take the place of dev wherever there are some (see statistical_agent).

The dev set is frozen for the whole campaign, and so is its flaw: what lost trust does not get it back when dev and external agree again, which they will as soon as nobody
exploits the flaw any more. A later verdict may lower the worth further.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

DEV, OVERALL = 'dev', 'overall'
ALARMS = ('reversed', 'decoupled')


@dataclasses.dataclass(frozen=True)
class Revision:
  """What follows from a round's verdicts. objectives, trust: as in Policy. reasons: a sentence for each change, none if nothing changed."""

  objectives: dict[str, float]
  trust: dict[str, dict[str, float]]
  reasons: tuple[str, ...]


def revise(objectives: Mapping[str, float], trust: Mapping[str, Mapping[str, float]], verdicts: Mapping[str, Mapping[str, Any]]) -> Revision:
  """Applies a round's verdicts (stream -> the fields of a reversal.Verdict).

  An alarm on the overall score alone names no family: trust in the overall dev score falls, and no family's objective changes.
  """
  objectives, believed, reasons = dict(objectives), dict(trust.get(DEV, {})), []
  for stream, verdict in sorted(verdicts.items()):
    if verdict['verdict'] not in ALARMS:
      continue
    worth = _worth(verdict)
    before = believed.get(stream, 1.0)
    believed[stream] = min(before, max(worth, 0.0))
    if stream == OVERALL:
      if believed[stream] < before:
        reasons.append(f'dev is {verdict["verdict"]} overall ({_statistic(verdict)}): its trust falls from {before:.2f} to {believed[stream]:.2f}')
    elif worth < objectives.get(stream, 1.0):
      reasons.append(_sentence(stream, verdict, objectives.get(stream, 1.0), worth))
      objectives[stream] = worth
  return Revision(objectives, {**{k: dict(v) for k, v in trust.items()}, **({DEV: believed} if believed else {})}, tuple(reasons))


def _worth(verdict: Mapping[str, Any]) -> float:
  """Slope over reference, in [-1, 1), rounded; 0 where it is not known, and at most 0 of a reversed stream."""
  slope, reference = verdict['slope'], verdict['reference_slope']
  worth = max(-1.0, min(slope / reference, 0.99)) if slope is not None and reference else 0.0
  return round(min(worth, 0.0) if verdict['verdict'] == 'reversed' else worth, 2)


def _statistic(verdict: Mapping[str, Any]) -> str:
  value = f'e = {verdict["e_value"]:.3g}' if verdict['e_value'] is not None else f'p = {verdict["p_value"]:.2g}'
  return f'{verdict["test"]} test, {value} over {verdict["n"]} trials'


def _sentence(stream: str, verdict: Mapping[str, Any], before: float, worth: float) -> str:
  aim = ('the objective no longer rewards dev there, but asks for what lowers dev while the external score rises' if worth < 0 else
         'the objective no longer rewards dev there, only the external score' if worth == 0 else f'a step of dev counts {worth:.2f} there')
  return f'{stream}: dev is {verdict["verdict"]} ({_statistic(verdict)}), worth {worth:+.2f} instead of {before:+.2f}: {aim}'
