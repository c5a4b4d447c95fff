"""Campaigns without an agent: random designs, judged many campaigns at a time.

They measure the power and the false alarms of verdicts, at thousands of campaigns a minute. Every
round has `simulation.anchors` trials of the starting recipe and random ones of a pool. What
`reversal.verdicts` decides stream by stream is computed here for whole arrays by the same tests.
tests/simulation/test_designs.py holds the two together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration
from aevo_jax.simulation.campaign import Outcome, Scores, Simulator
from aevo_jax.simulation.detector import OVERALL, Alarm, alarm_order, rules, variances
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.stats import rank_tests, slope_test
from aevo_jax.stats.slope_test import Moments

BATCH = 64  # campaigns at a time
TIE = 1e-9  # scores are moved by up to so much, which breaks ties by chance and moves nothing else


class Statistics(NamedTuple):
  """What `concordance.reduce_round` tells about rounds, [campaigns, streams, rounds] each."""

  discordant: np.ndarray
  sxx: np.ndarray
  sxy: np.ndarray
  syy: np.ndarray
  item_variance: np.ndarray


def run(scenario: Scenario, indices: Sequence[int]) -> list[Outcome]:
  """Runs campaigns by index.

  Args:
    scenario: what their worlds are drawn from.
    indices: of the campaigns.

  Returns:
    Outcomes with alarms and without gains.

  Raises:
    ValueError: the constitution chooses the exact test, which is run once and not after every
      round.
  """
  if scenario.constitution.reversal.test != 'e_process':
    raise ValueError(
      "--agents=none judges by the e-process; leave reversal.test = 'e_process', or name an agent"
    )
  outcomes = []
  for start in range(0, len(indices), BATCH):
    outcomes += _run_batch(scenario, indices[start : start + BATCH])
  return outcomes


def _run_batch(scenario: Scenario, indices: Sequence[int]) -> list[Outcome]:
  simulators = []
  dev = []
  external = []
  for index in indices:
    simulator = Simulator(scenario, index)
    scores = measure(simulator, scenario, index)
    simulators.append(simulator)
    dev.append(scores.dev)
    external.append(scores.external)
  outcomes = []
  all_alarms = judge(np.stack(dev), np.stack(external), scenario)
  for index, simulator, alarms in zip(indices, simulators, all_alarms, strict=True):
    outcomes.append(
      Outcome(
        index=index,
        gain=None,
        best=None,
        promotions=0,
        false_promotions=0,
        alarms=tuple(alarms),
        shift=simulator.onset,
      )
    )
  return outcomes


def measure(simulator: Simulator, scenario: Scenario, index: int) -> Scores:
  """Measures the random designs of a campaign.

  Args:
    simulator: of this campaign.
    scenario: its budget and pool of recipes.
    index: of the campaign, from which the designs follow.

  Returns:
    Scores on dev and external, [rounds, workers, F] each, without ties.
  """
  settings = scenario.settings
  budget = scenario.constitution.budget
  rng = np.random.default_rng([settings.seed, index, 4])
  shape = (budget.rounds, budget.workers)
  codes = scenario.pool[rng.integers(len(scenario.pool), size=shape)]
  codes[:, : settings.anchors] = scenario.encoder.codes({})
  rounds = np.repeat(np.arange(1, budget.rounds + 1), budget.workers)
  scores = simulator.scores(codes.reshape(len(rounds), -1), rounds)

  def without_ties(table: np.ndarray) -> np.ndarray:
    return table.reshape(*shape, -1) + TIE * rng.random((*shape, table.shape[1]))

  dev = without_ties(scores.dev)
  return Scores(dev, without_ties(scores.external))


def judge(dev: np.ndarray, external: np.ndarray, scenario: Scenario) -> list[list[Alarm]]:
  """Judges campaigns after each of their rounds.

  Args:
    dev: scores, [campaigns, rounds, workers, F].
    external: of the same trials.
    scenario: rules, budget and families.

  Returns:
    Of each campaign the first alarm of each stream, sorted by round and stream.
  """
  reversal = rules(scenario.constitution, scenario.settings.replays)
  streams = (*scenario.families, OVERALL)
  statistics = _statistics(dev, external, variances(dev, scenario.constitution.dev_set.items))
  workers = dev.shape[2]
  # With one family, it and overall are the same hypothesis.
  hypotheses = len(streams) if len(streams) > 2 else 1
  slope_p = _slope_p(statistics, streams, reversal, scenario)
  reversed_ckr = _reversed(statistics, workers, hypotheses, reversal)
  decoupled_ckr = _decoupled(statistics, workers, slope_p, reversal)
  alarms = []
  for reversed_kr, decoupled_kr in zip(reversed_ckr, decoupled_ckr, strict=True):
    first = []
    for stream, is_reversed, is_decoupled in zip(streams, reversed_kr, decoupled_kr, strict=True):
      alarm = _first_alarm(stream, is_reversed, is_decoupled)
      if alarm is not None:
        first.append(alarm)
    alarms.append(sorted(first, key=alarm_order))
  return alarms


def _first_alarm(stream: str, reversed_r: np.ndarray, decoupled_r: np.ndarray) -> Alarm | None:
  """Returns the first alarm of a stream's rounds; 'reversed' where a round has both."""
  for i, (is_reversed, is_decoupled) in enumerate(zip(reversed_r, decoupled_r, strict=True)):
    if is_reversed:
      return Alarm(i + 1, stream, 'reversed')
    if is_decoupled:
      return Alarm(i + 1, stream, 'decoupled')
  return None


def _statistics(dev: np.ndarray, external: np.ndarray, item_crk: np.ndarray) -> Statistics:
  """Computes the statistics of [campaigns, rounds, workers, F] scores; overall is the last."""

  def streams(scores: np.ndarray) -> np.ndarray:
    overall = scores.mean(axis=-1, keepdims=True)
    return np.concatenate([scores, overall], axis=-1).transpose(0, 3, 1, 2)

  first, second = np.triu_indices(dev.shape[2], 1)

  def ascends(scores: np.ndarray) -> np.ndarray:
    return scores[..., first] < scores[..., second]

  dev_ckrw = streams(dev)
  external_ckrw = streams(external)
  x = dev_ckrw - dev_ckrw.mean(axis=-1, keepdims=True)
  y = external_ckrw - external_ckrw.mean(axis=-1, keepdims=True)
  return Statistics(
    discordant=(ascends(dev_ckrw) != ascends(external_ckrw)).sum(axis=-1),
    sxx=(x * x).sum(axis=-1),
    sxy=(x * y).sum(axis=-1),
    syy=(y * y).sum(axis=-1),
    item_variance=item_crk.transpose(0, 2, 1),
  )


def _slope_p(
  statistics: Statistics, streams: Sequence[str], reversal: Reversal, scenario: Scenario
) -> np.ndarray:
  """Returns the critical p of the slope test, [campaigns, rounds], 0 where there is none."""
  budget = scenario.constitution.budget
  campaigns, _, rounds = statistics.sxx.shape
  slope_p = np.zeros((campaigns, rounds))
  for campaign in range(campaigns):
    history = [_round_rows(statistics, streams, budget.workers, campaign, i) for i in range(rounds)]
    for look in range(reversal.calibration_rounds, rounds):
      thresholds = calibration.thresholds(
        history[:look], reversal, budget.rounds, budget.workers, 0
      )
      slope_p[campaign, look] = thresholds.slope_p or 0.0
  return slope_p


def _round_rows(
  statistics: Statistics, streams: Sequence[str], workers: int, campaign: int, round_: int
) -> dict[str, dict]:
  """Returns stream -> a round's statistics, as `concordance.reduce_round` does."""
  rows = {}
  for k, stream in enumerate(streams):
    row = {'n': workers}
    for name, values in statistics._asdict().items():
      row[name] = values[campaign, k, round_].item()
    rows[stream] = row
  return rows


def _reversed(
  statistics: Statistics, workers: int, hypotheses: int, reversal: Reversal
) -> np.ndarray:
  """Decides by e-BH over streams, after every round; [campaigns, streams, rounds]."""
  running = rank_tests.e_process(
    rank_tests.e_value(statistics.discordant, workers), statistics.sxx.shape[-1]
  )
  rejected = rank_tests.e_bh(running[:, :hypotheses].transpose(0, 2, 1), reversal.alpha)
  return rejected.transpose(0, 2, 1).repeat(running.shape[1] // hypotheses, axis=1)


def _pool(statistics: Statistics, workers: int, start: int, stop: int) -> Moments:
  """Adds up the moments of some rounds."""
  rounds = stop - start

  def total(values: np.ndarray) -> np.ndarray:
    return values[..., start:stop].sum(axis=-1)

  return Moments(
    n=workers * rounds,
    groups=rounds,
    sxx=total(statistics.sxx),
    sxy=total(statistics.sxy),
    syy=total(statistics.syy),
    item=(workers - 1) * total(statistics.item_variance),
  )


def _decoupled(
  statistics: Statistics, workers: int, slope_p: np.ndarray, reversal: Reversal
) -> np.ndarray:
  """Decides by the slope test against the calibration rounds; [campaigns, streams, rounds].

  Both windows count: all rounds since calibration, and the last round alone. Without a usable
  reference there is no alarm.
  """
  decoupled = np.zeros(statistics.sxx.shape, bool)
  calibrated = reversal.calibration_rounds
  rounds = decoupled.shape[-1]
  if calibrated >= rounds:
    return decoupled
  reference = _pool(statistics, workers, 0, calibrated)
  usable = (
    reference.comparable
    & (reference.reliability > 0)
    & (slope_test.positive_p(reference) <= reversal.alpha)
  )
  for look in range(calibrated, rounds):
    for start in (calibrated, look):
      now = _pool(statistics, workers, start, look + 1)
      p = slope_test.fell(reference, now).p
      decoupled[..., look] |= usable & now.comparable & (p <= slope_p[:, None, look])
  return decoupled
