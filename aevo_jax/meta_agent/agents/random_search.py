"""Random search under the same budget and the same gate: the peer every other agent must beat.

Each worker draws every axis with probability 1/2 and leaves the others at the default; the standing
recipe is the trial with the best released external score so far, the starting recipe included.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import draw, prune
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

AXIS = 'random'


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """As `statistical_agent.decide`."""
  standing, reasons = best_released(history, policy)
  return policy_of(
    policy,
    standing,
    draw_recipes(constitution, defaults, constitution.budget.workers - 1, [seed, policy.round]),
    reasons=reasons,
  )


def best_released(
  history: Sequence[dict], policy: Policy
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """(the recipe with the best released external score so far, the earliest of equals; why the
  standing one changes, if it does).
  """
  best, standing = -1.0, dict(policy.standing)
  for evidence in history:
    for trial in evidence['trials']:
      overlay = evidence['standing'] if trial['axis'] == ANCHOR else trial['changes']
      if trial['external'] is not None and trial['external'] > best:
        best, standing = trial['external'], dict(overlay)
  measure = (
    'consensus of the proxies'
    if history[-1].get('target') == 'proxies'
    else 'released external score'
  )
  return standing, (f'best {measure} so far: {best:.2f}',) if standing != policy.standing else ()


def draw_recipes(
  constitution: Constitution, defaults: dict[str, Any], count: int, seed: Sequence[int]
) -> list[Assignment]:
  """Recipes that differ from the default one, each axis drawn with probability 1/2."""
  space, rng, drawn = constitution.space(), np.random.default_rng(seed), []
  while len(drawn) < count:
    overlay: dict[str, Any] = {}
    for axis in space.axes:
      setting = draw(axis, rng, {**defaults, **overlay})
      if rng.random() < 0.5:
        overlay |= setting
    overlay = prune(overlay, space, defaults)
    if overlay:
      drawn.append(Assignment(AXIS, overlay, overlay, 'random draw'))
  return drawn


def policy_of(
  policy: Policy,
  standing: dict[str, Any],
  explorers: Sequence[Assignment],
  reasons: tuple[str, ...] = (),
) -> Policy:
  """The next policy of an agent that keeps no registry: an anchor, and the explorers."""
  anchor = Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged')
  return Policy(
    policy.round + 1, policy.digest(), standing, {}, (), (), (anchor, *explorers), reasons
  )
