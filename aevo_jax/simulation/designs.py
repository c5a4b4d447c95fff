"""Campaigns without an agent: random designs, for the power and the false alarms of verdicts.

Every round has `simulation.anchors` trials of the starting recipe and random ones of a pool. The
verdicts are those of a real campaign.
"""

from collections.abc import Sequence

import numpy as np

from aevo_jax.simulation.campaign import Outcome, Simulator
from aevo_jax.simulation.scenario import Scenario


def run(scenario: Scenario, indices: Sequence[int]) -> list[Outcome]:
  """Runs campaigns by index.

  Args:
    scenario: what their worlds are drawn from.
    indices: of the campaigns.

  Returns:
    Outcomes with alarms and without gains.
  """
  outcomes = []
  for index in indices:
    simulator = Simulator(scenario, index)
    _judge(simulator, scenario, index)
    outcomes.append(
      Outcome(
        index=index,
        gain=None,
        best=None,
        promotions=0,
        false_promotions=0,
        alarms=tuple(simulator.detector.alarms),
        shift=simulator.onset,
      )
    )
  return outcomes


def _judge(simulator: Simulator, scenario: Scenario, index: int) -> None:
  """Plays and judges the random designs of a campaign."""
  settings = scenario.settings
  budget = scenario.constitution.budget
  rng = np.random.default_rng([settings.seed, index, 4])
  starting = scenario.encoder.codes({})
  replicates = np.repeat(starting[None], budget.noise_seeds, axis=0)
  simulator.start([f'start{k}' for k in range(len(replicates))], simulator.measure(replicates, 0))
  names = [str(worker) for worker in range(budget.workers)]
  for round_ in range(1, budget.rounds + 1):
    codes = scenario.pool[rng.integers(len(scenario.pool), size=budget.workers)]
    codes[: settings.anchors] = starting
    simulator.judge(names, simulator.measure(codes, round_), names[: settings.anchors])
