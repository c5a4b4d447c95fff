"""Successive halving, with training seeds as the resource.

Sequential halving of Karnin, Koren & Somekh (2013), since a trial's tokens are fixed: in the first
half of the rounds every explorer runs a recipe of its own, drawn as `SparseRandom` draws them. In
every round after that the better half of the recipes that are left, by mean dev score, runs again,
on as many explorers each as there are. After the last round the recipe with the best mean released
score is kept, the starting recipe included. `HalvingTested` asks the promotion rule instead; in its
last round the best recipe takes the explorers whose scores are released.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agents import peers
from aevo_jax.meta_agent.agents.peers import Best, Peer, Situation
from aevo_jax.meta_agent.agents.random_search import sample_sparse
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import Assignment, Policy, render_overlay

AXIS = 'halving'


class Halving(Peer):
  """Repeats the better half of the recipes on fresh seeds."""

  promotes_last = True

  def best(self, history: Sequence[Evidence], policy: Policy, constitution: Constitution) -> Best:
    """Finds the best of the last round by mean released score; arguments as in `Peer`."""
    if self.tested:
      return peers.best_tested(history, policy, constitution)
    fresh = [peers.overlay_of(trial, history[-1]) for trial in history[-1].trials]
    chosen = Best({}, ())
    best = -1.0
    for recipe in _recipes(history):
      if recipe.overlay not in fresh or not recipe.external:
        continue
      mean = float(np.mean(recipe.external))
      if mean > best:
        best = mean
        reason = (
          f'best of the recipes that were left: {mean:.3f} in {len(recipe.external)} trial(s)'
        )
        chosen = Best(recipe.overlay, (reason,) if recipe.overlay else ())
    return chosen

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Samples new recipes, or repeats the better half; arguments as in `Peer`."""
    rounds = situation.constitution.budget.rounds
    arms = [r for r in _recipes(situation.history) if r.overlay and r.dev]
    if situation.round < rounds - rounds // 2 or not arms:
      return sample_sparse(situation, count)
    # Those that were left out before have fewer looks than the others.
    looks = max(len(arm.dev) for arm in arms)
    if looks > 1:
      arms = [arm for arm in arms if len(arm.dev) > 1]
    arms.sort(key=lambda arm: -float(np.mean(arm.dev)))
    left = arms[: min(count, max(1, len(arms) // 2))]
    first = 0
    if self.tested and situation.round + 1 == rounds:
      # The rule tests one recipe with as many looks as are released.
      first = min(situation.constitution.release.per_round - 1, count)
    repeated = []
    for seat in range(count):
      overlay = left[max(seat - first, 0) % len(left)].overlay
      reason = f'one of the {len(left)} recipes that are left, on a fresh seed'
      repeated.append(Assignment(AXIS, overlay, overlay, reason))
    return repeated


class HalvingTested(Halving):
  """Successive halving under the promotion rule."""

  tested = True


class _Recipe(NamedTuple):
  """All scores of one recipe."""

  overlay: dict[str, Any]
  dev: list[float]
  external: list[float]


def _recipes(history: Sequence[Evidence]) -> list[_Recipe]:
  """Collects the scores of all recipes, in the order of their first trial."""
  recipes: dict[str, _Recipe] = {}
  for evidence in history:
    for trial in evidence.trials:
      overlay = dict(peers.overlay_of(trial, evidence))
      recipe = recipes.setdefault(render_overlay(overlay), _Recipe(overlay, [], []))
      if trial.dev is not None:
        recipe.dev.append(trial.dev.overall.accuracy)
      if trial.external is not None:
        recipe.external.append(trial.external)
  return list(recipes.values())
