"""An agent is shown roles instead of names, so that what a family or an axis is called cannot steer
it.

Families become family_0, family_1 ... in the order of what the evidence says of them, axes become
axis_00, axis_01 ... in the order of their selectors (in which a family's name is its role).
Renaming families, renaming axes or listing axes in another order then gives the same decision under
the new names, to the last bit: random draws, sums and ties all follow the roles. Two families are
told apart by their scores alone; only where all of those are equal does the name decide.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution, SearchSpaceText
from aevo_jax.meta_agent.policy import ANCHOR, Policy

Decide = Callable[[Sequence[dict], Policy, Constitution, dict[str, Any], int], Policy]


def decide(
  agent: Decide,
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """What `agent` decides when it is shown roles, in the names of the evidence."""
  names = Names.of(history, constitution)
  there = names.inverse
  decided = agent(
    [names.evidence(e) for e in history],
    names.policy(policy),
    names.constitution(constitution),
    {names.selector(k): v for k, v in defaults.items()},
    seed,
  )
  return dataclasses.replace(there.policy(decided), parent=policy.digest())


@dataclasses.dataclass(frozen=True)
class Names:
  """A renaming: family -> family, axis -> axis. What is in neither keeps its name."""

  families: Mapping[str, str]
  axes: Mapping[str, str]

  @classmethod
  def of(cls, history: Sequence[dict], constitution: Constitution) -> 'Names':
    """From names to roles."""
    scores: dict[str, list] = {}
    for evidence in history:
      for trial in evidence['trials']:
        for part in (trial['dev'] and trial['dev']['by_family'], trial['external_by_family']):
          for family, score in (part or {}).items():
            scores.setdefault(family, []).append(
              (evidence['round'], trial['worker'], score['accuracy'], score['total'])
            )
    families = {
      family: f'family_{i}' for i, family in enumerate(sorted(scores, key=lambda f: (scores[f], f)))
    }
    first = cls(families, {})
    selectors = {
      axis: sorted(map(first.selector, parameters))
      for axis, parameters in constitution.search_space.axes.items()
    }
    return cls(
      families,
      {axis: f'axis_{i:02d}' for i, axis in enumerate(sorted(selectors, key=selectors.get))},
    )

  @property
  def inverse(self) -> 'Names':
    return Names({v: k for k, v in self.families.items()}, {v: k for k, v in self.axes.items()})

  def family(self, name: str) -> str:
    return self.families.get(name, name)

  def axis(self, name: str) -> str:
    """Of one axis, or of several that a trial changes together ('a + b')."""
    return (
      ' + '.join(self.axes.get(part, part) for part in name.split(' + '))
      if name != ANCHOR
      else name
    )

  def selector(self, name: str) -> str:
    section, dot, field = name.rpartition('.')
    return f'{section}{dot}{self.family(field)}'

  def overlay(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {self.selector(k): v for k, v in values.items()}

  def text(self, sentence: str) -> str:
    """A sentence with every name in it replaced, whole words only."""
    known = {**self.families, **self.axes}
    pattern = '|'.join(sorted(map(re.escape, known), key=len, reverse=True))
    return (
      re.sub(rf'(?<!\w)(?:{pattern})(?!\w)', lambda match: known[match[0]], sentence)
      if known
      else sentence
    )

  def constitution(self, constitution: Constitution) -> Constitution:
    """With the search space renamed, its axes and parameters sorted; without what the evaluation
    sets are made of, which is no business of an agent.
    """

    def spec(literal: Mapping[str, Any]) -> dict[str, Any]:
      return (
        {**literal, 'when': self.overlay(literal['when'])} if 'when' in literal else dict(literal)
      )

    axes = {
      self.axis(name): dict(
        sorted((self.selector(s), spec(literal)) for s, literal in parameters.items())
      )
      for name, parameters in constitution.search_space.axes.items()
    }
    sizes_only = {
      name: type(s)(items=s.items)
      for name in ('dev_set', 'external_set', 'final_set')
      if (s := getattr(constitution, name))
    }
    return dataclasses.replace(
      constitution, search_space=SearchSpaceText(dict(sorted(axes.items()))), **sizes_only
    )

  def evidence(self, evidence: Mapping[str, Any]) -> dict[str, Any]:
    by_family = lambda scores: (
      None
      if scores is None
      else {k: v for k, v in sorted((self.family(k), v) for k, v in scores.items())}
    )
    trials = [
      {
        **{name: value for name, value in t.items() if name not in ('proxies', 'same_as_dev')},
        'axis': self.axis(t['axis']),
        'cause': self.text(t['cause']),
        'changes': self.overlay(t['changes']),
        'dev': t['dev'] and {**t['dev'], 'by_family': by_family(t['dev']['by_family'])},
        'external_by_family': by_family(t['external_by_family']),
      }
      for t in evidence['trials']
    ]
    # What proxies say of each other by name stands in their consensus already.
    kept = {name: value for name, value in evidence.items() if name != 'proxies'}
    return {
      **kept,
      'standing': self.overlay(evidence['standing']),
      'trials': trials,
      'verdicts': {s: {**v, 'stream': s} for s, v in by_family(evidence['verdicts']).items()},
      'failures': {self.text(c): n for c, n in evidence['failures'].items()},
      'noise': {**evidence['noise'], 'by_family': by_family(evidence['noise']['by_family'])},
      'reliability': {proxy: by_family(found) for proxy, found in evidence['reliability'].items()},
    }

  def policy(self, policy: Policy) -> Policy:
    """A policy whose round, parent and numbers stay."""
    return dataclasses.replace(
      policy,
      standing=self.overlay(policy.standing),
      promoted={self.axis(a): self.overlay(c) for a, c in policy.promoted.items()},
      demoted=tuple(sorted(map(self.axis, policy.demoted))),
      dead_ends=tuple(
        dataclasses.replace(d, axis=self.axis(d.axis), changes=self.overlay(d.changes))
        for d in policy.dead_ends
      ),
      assignments=tuple(
        dataclasses.replace(
          a,
          axis=self.axis(a.axis),
          changes=self.overlay(a.changes),
          overlay=self.overlay(a.overlay),
          reason=self.text(a.reason),
        )
        for a in policy.assignments
      ),
      reasons=tuple(map(self.text, policy.reasons)),
      trust={p: {self.family(f): v for f, v in t.items()} for p, t in policy.trust.items()},
      objectives={self.family(f): v for f, v in policy.objectives.items()},
      objectives_before={self.family(f): v for f, v in policy.objectives_before.items()},
    )
