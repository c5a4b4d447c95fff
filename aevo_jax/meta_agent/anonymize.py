"""Roles in place of names: what a family or an axis is called cannot steer an agent.

Families become family_0, family_1 ... in the order of their scores. Axes become axis_00, axis_01
... in the order of their selectors (in which a family's name is its role). Renaming families,
renaming axes or listing axes in another order then gives the same decision under the new names, to
the last bit: random samples, sums and ties all follow the roles. Two families are told apart by
their scores alone; only where all of those are equal does the name decide.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax.config.constitution import Constitution, SearchSpaceText
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.evidence import Evidence, TrialEvidence
from aevo_jax.meta_agent.policy import ANCHOR, Policy

# What the evaluation sets are made of is no business of an agent.
_SETS = ('dev_set', 'external_set', 'final_set')


def decide(
  agent: Agent,
  history: Sequence[Evidence],
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
  seed: int,
) -> Policy:
  """Shows an agent roles, and renders its decision in the names of the evidence.

  Args:
    agent: that decides.
    history: evidence of all rounds so far.
    policy: that of the last round.
    constitution: search space, thresholds and number of workers.
    defaults: selector -> value of the substrate's default recipe.
    seed: of the settings that are sampled.

  Returns:
    The policy of the next round.
  """
  names = Names.of(history, constitution)
  decided = agent.decide(
    [names.evidence(e) for e in history],
    names.policy(policy),
    names.constitution(constitution),
    names.overlay(defaults),
    seed,
  )
  return dataclasses.replace(names.inverse.policy(decided), parent=policy.digest())


class _Score(NamedTuple):
  """One score of a family, as families are ordered by."""

  round: int
  worker: int
  accuracy: float
  total: int


@dataclasses.dataclass(frozen=True)
class Names:
  """A renaming; what is in neither mapping keeps its name.

  Attributes:
    families: family -> family.
    axes: axis -> axis.
  """

  families: Mapping[str, str]
  axes: Mapping[str, str]

  @classmethod
  def of(cls, history: Sequence[Evidence], constitution: Constitution) -> 'Names':
    """Makes the renaming from names to roles.

    Args:
      history: evidence of all rounds, by which families are ordered.
      constitution: holds the axes.

    Returns:
      The renaming.
    """
    scores: dict[str, list[_Score]] = {}
    for evidence in history:
      for trial in evidence.trials:
        on_dev = trial.dev.by_family if trial.dev is not None else {}
        for part in (on_dev, trial.external_by_family or {}):
          for family, score in part.items():
            known = _Score(evidence.round, trial.worker, score.accuracy, score.total)
            scores.setdefault(family, []).append(known)
    ordered = sorted(scores, key=lambda family: (scores[family], family))
    families = _numbered(ordered, 'family_{}')
    first = cls(families, {})
    selectors = {}
    for axis, parameters in constitution.search_space.axes.items():
      selectors[axis] = sorted(first.selector(name) for name in parameters)
    axes = sorted(selectors, key=selectors.__getitem__)
    return cls(families, _numbered(axes, 'axis_{:02d}'))

  @property
  def inverse(self) -> 'Names':
    """The renaming back."""
    return Names(_inverted(self.families), _inverted(self.axes))

  def family(self, name: str) -> str:
    """Renames one family.

    Args:
      name: of a family, or anything else, which stays.

    Returns:
      The other name.
    """
    return self.families.get(name, name)

  def axis(self, name: str) -> str:
    """Renames an axis.

    Args:
      name: of one axis, of several that a trial changes together ('a + b'), or 'anchor'.

    Returns:
      The other name.
    """
    if name == ANCHOR:
      return name
    return ' + '.join(self.axes.get(part, part) for part in name.split(' + '))

  def selector(self, name: str) -> str:
    """Renames the family in a parameter's name.

    Args:
      name: 'section.field', where the field may be a family.

    Returns:
      The other name.
    """
    section, dot, field = name.rpartition('.')
    return f'{section}{dot}{self.family(field)}'

  def overlay(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the selectors of an overlay.

    Args:
      values: selector -> value.

    Returns:
      The same values in the same order.
    """
    return _with_keys(values, self.selector)

  def text(self, sentence: str) -> str:
    """Renames every family and axis in a sentence, whole words only.

    Args:
      sentence: any text.

    Returns:
      The other sentence.
    """
    known = {**self.families, **self.axes}
    if not known:
      return sentence
    escaped = [re.escape(name) for name in known]
    escaped.sort(key=len, reverse=True)
    pattern = rf'(?<!\w)(?:{"|".join(escaped)})(?!\w)'
    return re.sub(pattern, lambda match: known[match[0]], sentence)

  def constitution(self, constitution: Constitution) -> Constitution:
    """Renames the search space, sorts it, and removes what the evaluation sets are made of.

    Args:
      constitution: under the names.

    Returns:
      One with sizes only of its sets.
    """
    axes = {}
    for name, parameters in constitution.search_space.axes.items():
      specs = {}
      for selector, literal in parameters.items():
        specs[self.selector(selector)] = self._spec(literal)
      axes[self.axis(name)] = dict(sorted(specs.items()))
    sizes: dict[str, Any] = {}
    for name in _SETS:
      items = getattr(constitution, name)
      if items:
        sizes[name] = type(items)(items=items.items)
    space = SearchSpaceText(dict(sorted(axes.items())))
    unprotected = tuple(self.family(name) for name in constitution.promotion.unprotected)
    promotion = dataclasses.replace(constitution.promotion, unprotected=unprotected)
    return dataclasses.replace(constitution, search_space=space, promotion=promotion, **sizes)

  def _spec(self, literal: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the conditions of one parameter."""
    renamed = dict(literal)
    if 'when' in renamed:
      renamed['when'] = self.overlay(renamed['when'])
    return renamed

  def by_family[T](self, scores: Mapping[str, T]) -> dict[str, T]:
    """Renames the families that something is told by.

    Args:
      scores: family -> anything.

    Returns:
      The same, sorted by the new names.
    """
    return dict(sorted(_with_keys(scores, self.family).items()))

  def evidence(self, evidence: Evidence) -> Evidence:
    """Renames a round's evidence.

    Args:
      evidence: under the names.

    Returns:
      It without what proxies say of each other by name, which stands in their consensus already.
    """
    verdicts = {}
    for stream, verdict in self.by_family(evidence.verdicts).items():
      verdicts[stream] = dataclasses.replace(verdict, stream=stream)
    noise = evidence.noise
    reliability = {}
    for proxy, streams in evidence.reliability.items():
      reliability[proxy] = self.by_family(streams)
    return dataclasses.replace(
      evidence,
      standing=self.overlay(evidence.standing),
      trials=tuple(self._trial(trial) for trial in evidence.trials),
      noise=dataclasses.replace(noise, by_family=self.by_family(noise.by_family)),
      failures=_with_keys(evidence.failures, self.text),
      reliability=reliability,
      verdicts=verdicts,
      proxies=None,
    )

  def _trial(self, trial: TrialEvidence) -> TrialEvidence:
    """Renames one trial's row."""
    dev = trial.dev
    if dev is not None:
      dev = dataclasses.replace(dev, by_family=self.by_family(dev.by_family))
    external = trial.external_by_family
    if external is not None:
      external = self.by_family(external)
    return dataclasses.replace(
      trial,
      axis=self.axis(trial.axis),
      cause=self.text(trial.cause),
      changes=self.overlay(trial.changes),
      dev=dev,
      external_by_family=external,
      proxies=None,
      same_as_dev=None,
    )

  def policy(self, policy: Policy) -> Policy:
    """Renames a policy.

    Args:
      policy: under the names.

    Returns:
      One with the same round, parent and numbers.
    """
    dead_ends = []
    for dead in policy.dead_ends:
      changes = self.overlay(dead.changes)
      dead_ends.append(dataclasses.replace(dead, axis=self.axis(dead.axis), changes=changes))
    assignments = []
    for assignment in policy.assignments:
      assignments.append(
        dataclasses.replace(
          assignment,
          axis=self.axis(assignment.axis),
          changes=self.overlay(assignment.changes),
          overlay=self.overlay(assignment.overlay),
          reason=self.text(assignment.reason),
        )
      )
    promoted = {}
    for axis, changes in policy.promoted.items():
      promoted[self.axis(axis)] = self.overlay(changes)
    trust = {}
    for proxy, parts in policy.trust.items():
      trust[proxy] = _with_keys(parts, self.family)
    return dataclasses.replace(
      policy,
      standing=self.overlay(policy.standing),
      promoted=promoted,
      demoted=tuple(sorted(self.axis(name) for name in policy.demoted)),
      dead_ends=tuple(dead_ends),
      assignments=tuple(assignments),
      reasons=tuple(self.text(reason) for reason in policy.reasons),
      trust=trust,
      objectives=_with_keys(policy.objectives, self.family),
      objectives_before=_with_keys(policy.objectives_before, self.family),
    )


def _with_keys[T](values: Mapping[str, T], rename: Callable[[str], str]) -> dict[str, T]:
  """The same values in the same order under other names."""
  renamed = {}
  for name, value in values.items():
    renamed[rename(name)] = value
  return renamed


def _numbered(names: Sequence[str], role: str) -> dict[str, str]:
  """Name -> role, a format of its index."""
  roles = {}
  for i, name in enumerate(names):
    roles[name] = role.format(i)
  return roles


def _inverted(names: Mapping[str, str]) -> dict[str, str]:
  return dict(zip(names.values(), names, strict=True))
