"""Random search under the same budget and the same gate: the peer every other agent must beat.

`RandomSearch` samples every axis with probability 1/2 and leaves the others at the default.
`SparseRandom` changes one or two axes of the standing recipe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import draw, prune
from aevo_jax.meta_agent.agents.peers import Peer, Situation
from aevo_jax.meta_agent.policy import Assignment

AXIS = 'random'
SPARSE = 'sparse'
# The most axes that a sparse recipe changes.
MOST = 2


class RandomSearch(Peer):
  """Samples every recipe at random."""

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Samples the explorers; arguments as in `Peer`."""
    seed = [situation.seed, situation.round]
    return sample_recipes(situation.constitution, situation.defaults, count, seed)


class RandomTested(RandomSearch):
  """Random search under the promotion rule."""

  tested = True


class SparseRandom(Peer):
  """Samples one or two axes of every recipe, and takes the others from the standing one."""

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Samples the explorers; arguments as in `Peer`."""
    return sample_sparse(situation, count)


class SparseTested(SparseRandom):
  """Sparse random search under the promotion rule."""

  tested = True


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


def sample_sparse(situation: Situation, count: int) -> list[Assignment]:
  """Samples recipes near the standing one.

  Args:
    situation: of the round.
    count: recipes.

  Returns:
    Assignments of the axis 'sparse', with a whole recipe each.
  """
  rng = np.random.default_rng([situation.seed, situation.round])
  return sample_near(situation, [situation.standing], count, rng, SPARSE)


def sample_near(
  situation: Situation,
  starts: Sequence[Mapping[str, Any]],
  count: int,
  rng: np.random.Generator,
  name: str,
) -> list[Assignment]:
  """Samples recipes that differ from given ones in one axis or in two.

  Args:
    situation: of the round.
    starts: overlays, from which samples start in turn.
    count: recipes.
    rng: seeded generator.
    name: of the assignments' axis.

  Returns:
    Assignments with a whole recipe each, none of which is the standing one.
  """
  space = situation.constitution.space()
  sampled: list[Assignment] = []
  while len(sampled) < count:
    overlay = dict(starts[len(sampled) % len(starts)])
    for at in rng.permutation(len(space.axes))[: rng.integers(1, MOST + 1)]:
      overlay |= draw(space.axes[at], rng, {**situation.defaults, **overlay})
    overlay = prune(overlay, space, situation.defaults)
    if overlay and overlay != situation.standing:
      sampled.append(Assignment(name, overlay, overlay, 'one axis or two are another'))
  return sampled
