"""Random search under the same budget and the same gate: the peer every other agent must beat.

Each worker samples every axis with probability 1/2 and leaves the others at the default. The
standing recipe is the trial with the best released external score so far, the starting recipe
included.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import draw, prune
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.evidence import PROXIES, Evidence, TrialEvidence
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

AXIS = 'random'


class RandomSearch(Agent):
  """Samples every recipe at random."""

  changes_are_whole = True

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Keeps the best released recipe and samples the explorers; arguments as in `Agent`."""
    best = best_released(history, policy)
    count = constitution.budget.workers - 1
    explorers = sample_recipes(constitution, defaults, count, [seed, policy.round])
    return policy_of(policy, best.standing, explorers, reasons=best.reasons)


class Best(NamedTuple):
  """The standing recipe's overlay, and why it changes, if it does."""

  standing: dict[str, Any]
  reasons: tuple[str, ...]


def overlay_of(trial: TrialEvidence, evidence: Evidence) -> dict[str, Any]:
  """Finds the recipe that a trial ran, under an agent whose changes are whole.

  Args:
    trial: of the round.
    evidence: of the round.

  Returns:
    Its overlay.
  """
  return evidence.standing if trial.is_anchor else trial.changes


def best_released(history: Sequence[Evidence], policy: Policy) -> Best:
  """Finds the recipe with the best released external score so far, the earliest of equals.

  Args:
    history: evidence of all rounds.
    policy: holds the standing recipe before.

  Returns:
    The recipe; the standing one where nothing was released.
  """
  best = -1.0
  standing = dict(policy.standing)
  for evidence in history:
    for trial in evidence.trials:
      if trial.external is not None and trial.external > best:
        best = trial.external
        standing = dict(overlay_of(trial, evidence))
  if standing == policy.standing:
    return Best(standing, ())
  measure = 'released external score'
  if history[-1].target == PROXIES:
    measure = 'consensus of the proxies'
  return Best(standing, (f'best {measure} so far: {best:.2f}',))


def sample_recipes(
  constitution: Constitution, defaults: Mapping[str, Any], count: int, seed: Sequence[int]
) -> list[Assignment]:
  """Samples recipes that differ from the default one, each axis with probability 1/2.

  Args:
    constitution: holds the search space.
    defaults: selector -> value of the default recipe.
    count: recipes.
    seed: of the sampling.

  Returns:
    Assignments of the axis 'random', with a whole recipe each.
  """
  space = constitution.space()
  rng = np.random.default_rng(seed)
  sampled: list[Assignment] = []
  while len(sampled) < count:
    overlay: dict[str, Any] = {}
    for axis in space.axes:
      setting = draw(axis, rng, {**defaults, **overlay})
      if rng.random() < 0.5:
        overlay |= setting
    overlay = prune(overlay, space, defaults)
    if overlay:
      sampled.append(Assignment(AXIS, overlay, overlay, 'random draw'))
  return sampled


def policy_of(
  policy: Policy,
  standing: dict[str, Any],
  explorers: Sequence[Assignment],
  reasons: tuple[str, ...] = (),
) -> Policy:
  """Makes the next policy of an agent that keeps no dead ends: an anchor, and the explorers.

  Args:
    policy: that of the last round.
    standing: overlay of the next standing recipe.
    explorers: assignments beside the anchor.
    reasons: sentences.

  Returns:
    The policy.
  """
  anchor = Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged')
  return Policy(
    round=policy.round + 1,
    parent=policy.digest(),
    standing=standing,
    promoted={},
    demoted=(),
    dead_ends=(),
    assignments=(anchor, *explorers),
    reasons=reasons,
  )
