"""Looks at changes: what each gained over its anchors in all rounds, and what follows from that."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution, Promotion
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.evidence import Evidence, TrialEvidence
from aevo_jax.stats.mean_gain import gain_p


@dataclasses.dataclass
class Observation:
  """All looks at one change.

  Attributes:
    axis: one, or several that are changed together.
    changes: selector -> value.
    dev: gains on dev over the anchors of the same standing recipe.
    external: gains on the released external score.
    anchors: that each external gain is taken over, at least; 0 before there is one.
  """

  axis: str
  changes: dict[str, Any]
  dev: list[float] = dataclasses.field(default_factory=list)
  external: list[float] = dataclasses.field(default_factory=list)
  anchors: int = 0


class Setting(NamedTuple):
  """Values of the parameters of one axis."""

  axis: str
  changes: dict[str, Any]


class Rollback(NamedTuple):
  """The standing recipe before its last change, and the anchors' (negative) difference since."""

  standing: dict[str, Any]
  loss: float


def observe(
  history: Sequence[Evidence], objectives: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Observation]:
  """Collects the gains of every change over the anchors of the recipe it was tried on.

  Args:
    history: evidence of all rounds.
    objectives: family -> what a right answer on dev is worth.

  Returns:
    Name of the change -> its looks, pooled over rounds.
  """
  observations: dict[str, Observation] = {}
  for evidence in history:
    anchors = anchor_trials(history, evidence.standing)
    if not anchors:
      continue
    dev = float(np.mean([t.dev.valued(objectives) for t in anchors]))
    released = released_scores(anchors)
    for trial in evidence.explorers:
      fresh = Observation(trial.axis, trial.changes)
      observation = observations.setdefault(_key(trial.axis, trial.changes), fresh)
      observation.dev.append(trial.dev.valued(objectives) - dev)
      if trial.external is not None and released:
        observation.external.append(trial.external - float(np.mean(released)))
        observation.anchors = min(observation.anchors or len(released), len(released))
  return observations


def _key(axis: str, changes: Mapping[str, Any]) -> str:
  """A name for a change, whatever the order of its bindings."""
  return f'{axis}|{sorted(changes.items())!r}'


def anchor_trials(history: Sequence[Evidence], standing: dict[str, Any]) -> list[TrialEvidence]:
  """Collects every scored anchor that ran a standing recipe, in any round.

  Each trial has a seed of its own, and a round adds nothing to it.

  Args:
    history: evidence of all rounds.
    standing: overlay of the recipe.

  Returns:
    The anchors in order.
  """
  found = []
  for evidence in history:
    if evidence.standing == standing:
      found += evidence.anchors
  return found


def released_scores(trials: Iterable[TrialEvidence]) -> list[float]:
  """Lists the released external scores.

  Args:
    trials: with and without one.

  Returns:
    Those that there are.
  """
  return [t.external for t in trials if t.external is not None]


def significant(
  observations: Mapping[str, Observation], latest: Evidence, constitution: Constitution
) -> Observation | None:
  """Finds the best change that passes the promotion rule.

  Args:
    observations: all looks at all changes.
    latest: evidence of the latest round: only a change that it looked at can pass.
    constitution: holds the rule.

  Returns:
    The change with the greatest mean gain; None if none passes.
  """
  fresh = {_key(t.axis, t.changes) for t in latest.trials}
  passed = []
  for key, observation in observations.items():
    if key not in fresh or not observation.external:
      continue
    if promotion_rule.passes(observation.external, observation.anchors, latest.noise, constitution):
      passed.append(observation)
  return min(passed, key=lambda o: (-float(np.mean(o.external)), o.axis), default=None)


def rollback(history: Sequence[Evidence], rule: Promotion) -> Rollback | None:
  """Finds out whether the last promotion lowered the external score beyond the noise floor.

  Args:
    history: evidence of all rounds.
    rule: least gain and confidence.

  Returns:
    What to go back to; None where all anchors since show no such loss.
  """
  current = history[-1].standing
  noise = history[-1].noise
  earlier = [evidence.standing for evidence in history if evidence.standing != current]
  if not earlier:
    return None
  before = released_scores(anchor_trials(history, earlier[-1]))
  after = released_scores(anchor_trials(history, current))
  if not before or not after:
    return None
  loss = float(np.mean(after) - np.mean(before))
  if round(loss, 9) > -rule.min_gain:
    return None
  p = gain_p(-loss, noise.seed_sd, noise.degrees_of_freedom, len(before), len(after))
  if p > 1 - rule.confidence:
    return None
  return Rollback(dict(earlier[-1]), loss)


def by_axis(changes: Mapping[str, Any], space: SearchSpace) -> dict[str, dict[str, Any]]:
  """Divides changes among the axes of the search space.

  Args:
    changes: selector -> value.
    space: of all axes.

  Returns:
    Axis -> its part, of the axes that have one.
  """
  parts: dict[str, dict[str, Any]] = {}
  for axis in space.axes:
    for parameter in axis.parameters:
      selector = parameter.selector
      if selector in changes:
        parts.setdefault(axis.name, {})[selector] = changes[selector]
  return parts


def settings(observations: Iterable[Observation], space: SearchSpace) -> list[Setting]:
  """Lists every setting of an axis that some trial ran, each once.

  Args:
    observations: of changes of one axis or several.
    space: of all axes.

  Returns:
    The settings in the order of their first trial.
  """
  found = {}
  for observation in observations:
    for name, part in by_axis(observation.changes, space).items():
      found[_key(name, part)] = Setting(name, part)
  return list(found.values())
