"""The ablation: a policy that is never revised. Every round explores from the starting recipe as
the first did, with fresh draws and nothing learnt.

After the last round the promotion rule is applied once, to the evidence of all rounds. Rounds,
workers and final are those of any other agent, so a campaign of it has the same total budget; `aevo
compare` sets the two side by side.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agents import statistical
from aevo_jax.meta_agent.policy import Policy


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """As `statistical_agent.decide`."""
  ignorant = dataclasses.replace(
    policy, standing={}, promoted={}, demoted=(), dead_ends=(), reasons=()
  )
  fresh = statistical.decide(history[:1], ignorant, constitution, defaults, seed)
  fresh = dataclasses.replace(fresh, parent=policy.digest())
  if policy.round < constitution.budget.rounds:
    return fresh
  everything = history[-1] | {
    'trials': [trial for evidence in history for trial in evidence['trials']]
  }
  for observation in statistical.significant(
    statistical.observe(history), [everything], constitution
  ):
    return dataclasses.replace(
      fresh,
      standing=dict(observation.changes),
      promoted={observation.axis: dict(observation.changes)},
      reasons=(statistical.promotion_reason(observation, everything['noise']),),
    )
  return fresh
