"""Best of N: every trial a random recipe, and the best one by dev is kept at the end.

This is what a person does who trusts the proxy: no evidence changes what is tried next. The best
trial counts only if its external score was released. Recipes are sampled as in `random_search`.
`BestOfNTested` repeats in the last round what gained, and asks the promotion rule once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agents import peers, random_search
from aevo_jax.meta_agent.agents.peers import Best, Peer, Situation
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import Assignment, Policy


class BestOfN(Peer):
  """Samples every recipe at random, and promotes the best by dev after the last round."""

  promotes_last = True

  def best(self, history: Sequence[Evidence], policy: Policy, constitution: Constitution) -> Best:
    """Finds the best released trial by dev; arguments as in `Peer`."""
    if self.tested:
      return peers.best_tested(history, policy, constitution)
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
    reasons = (f'best of {scored} trials by dev: {best:.3f}',) if chosen else ()
    return Best(dict(chosen), reasons)

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Samples the explorers; arguments as in `Peer`. Every anchor is the starting recipe."""
    again = []
    if self.tested and situation.round + 1 == situation.constitution.budget.rounds:
      again = peers.retests(situation.history, situation.standing, situation.constitution)
    seed = [situation.seed, situation.round]
    fresh = random_search.sample_recipes(
      situation.constitution, situation.defaults, count - len(again), seed
    )
    return again + fresh


class BestOfNTested(BestOfN):
  """Best of N under the promotion rule."""

  tested = True
