"""The ablation: a policy that is never revised.

Every round explores from the starting recipe as the first did, with fresh samples and nothing
learnt. After the last round the promotion rule is applied once, to the evidence of all rounds.
Rounds, workers and final are those of any other agent, so a campaign of it has the same total
budget; `aevo compare` sets the two side by side.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.statistical import Statistical, promotion_reason
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.observations import observe, significant
from aevo_jax.meta_agent.policy import Policy


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
    if policy.round < constitution.budget.rounds:
      return fresh
    trials = []
    for evidence in history:
      trials += evidence.trials
    everything = dataclasses.replace(history[-1], trials=tuple(trials))
    winner = significant(observe(history), everything, constitution)
    if winner is None:
      return fresh
    return dataclasses.replace(
      fresh,
      standing=dict(winner.changes),
      promoted={winner.axis: dict(winner.changes)},
      reasons=(promotion_reason(winner, everything.noise),),
    )
