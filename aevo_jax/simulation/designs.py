"""Campaigns without an agent: random designs, judged many campaigns at a time. For the power and
the false alarms of verdicts, thousands of campaigns a minute.

Every round has `simulation.anchors` trials of the starting recipe and random ones of a pool. What
`reversal.verdicts` decides stream by stream is computed here for whole arrays by the same tests;
tests/simulation/test_designs.py holds the two together.
"""

from collections.abc import Sequence

import numpy as np

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration
from aevo_jax.simulation.campaign import Outcome, Play, planted
from aevo_jax.simulation.detector import OVERALL, Alarm, rules, variances
from aevo_jax.simulation.scenario import Scenario
from aevo_jax.stats import rank_tests, slope_test
from aevo_jax.stats.slope_test import Moments

BATCH = 64  # campaigns at a time
TIE = 1e-9  # scores are moved by up to so much, which breaks ties by chance and moves nothing else


def run(scenario: Scenario, indices: Sequence[int]) -> list[Outcome]:
  """Campaigns by index, with alarms and without gains.

  Raises:
    ValueError: the constitution chooses the exact test, which is run once and not after every
      round.
  """
  if scenario.constitution.reversal.test != 'e_process':
    raise ValueError(
      "--agents=none judges by the e-process; leave reversal.test = 'e_process', or name an agent"
    )
  found = []
  for start in range(0, len(indices), BATCH):
    batch = indices[start : start + BATCH]
    plays = [Play(scenario, index) for index in batch]
    scores = [measure(play, scenario, index) for play, index in zip(plays, batch)]
    alarms = judge(
      np.stack([dev for dev, _ in scores]), np.stack([external for _, external in scores]), scenario
    )
    found += [
      Outcome(index, None, None, 0, 0, tuple(a), planted(play, scenario))
      for index, play, a in zip(batch, plays, alarms)
    ]
  return found


def measure(play: Play, scenario: Scenario, index: int) -> tuple[np.ndarray, np.ndarray]:
  """[rounds, workers, F] scores of a campaign's designs on dev and external, without ties."""
  settings, budget = scenario.settings, scenario.constitution.budget
  rng = np.random.default_rng([settings.seed, index, 4])
  shape = budget.rounds, budget.workers
  codes = scenario.pool[rng.integers(len(scenario.pool), size=shape)]
  codes[:, : settings.anchors] = scenario.encoder.codes({})
  rounds = np.repeat(np.arange(1, budget.rounds + 1), budget.workers)
  scores = play.scores(codes.reshape(len(rounds), -1), rounds)
  return tuple(s.reshape(*shape, -1) + TIE * rng.random((*shape, s.shape[1])) for s in scores)


def judge(dev: np.ndarray, external: np.ndarray, scenario: Scenario) -> list[list[Alarm]]:
  """The first alarm of each stream of each campaign. dev, external: [C, R, W, F]."""
  reversal, streams = (
    rules(scenario.constitution, scenario.settings.replays),
    (*scenario.families, OVERALL),
  )
  item = variances(dev, scenario.constitution.dev_set.items)
  dev, external = (
    np.concatenate([s, s.mean(axis=-1, keepdims=True)], axis=-1).transpose(0, 3, 1, 2)
    for s in (dev, external)
  )  # [C, K, R, W]
  hypotheses = len(streams) if len(streams) > 2 else 1  # one family and overall are the same
  rows = _rows(dev, external, item)
  slope_p = _slope_p(rows, streams, reversal, scenario)
  reversed_ = _reversed(rows, dev.shape[-1], hypotheses, reversal)
  decoupled = _decoupled(rows, dev.shape[-1], slope_p, reversal)
  alarms = []
  for campaign in range(len(dev)):
    first = [
      next(
        (
          Alarm(r + 1, stream, verdict)
          for r in range(dev.shape[2])
          for verdict, said in (('reversed', reversed_), ('decoupled', decoupled))
          if said[campaign, k, r]
        ),
        None,
      )
      for k, stream in enumerate(streams)
    ]
    alarms.append(sorted(filter(None, first), key=lambda a: (a.round, a.stream)))
  return alarms


def _rows(dev: np.ndarray, external: np.ndarray, item: np.ndarray) -> dict[str, np.ndarray]:
  """The fields of `concordance.reduce_round`, [C, K, R] each."""
  x, y = (s - s.mean(axis=-1, keepdims=True) for s in (dev, external))
  pairs = np.triu_indices(dev.shape[-1], 1)
  apart = lambda s: s[..., pairs[0]] < s[..., pairs[1]]
  return {
    'discordant': (apart(dev) != apart(external)).sum(axis=-1),
    'sxx': (x * x).sum(axis=-1),
    'sxy': (x * y).sum(axis=-1),
    'syy': (y * y).sum(axis=-1),
    'item_variance': item.transpose(0, 2, 1),
  }


def _slope_p(
  rows: dict[str, np.ndarray], streams: Sequence[str], reversal: Reversal, scenario: Scenario
) -> np.ndarray:
  """[C, R] critical p of the slope test, 0 where there is none."""
  budget, (count, _, rounds) = scenario.constitution.budget, rows['sxx'].shape
  found = np.zeros((count, rounds))
  for campaign in range(count):
    history = [
      {
        stream: {'n': budget.workers}
        | {name: field[campaign, k, r].item() for name, field in rows.items()}
        for k, stream in enumerate(streams)
      }
      for r in range(rounds)
    ]
    for look in range(reversal.calibration_rounds, rounds):
      found[campaign, look] = (
        calibration.thresholds(history[:look], reversal, budget.rounds, budget.workers, 0).slope_p
        or 0.0
      )
  return found


def _reversed(
  rows: dict[str, np.ndarray], workers: int, hypotheses: int, reversal: Reversal
) -> np.ndarray:
  """[C, K, R]: e-BH over streams, after every round."""
  running = rank_tests.e_process(
    rank_tests.e_value(rows['discordant'], workers), rows['sxx'].shape[-1]
  )
  return (
    rank_tests.e_bh(running[:, :hypotheses].transpose(0, 2, 1), reversal.alpha)
    .transpose(0, 2, 1)
    .repeat(running.shape[1] // hypotheses, axis=1)
  )


def _decoupled(
  rows: dict[str, np.ndarray], workers: int, slope_p: np.ndarray, reversal: Reversal
) -> np.ndarray:
  """[C, K, R]: the slope test against the calibration rounds, in both windows, where there is a
  reference.
  """

  def pool(start: int, stop: int) -> Moments:
    total = lambda name: rows[name][..., start:stop].sum(axis=-1)
    return Moments(
      workers * (stop - start),
      stop - start,
      total('sxx'),
      total('sxy'),
      total('syy'),
      (workers - 1) * total('item_variance'),
    )

  found, calibrated = np.zeros(rows['sxx'].shape, bool), reversal.calibration_rounds
  if calibrated >= found.shape[-1]:
    return found
  reference = pool(0, calibrated)
  usable = (
    reference.comparable
    & (reference.reliability > 0)
    & (slope_test.positive_p(reference) <= reversal.alpha)
  )
  for look in range(calibrated, found.shape[-1]):
    for now in (pool(calibrated, look + 1), pool(look, look + 1)):
      found[..., look] |= (
        usable & now.comparable & (slope_test.fell(reference, now).p <= slope_p[:, None, look])
      )
  return found
