"""Many campaigns of several agents, and summaries of them, each figure with its interval."""

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.meta_agent.drift.reversal import ALARMS
from aevo_jax.simulation import designs
from aevo_jax.simulation.campaign import Outcome, run
from aevo_jax.simulation.detector import OVERALL, Alarm
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.stats.intervals import wilson

NO_AGENT = 'none'  # random designs, for the verdicts alone
HARM = 0.005  # a campaign whose gain is below minus this harmed


class Campaigns(NamedTuple):
  """Campaigns of one agent in order, and seconds of all processes together."""

  outcomes: list[Outcome]
  seconds: float


def outcomes(
  scenario: Scenario, agents: Sequence[str], campaigns: int, processes: int = 1
) -> dict[str, Campaigns]:
  """Runs campaigns 0 ... campaigns - 1 of every agent, on the same worlds for all agents.

  Args:
    scenario: what the worlds are drawn from.
    agents: names, or NO_AGENT.
    campaigns: of each agent.
    processes: that share the campaigns of an agent.

  Returns:
    agent -> its campaigns.
  """
  if processes == 1:
    return {agent: _chunk(scenario, agent, range(campaigns)) for agent in agents}
  context = multiprocessing.get_context('spawn')
  by_agent = {}
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    for agent in agents:
      futures = []
      for k in range(min(4 * processes, campaigns)):
        indices = range(k, campaigns, 4 * processes)
        futures.append(pool.submit(_chunk, scenario, agent, indices))
      merged = []
      seconds = 0
      for future in futures:
        part = future.result()
        merged += part.outcomes
        seconds += part.seconds
      by_agent[agent] = Campaigns(sorted(merged, key=lambda o: o.index), seconds)
  return by_agent


def _chunk(scenario: Scenario, agent: str, indices: range) -> Campaigns:
  started = time.perf_counter()
  if agent == NO_AGENT:
    campaigns = designs.run(scenario, indices)
  else:
    campaigns = [run(scenario, agent, index) for index in indices]
  return Campaigns(campaigns, time.perf_counter() - started)


def mean_interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
  """Computes a mean and its normal 95% interval.

  Args:
    values: of campaigns.

  Returns:
    'mean', 'low' and 'high', rounded to 5 decimals. Of one value the bounds are nan.
  """
  mean = float(np.mean(values))
  error = float('nan')
  if len(values) > 1:
    error = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
  return {'mean': round(mean, 5), 'low': round(mean - error, 5), 'high': round(mean + error, 5)}


def share(count: int, total: int) -> dict[str, float]:
  """Computes a share of campaigns with its Wilson interval.

  Args:
    count: campaigns that are counted.
    total: all campaigns.

  Returns:
    'share', 'low' and 'high', rounded to 4 decimals, and 'campaigns'.
  """
  interval = wilson(count, total)
  return {
    'share': round(count / total, 4),
    'low': round(interval.low, 4),
    'high': round(interval.high, 4),
    'campaigns': total,
  }


def summary(campaigns: Sequence[Outcome], seconds: float) -> dict[str, Any]:
  """Summarizes one agent's campaigns.

  An alarm counts as detection if it names the shifted family, or overall, in the shift's first
  round or later. Every other alarm is a false one, and where nothing is injected every alarm is.

  Args:
    campaigns: of one agent.
    seconds: that they took, of all processes together.

  Returns:
    A record for JSON. Gains are left out where there was no agent, alarms where nothing was judged,
    detections where nothing was injected.
  """
  facts: dict[str, Any] = {
    'campaigns': len(campaigns),
    'campaigns_per_minute': round(60 * len(campaigns) / seconds, 1),
  }
  if campaigns[0].gain is not None:
    facts |= _gains(campaigns)
  if campaigns[0].alarms is not None:
    facts |= _alarms(campaigns)
  return facts


def _gains(campaigns: Sequence[Outcome]) -> dict[str, Any]:
  gains = np.array([o.gain for o in campaigns])
  best = np.array([o.best for o in campaigns])
  promotions = np.array([o.promotions for o in campaigns])
  false_promotions = np.array([o.false_promotions for o in campaigns])
  return {
    'gain': mean_interval(gains),
    'regret': mean_interval(best - gains),
    'best': mean_interval(best),
    'promoted': _share_of(promotions > 0),
    'false_promotion': _share_of(false_promotions > 0),
    'harmed': _share_of(gains < -HARM),
  }


def _share_of(flags: np.ndarray) -> dict[str, float]:
  """Returns the share of campaigns whose flag is set."""
  return share(int(flags.sum()), len(flags))


def _detections(outcome: Outcome) -> list[Alarm]:
  """Returns the alarms of a campaign that name its shift."""
  shift = outcome.shift
  if shift is None:
    return []
  streams = (shift.family, OVERALL)
  return [a for a in outcome.alarms if a.stream in streams and a.round >= shift.round]


def _alarms(campaigns: Sequence[Outcome]) -> dict[str, Any]:
  false = []
  detected = []
  verdicts = []
  first_rounds = []
  delays = []
  for outcome in campaigns:
    right = _detections(outcome)
    false.append(len(outcome.alarms) > len(right))
    detected.append(len(right) > 0)
    verdicts.append({alarm.verdict for alarm in right})
    if outcome.alarms:
      first_rounds.append(_first_round(outcome.alarms))
    if right:
      delays.append(_first_round(right) - outcome.shift.round)
  facts: dict[str, Any] = {'false_alarm': _share_of(np.array(false))}
  if not campaigns[0].shift:
    return facts | {'false_alarms_by_round': _histogram(first_rounds)}
  facts['detected'] = _share_of(np.array(detected))
  facts['detected_as'] = {}
  for verdict in ALARMS:
    has_verdict = np.array([verdict in kinds for kinds in verdicts])
    facts['detected_as'][verdict] = _share_of(has_verdict)
  return facts | {'rounds_from_onset_to_detection': _histogram(delays)}


def _first_round(alarms: Sequence[Alarm]) -> int:
  return min([alarm.round for alarm in alarms])


def _histogram(rounds: Sequence[int]) -> dict[str, int]:
  """Returns round -> how often it comes, as text, in the order of rounds."""
  return {str(round_): count for round_, count in sorted(Counter(rounds).items())}


def lines(summary: dict[str, Any]) -> list[str]:
  """Writes a summary in words.

  Args:
    summary: as `summary` returns it.

  Returns:
    One line for each figure that is there.
  """
  text = []
  if 'gain' in summary:
    text += [
      f'true external gain of the promoted recipe: {_mean_text(summary["gain"])}',
      (
        'regret against the best recipe that a long search of the truth finds: '
        f'{_mean_text(summary["regret"])} of {summary["best"]["mean"]:+.4f}'
      ),
      (
        f'promoted something in {_share_text(summary["promoted"])} of campaigns, something that is '
        f'truly no better in {_share_text(summary["false_promotion"])}; ended more than .005 lower '
        f'in {_share_text(summary["harmed"])}'
      ),
    ]
  if 'detected' in summary:
    kinds = [f'{verdict} {_share_text(fact)}' for verdict, fact in summary['detected_as'].items()]
    text.append(
      f'the plant was detected in {_share_text(summary["detected"])} of campaigns: '
      f'{", ".join(kinds)}; rounds from its onset: {summary["rounds_from_onset_to_detection"]}'
    )
  if 'false_alarm' in summary:
    line = f'false alarms in {_share_text(summary["false_alarm"])} of campaigns'
    if summary.get('false_alarms_by_round'):
      line += f', by round {summary["false_alarms_by_round"]}'
    text.append(line)
  text.append(f'{summary["campaigns_per_minute"]:.0f} campaigns a minute and process')
  return text


def _mean_text(fact: dict[str, float]) -> str:
  return '{mean:+.4f} [{low:+.4f}, {high:+.4f}]'.format(**fact)


def _share_text(fact: dict[str, float]) -> str:
  return '{share:.3f} [{low:.3f}, {high:.3f}]'.format(**fact)


def as_json(campaigns: Sequence[Outcome]) -> list[dict[str, Any]]:
  """Turns campaigns into records for JSON.

  Args:
    campaigns: of one agent.

  Returns:
    A record each, in which 'plant' is the injected shift.
  """
  records = []
  for outcome in campaigns:
    record = dataclasses.asdict(outcome)
    record['plant'] = record.pop('shift')
    records.append(record)
  return records
