"""One round's evidence: fixed schema, from sealed results and released scores only. Nothing else reaches the meta agent.

    {"schema": 1, "round": 2,
     "standing": {selector: value},                       the standing recipe's overlay
     "trials": [{"trial", "worker", "axis", "changes": {selector: value}, "status", "cause",
                 "dev": {"overall", "by_family"} or null, "external": released score or null, "external_rank": rank or null,
                 "cost": {"tokens", "steps", "flops"}}],
     "noise": {"seed_sd", "degrees_of_freedom", "replicates"},
     "llm": {"tokens_in", "tokens_out", "money"}}            what a language model took for the round's policy and its workers' choices

Costs are counts, not seconds, so that a campaign repeats exactly.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SCHEMA = 1


def seed_noise(groups: Sequence[Sequence[float]], floor: float) -> dict[str, float]:
  """Pooled standard deviation between seeds of the same recipe.

  Args:
    groups: overall dev accuracies, one group for each recipe that was trained on several seeds.
    floor: the least value ever assumed.

  Returns:
    seed_sd (floor applied), degrees_of_freedom, replicates (number of trials in groups of two or more).
  """
  replicated = [np.asarray(g, np.float64) for g in groups if len(g) > 1]
  dof = sum(len(g) - 1 for g in replicated)
  variance = sum(((g - g.mean()) ** 2).sum() for g in replicated) / dof if dof else 0.0
  return {'seed_sd': round(max(math.sqrt(variance), floor), 6), 'degrees_of_freedom': dof, 'replicates': sum(map(len, replicated))}


def trial_row(*, trial: str, worker: int, axis: str, changes: dict[str, Any], status: str, cause: str, dev: dict | None, external: float | None,
              external_rank: int | None, cost: dict[str, int]) -> dict[str, Any]:
  """One trial's entry."""
  shown = None if dev is None else {
      'overall': dev['overall'], 'by_family': dev['by_family'], 'other_verifier': dev['other_verifier']}
  return {'trial': trial, 'worker': worker, 'axis': axis, 'changes': changes, 'status': status, 'cause': cause, 'dev': shown, 'external': external,
          'external_rank': external_rank, 'cost': cost}


def collect(*, round_: int, standing: dict[str, Any], trials: Sequence[dict], noise: dict[str, float]) -> dict[str, Any]:
  """The round's evidence."""
  return {'schema': SCHEMA, 'round': round_, 'standing': standing, 'trials': list(trials), 'noise': noise}
