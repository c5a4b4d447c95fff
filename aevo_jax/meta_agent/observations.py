"""Looks at changes: what each gained over its anchors in all rounds, and what follows from that."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.evidence import Evidence, TrialEvidence
from aevo_jax.meta_agent.promotion_rule import Candidate
from aevo_jax.stats.comparisons.mean_gain import gain_p


@dataclasses.dataclass
class Observation:
  """All looks at one change.

  Attributes:
    axis: one, or several that are changed together.
    changes: selector -> value.
    dev: gains on dev over the anchors of the same standing recipe.
    external: gains on the released external score.
    anchors: that each external gain is taken over, at least; 0 before there is one.
    standings: recipes that it was tried on.
  """

  axis: str
  changes: dict[str, Any]
  dev: list[float] = dataclasses.field(default_factory=list)
  external: list[float] = dataclasses.field(default_factory=list)
  anchors: int = 0
  standings: list[dict[str, Any]] = dataclasses.field(default_factory=list)


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
      if evidence.standing not in observation.standings:
        observation.standings.append(evidence.standing)
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


def candidates(history: Sequence[Evidence], constitution: Constitution) -> list[Candidate]:
  """Collects the changes that are tested, with the looks that test them.

  A trial tests a change if an earlier round ran the same change of the same standing recipe, or if
  several workers of its round run it: it was fixed before its score was known.

  Args:
    history: evidence of all rounds.
    constitution: says from how many looks on a change is tested.

  Returns:
    The candidates in the order in which they became ones.
  """
  found: dict[str, Candidate] = {}
  seen: set[str] = set()
  for evidence in history:
    keys = {}
    for trial in evidence.trials:
      if not trial.is_anchor:
        keys[trial.trial] = _key(repr(sorted(evidence.standing.items())), trial.changes)
    runs = Counter(keys.values())
    for trial in evidence.trials:
      key = keys.get(trial.trial)
      if trial.external is None or key is None or (key not in seen and runs[key] < 2):
        continue
      fresh = Candidate(len(found), trial.axis, trial.changes, evidence.standing)
      candidate = found.setdefault(key, fresh)
      candidate.looks.append(trial)
      candidate.latest = evidence.round
    for candidate in found.values():
      if candidate.latest == evidence.round:
        candidate.tests += len(candidate.looks) >= constitution.promotion.looks
    seen.update(runs)
  for candidate in found.values():
    candidate.anchors = released_anchors(history, candidate.standing)
  return list(found.values())


def released_anchors(
  history: Sequence[Evidence], standing: Mapping[str, Any]
) -> list[TrialEvidence]:
  """Lists the anchors of a standing recipe that have a released score, also without a dev score.

  Args:
    history: evidence of all rounds.
    standing: overlay of the recipe.

  Returns:
    The anchors in order.
  """
  found = []
  for evidence in history:
    if evidence.standing == standing:
      found += [t for t in evidence.trials if t.is_anchor and t.external is not None]
  return found


class Tested(NamedTuple):
  """What the tests of a round say: the change to promote, and those that a family holds back."""

  winner: Candidate | None
  held_back: list[Candidate]


def significant(history: Sequence[Evidence], constitution: Constitution) -> Tested:
  """Finds the best change of the standing recipe that passes the promotion rule.

  Args:
    history: evidence of all rounds. Only a change that the latest one looked at can pass.
    constitution: holds the rule.

  Returns:
    The change with the greatest mean gain, and the changes that would have passed without a fall
    of a protected family.
  """
  latest = history[-1]
  passed = []
  held_back = []
  for candidate in candidates(history, constitution):
    if candidate.latest != latest.round or candidate.standing != latest.standing:
      continue
    if promotion_rule.passes(candidate, latest.noise.external, constitution):
      fallen = candidate.fallen(constitution)
      (held_back if fallen else passed).append(candidate)
  winner = min(passed, key=lambda c: (-c.gain, c.axis), default=None)
  return Tested(winner, held_back)


def rollback(history: Sequence[Evidence], constitution: Constitution) -> Rollback | None:
  """Finds out whether the last promotion lowered the external score beyond the noise.

  Args:
    history: evidence of all rounds.
    constitution: least gain, confidence and floor of the noise.

  Returns:
    What to go back to; None where all anchors since show no such loss.
  """
  rule = constitution.promotion
  current = history[-1].standing
  noise = history[-1].noise.external
  earlier = [evidence.standing for evidence in history if evidence.standing != current]
  if not earlier or noise is None:
    return None
  before = released_scores(released_anchors(history, earlier[-1]))
  after = released_scores(released_anchors(history, current))
  if not before or not after:
    return None
  loss = float(np.mean(after) - np.mean(before))
  if round(loss, 9) > -rule.min_gain:
    return None
  sample = promotion_rule.anchor_sample(noise, 1, constitution)
  p = gain_p(-loss, sample.sd, noise.anchor_freedom, len(before), len(after))
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
