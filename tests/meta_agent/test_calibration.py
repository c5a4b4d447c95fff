"""Thresholds: what they are where theory knows, and what they hold in campaigns simulated trial by
trial.
"""

import math
import time

import numpy as np
import pytest

from aevo_jax.config.constitution import Reversal
from aevo_jax.meta_agent.drift import calibration, reversal
from aevo_jax.stats import concordance

RULES = Reversal()


def simulated(rng, streams, n=8, slope=0.8, spread=1.0, noise=0.0, known=True) -> dict:
  """One round's rows from scores."""
  true = spread * rng.standard_normal((streams, n))
  external = slope * true + 0.6 * rng.standard_normal(true.shape)

  def by(values):
    return {f's{i}': dict(enumerate(row)) for i, row in enumerate(values)}

  return concordance.reduce_round(
    by(true + noise * rng.standard_normal(true.shape)),
    by(external),
    {f's{i}': noise**2 for i in range(streams)} if known else {},
    0,
  )


def test_nothing_is_fixed_before_the_calibration_rounds_are_over():
  rows = [simulated(np.random.default_rng(0), 2)]
  for done in (0, 1):
    fixed = calibration.thresholds(rows[:done], RULES, 4, 8, 0)
    assert (fixed.round, fixed.slope_p, fixed.replays) == (done + 1, None, 0)


def test_one_look_at_independent_streams_is_sidaks_bound():
  """With one look the windows are one, so a stream alarms with probability p, and K streams with 1
  - (1 - p)^K.
  """
  for streams in (1, 5):
    rows = [simulated(np.random.default_rng(1), streams, known=False) for _ in range(2)]
    rules = Reversal(replays=20_000)
    sidak = 1 - (1 - 0.05) ** (1 / streams)
    # The bound is held with confidence, so about 5% below the quantile of 20,000; Satterthwaite is
    # off by a few percent so far out.
    assert calibration.thresholds(rows, rules, 3, 8, 0).slope_p == pytest.approx(sidak, rel=0.15)


def test_more_looks_and_streams_mean_a_stricter_p_never_below_bonferroni():
  rows = [simulated(np.random.default_rng(2), 3, known=False) for _ in range(2)]
  p = {planned: calibration.thresholds(rows, RULES, planned, 8, 0).slope_p for planned in (3, 4, 8)}
  assert p[3] > p[4] > p[8] > 0.05 / (3 * (2 * 6 - 1)) * 0.7


def test_a_function_of_rows_and_seed_alone_and_quick():
  rows = [simulated(np.random.default_rng(3), 7, noise=0.7) for _ in range(3)]
  started = time.process_time()
  fixed = calibration.thresholds(rows, RULES, 6, 8, seed=5)
  assert time.process_time() - started < 2
  calibration._critical_p.cache_clear()
  calibration._draws.cache_clear()
  turned = [{f'x{name}': row for name, row in reversed(r.items())} for r in rows]
  assert calibration.thresholds(turned, RULES, 6, 8, seed=5) == fixed
  assert calibration.thresholds(rows, RULES, 6, 8, seed=6).slope_p != fixed.slope_p


def test_a_shrinking_spread_with_item_noise_is_judged_more_strictly():
  rng = np.random.default_rng(4)
  first = [simulated(rng, 6, noise=0.5) for _ in range(2)]
  narrow, wide = ([*first, simulated(rng, 6, noise=0.5, spread=s)] for s in (0.3, 1.0))
  assert (
    calibration.thresholds(narrow, RULES, 6, 8, 0).slope_p
    < calibration.thresholds(wide, RULES, 6, 8, 0).slope_p
  )


def test_missing_streams_and_flat_scores_do_not_stop_it():
  rng = np.random.default_rng(5)
  rows = [simulated(rng, 3, known=False) for _ in range(3)]
  for row in rows:
    row['s1'] |= {'sxx': 0.0, 'sxy': 0.0}
  del rows[0]['s2'], rows[2]['s0']
  assert 0 < calibration.thresholds(rows, RULES, 5, 8, 0).slope_p < 0.05


@pytest.mark.parametrize(('slope', 'noise'), [(0.8, 0.0), (0.8, 0.5), (0.0, 0.0)])
def test_alarms_of_whole_campaigns(slope, noise):
  """Both alarms together, two streams, four rounds, trial by trial. The bound is what a rate of .05
  exceeds once in a thousand.
  """
  campaigns, alarms = 120, 0
  for seed in range(campaigns):
    rng, rows = np.random.default_rng([6, seed]), []
    for _ in range(4):
      fixed = calibration.thresholds(rows, RULES, 4, 8, 0)
      rows.append(simulated(rng, 2, slope=slope, noise=noise))
      if any(
        v.verdict in ('reversed', 'decoupled')
        for v in reversal.verdicts(rows, RULES, fixed).values()
      ):
        alarms += 1
        break
  assert alarms <= 0.05 * campaigns + 3.1 * math.sqrt(0.05 * 0.95 * campaigns)
