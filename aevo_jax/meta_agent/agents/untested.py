"""The ablation of the promotion rule: the statistical agent that keeps the best released score.

It assigns workers as the statistical agent does, repeats included. Beside that agent it shows what
the rule costs and what it prevents; beside peers that keep the best score, what estimate and choice
of recipes are worth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import prune
from aevo_jax.meta_agent.agents.statistical import Standing, Statistical
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.observations import by_axis
from aevo_jax.meta_agent.policy import Policy


class Untested(Statistical):
  """Takes the recipe with the best released score as standing, without a test."""

  def standing(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
  ) -> Standing:
    """Finds the best released score, the earliest of equals; arguments as in `Agent`."""
    space = constitution.space()
    best = -1.0
    standing = dict(policy.standing)
    for evidence in history:
      for trial in evidence.trials:
        if trial.external is not None and trial.external > best:
          best = trial.external
          standing = prune({**evidence.standing, **trial.changes}, space, defaults)
    if standing == policy.standing:
      return Standing(standing, dict(policy.promoted), ())
    reason = f'best released external score so far: {best:.2f}'
    return Standing(standing, by_axis(standing, space), (reason,))
