"""Many campaigns of several agents, and what came of them: gains, regret, false promotions, alarms,
each with its interval.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax.simulation import designs
from aevo_jax.simulation.campaign import Outcome, run
from aevo_jax.simulation.detector import ALARMS
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.stats.intervals import wilson

NO_AGENT = 'none'  # random designs, for the verdicts alone


def outcomes(
  scenario: Scenario, agents: Sequence[str], campaigns: int, processes: int = 1
) -> dict[str, tuple[list[Outcome], float]]:
  """agent -> (its campaigns 0 ... campaigns - 1, on the same surfaces and plants for all agents;
  seconds of all processes together).
  """
  if processes == 1:
    return {agent: _chunk(scenario, agent, range(campaigns)) for agent in agents}
  found = {}
  with concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context('spawn')
  ) as pool:
    for agent in agents:
      parts = list(
        pool.map(
          _chunk,
          *zip(
            *[
              (scenario, agent, range(k, campaigns, 4 * processes))
              for k in range(min(4 * processes, campaigns))
            ]
          ),
        )
      )
      found[agent] = (
        sorted((o for part, _ in parts for o in part), key=lambda o: o.index),
        sum(seconds for _, seconds in parts),
      )
  return found


def _chunk(scenario: Scenario, agent: str, indices: range) -> tuple[list[Outcome], float]:
  started = time.perf_counter()
  found = (
    designs.run(scenario, indices)
    if agent == NO_AGENT
    else [run(scenario, agent, index) for index in indices]
  )
  return found, time.perf_counter() - started


def mean_interval(values: Sequence[float]) -> dict[str, float]:
  """Mean and its normal 95% interval over campaigns."""
  error = (
    1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float('nan')
  )
  mean = float(np.mean(values))
  return {'mean': round(mean, 5), 'low': round(mean - error, 5), 'high': round(mean + error, 5)}


def share(count: int, total: int) -> dict[str, float]:
  """A share of campaigns with its Wilson interval."""
  interval = wilson(count, total)
  return {
    'share': round(count / total, 4),
    'low': round(interval.low, 4),
    'high': round(interval.high, 4),
    'campaigns': total,
  }


def summary(found: Sequence[Outcome], seconds: float) -> dict[str, Any]:
  """Of one agent's campaigns. Gains are left out where there was no agent, alarms where nothing was
  judged, detections where nothing was planted.

  An alarm counts as detection if it names the planted family, or overall, in the plant's first
  round or later; every other alarm is a false one, and where nothing is planted every alarm is.
  """
  total, facts = (
    len(found),
    {'campaigns': len(found), 'campaigns_per_minute': round(60 * len(found) / seconds, 1)},
  )
  if found[0].gain is not None:
    facts |= {
      'gain': mean_interval([o.gain for o in found]),
      'regret': mean_interval([o.best - o.gain for o in found]),
      'best': mean_interval([o.best for o in found]),
      'promoted': share(sum(o.promotions > 0 for o in found), total),
      'false_promotion': share(sum(o.false_promotions > 0 for o in found), total),
      'harmed': share(sum(o.gain < -0.005 for o in found), total),
    }
  if found[0].alarms is None:
    return facts
  right = [
    [
      a
      for a in o.alarms
      if o.plant and a.stream in (o.plant[0], 'overall') and a.round >= o.plant[1]
    ]
    for o in found
  ]
  facts['false_alarm'] = share(sum(len(o.alarms) > len(r) for o, r in zip(found, right)), total)
  if found[0].plant:
    facts['detected'] = share(sum(map(bool, right)), total)
    facts['detected_as'] = {
      verdict: share(sum(any(a.verdict == verdict for a in r) for r in right), total)
      for verdict in ALARMS
    }
    delays = Counter(min(a.round for a in r) - o.plant[1] for o, r in zip(found, right) if r)
    facts['rounds_from_onset_to_detection'] = {str(k): delays[k] for k in sorted(delays)}
  else:
    facts['false_alarms_by_round'] = {
      str(k): n
      for k, n in sorted(Counter(min(a.round for a in o.alarms) for o in found if o.alarms).items())
    }
  return facts


def lines(summary: dict[str, Any]) -> list[str]:
  """A summary in words."""
  mean = lambda name: '{mean:+.4f} [{low:+.4f}, {high:+.4f}]'.format(**summary[name])
  part = lambda fact: '{share:.3f} [{low:.3f}, {high:.3f}]'.format(**fact)
  said = []
  if 'gain' in summary:
    said += [
      f'true external gain of the promoted recipe: {mean("gain")}',
      (
        'regret against the best recipe that a long search of the truth finds: '
        f'{mean("regret")} of {summary["best"]["mean"]:+.4f}'
      ),
      (
        f'promoted something in {part(summary["promoted"])} of campaigns, something that is '
        f'truly no better in {part(summary["false_promotion"])}; ended more than .005 lower '
        f'in {part(summary["harmed"])}'
      ),
    ]
  if 'detected' in summary:
    said.append(
      f'the plant was detected in {part(summary["detected"])} of campaigns: '
      + ', '.join(f'{verdict} {part(fact)}' for verdict, fact in summary['detected_as'].items())
      + f'; rounds from its onset: {summary["rounds_from_onset_to_detection"]}'
    )
  if 'false_alarm' in summary:
    said.append(
      f'false alarms in {part(summary["false_alarm"])} of campaigns'
      + (
        f', by round {summary["false_alarms_by_round"]}'
        if summary.get('false_alarms_by_round')
        else ''
      )
    )
  said.append(f'{summary["campaigns_per_minute"]:.0f} campaigns a minute and process')
  return said


def as_json(found: Sequence[Outcome]) -> list[dict[str, Any]]:
  """Every campaign, JSON-able."""
  return [dataclasses.asdict(o) for o in found]
