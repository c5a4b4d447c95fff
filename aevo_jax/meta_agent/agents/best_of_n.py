"""Best of N: every trial a random recipe, and the best one by dev is kept at the end.

This is what a person does who trusts the proxy: no evidence changes what is tried next. The best
trial counts only if its external score was released. Recipes are sampled as in `random_search`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents import random_search
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import Policy


class BestOfN(Agent):
  """Samples every recipe at random, and promotes the best by dev after the last round."""

  changes_are_whole = True
  promotes_last = True

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Samples the explorers; arguments as in `Agent`. Every anchor stays the starting recipe."""
    scored = 0
    best = 0.0
    chosen: Mapping[str, Any] = {}
    for evidence in history:
      for trial in evidence.trials:
        if trial.dev is None or trial.external is None:
          continue
        scored += 1
        accuracy = trial.dev.overall.accuracy
        # The earliest of equals, and the first whatever its score.
        if scored == 1 or accuracy > best:
          best = accuracy
          chosen = {} if trial.is_anchor else trial.changes
    if policy.round < constitution.budget.rounds:
      chosen = {}
    count = constitution.budget.workers - 1
    explorers = random_search.sample_recipes(constitution, defaults, count, [seed, policy.round])
    following = random_search.policy_of(policy, dict(chosen), explorers)
    if not chosen:
      return following
    reason = f'best of {scored} trials by dev: {best:.3f}'
    return dataclasses.replace(following, reasons=(reason,))
