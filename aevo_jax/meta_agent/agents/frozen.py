"""The ablation: a policy that is never revised.

Every round but the last explores from the starting recipe as the first did, with fresh samples and
nothing learnt. The last round looks again at the change with the best released score, as often as
scores are released, and then the promotion rule is applied once. Rounds, workers and final are
those of any other agent, so a campaign of it has the same total budget; `aevo compare` sets the two
side by side.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.statistical import Statistical, promotion_reason
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.observations import observe, significant
from aevo_jax.meta_agent.policy import Assignment, Policy


class Frozen(Agent):
  """Decides every round as the statistical agent decides the first one."""

  promotes_last = True

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Forgets all rounds but the first, until the last; arguments as in `Agent`."""
    ignorant = dataclasses.replace(
      policy, standing={}, promoted={}, demoted=(), dead_ends=(), reasons=()
    )
    fresh = Statistical().decide(history[:1], ignorant, constitution, defaults, seed)
    fresh = dataclasses.replace(fresh, parent=policy.digest())
    left = constitution.budget.rounds - policy.round
    if left == 1:
      return dataclasses.replace(fresh, assignments=_last(history, fresh, constitution))
    if left:
      return fresh
    winner = significant(history, constitution).winner
    if winner is None:
      return fresh
    return dataclasses.replace(
      fresh,
      standing=dict(winner.changes),
      promoted={winner.axis: dict(winner.changes)},
      reasons=(promotion_reason(winner, history[-1].noise.external, constitution),),
    )


def _last(
  history: Sequence[Evidence], fresh: Policy, constitution: Constitution
) -> tuple[Assignment, ...]:
  """The last round's assignments: looks at the best change take the place of fresh ones."""
  best = None
  for observation in observe(history).values():
    if observation.external and (best is None or observation.external[0] > best.external[0]):
      best = observation
  if best is None:
    return fresh.assignments
  anchor, *others = fresh.assignments
  reason = f'a further look at what gained {best.external[0]:+.3f} on external'
  look = Assignment(best.axis, best.changes, best.changes, reason)
  looks = [look] * min(constitution.release.per_round - 1, len(others))
  return (anchor, *looks, *others[len(looks) :])
