"""Random search under the same budget and the same gate: the peer every other agent must beat.

Each worker draws every axis with probability 1/2 and leaves the others at the default; the standing recipe is the trial with the best released
external score so far, the starting recipe included.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import sample
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy
from aevo_jax.meta_agent.statistical_agent import prune

AXIS = 'random'


def decide(history: Sequence[dict], policy: Policy, constitution: Constitution, defaults: dict[str, Any], seed: int) -> Policy:
  """As `statistical_agent.decide`."""
  space = constitution.space()
  rng = np.random.default_rng([seed, policy.round])
  best, standing, reasons = -1.0, dict(policy.standing), []
  for evidence in history:
    for trial in evidence['trials']:
      overlay = evidence['standing'] if trial['axis'] == ANCHOR else trial['changes']
      if trial['external'] is not None and trial['external'] > best:
        best, standing = trial['external'], dict(overlay)
  if standing != policy.standing:
    measure = 'consensus of the proxies' if history[-1].get('target') == 'proxies' else 'released external score'
    reasons.append(f'best {measure} so far: {best:.2f}')
  assignments = [Assignment(ANCHOR, {}, dict(standing), 'the best recipe so far, unchanged')]
  while len(assignments) < constitution.budget.workers:
    overlay: dict[str, Any] = {}
    for axis in space.axes:
      drawn = sample(axis, rng, {**defaults, **overlay})
      if rng.random() < 0.5:
        overlay |= {b.selector: b.value for b in drawn}
    overlay = prune(overlay, space, defaults)
    if overlay:
      assignments.append(Assignment(AXIS, overlay, overlay, 'random draw'))
  return Policy(policy.round + 1, policy.digest(), standing, {}, (), (), tuple(assignments), tuple(reasons))
