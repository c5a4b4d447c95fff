"""Best of N: every trial a random draw, the best one by dev is what is kept, if its external score
was released.

What a person does who trusts the proxy: no evidence changes what is tried next. Draws are those of
`random_agent`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agents import random_search
from aevo_jax.meta_agent.policy import ANCHOR, Policy


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """As `statistical_agent.decide`. Every anchor stays the starting recipe: what is best by dev is
  chosen once, after the last round.
  """
  scored = [
    (trial['dev']['overall']['accuracy'], {} if trial['axis'] == ANCHOR else trial['changes'])
    for evidence in history
    for trial in evidence['trials']
    if trial['dev'] is not None and trial['external'] is not None
  ]
  done = policy.round >= constitution.budget.rounds and bool(scored)
  best, chosen = (
    max(scored, key=lambda pair: pair[0]) if done else (0.0, {})
  )  # the earliest of equals
  drawn = random_search.draw_recipes(
    constitution, defaults, constitution.budget.workers - 1, [seed, policy.round]
  )
  reasons = (f'best of {len(scored)} trials by dev: {best:.3f}',) if chosen else ()
  return dataclasses.replace(random_search.policy_of(policy, chosen, drawn), reasons=reasons)
