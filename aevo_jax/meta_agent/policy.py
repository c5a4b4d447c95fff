"""A policy: the standing recipe, what is known of each axis, dead ends, and who tests what next.

It is written as gin overlays and policy.json.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from aevo_jax.config.statements import Binding, render

ANCHOR = 'anchor'


@dataclasses.dataclass(frozen=True)
class Assignment:
  """What one worker runs.

  Attributes:
    axis: that it changes, or several; 'anchor' changes nothing.
    changes: selector -> value.
    overlay: what runs, the standing overlay with `changes` on top.
    reason: a sentence.
    arm: 'control' or 'revised' while a revision is tested, else ''.
  """

  axis: str
  changes: dict[str, Any]
  overlay: dict[str, Any]
  reason: str
  arm: str = ''


@dataclasses.dataclass(frozen=True)
class DeadEnd:
  """A region that is not tried again for some rounds.

  Attributes:
    axis: of the setting.
    changes: the setting.
    gain: what it loses, below 0.
    confidence: one-sided, that it loses.
    round: in which it was entered.
    expires: round from which it may be tried again.
  """

  axis: str
  changes: dict[str, Any]
  gain: float
  confidence: float
  round: int
  expires: int


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a round runs.

  Attributes:
    round: the round it is for.
    parent: digest of the policy before, '' for the first.
    standing: the standing recipe's overlay.
    promoted: axis -> the changes that made it in.
    demoted: axes shown to lose.
    dead_ends: registry.
    assignments: one per worker, the anchor first.
    reasons: one sentence per change of policy.
    trust: proxy -> family -> in [0, 1], how far the proxy is believed; families not named are
      believed.
    objectives: family -> what a step of its dev score is worth in external score, in [-1, 1]; a
      family that is not named is worth 1, and one that is worth less than 0 is to be lowered on
      dev. See meta_agent.drift.trust.
    objectives_before: as they were before the last revision.
    control: rounds left in which a control arm follows `objectives_before`.
    look: the round after which the arms are compared, named when they begin; 0 without arms.
  """

  round: int
  parent: str
  standing: dict[str, Any]
  promoted: dict[str, dict[str, Any]]
  demoted: tuple[str, ...]
  dead_ends: tuple[DeadEnd, ...]
  assignments: tuple[Assignment, ...]
  reasons: tuple[str, ...]
  trust: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  objectives: dict[str, float] = dataclasses.field(default_factory=dict)
  objectives_before: dict[str, float] = dataclasses.field(default_factory=dict)
  control: int = 0
  look: int = 0

  def overlay(self, worker: int) -> str:
    """Renders what a worker runs over the default recipe.

    Args:
      worker: its number.

    Returns:
      Gin text.
    """
    return render_overlay(self.assignments[worker].overlay)

  def to_json(self) -> dict[str, Any]:
    """Renders all fields, `look` where there is one: earlier policies have the same digest."""
    fields = dataclasses.asdict(self)
    if not self.look:
      del fields['look']
    return fields

  def digest(self) -> str:
    """Computes the SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

  def files(self) -> dict[str, str]:
    """Renders the policy's files.

    Returns:
      File name -> text: standing.gin, w0.gin ... and policy.json.
    """
    texts = {'standing.gin': render_overlay(self.standing)}
    for worker in range(len(self.assignments)):
      texts[f'w{worker}.gin'] = self.overlay(worker)
    texts['policy.json'] = json.dumps(self.to_json(), indent=1, sort_keys=True) + '\n'
    return texts

  def write(self, directory: pathlib.Path) -> None:
    """Writes `files`.

    Args:
      directory: created if it is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in self.files().items():
      (directory / name).write_text(text)


def render_overlay(values: Mapping[str, Any]) -> str:
  """Renders canonical gin text.

  Args:
    values: selector -> value.

  Returns:
    One binding a line.
  """
  return render(Binding(selector, value) for selector, value in values.items())


def from_json(fields: Mapping[str, Any]) -> Policy:
  """Reads a policy; inverse of `Policy.to_json` after a trip through JSON.

  Args:
    fields: the object.

  Returns:
    The policy.
  """
  typed = {
    'assignments': tuple(Assignment(**a) for a in fields['assignments']),
    'dead_ends': tuple(DeadEnd(**d) for d in fields['dead_ends']),
    'demoted': tuple(fields['demoted']),
    'reasons': tuple(fields['reasons']),
  }
  return Policy(**{**fields, **typed})


def starting(seeds: int) -> Policy:
  """Makes the policy of round 0: the starting recipe on several seeds, for the noise floor.

  Args:
    seeds: how many.

  Returns:
    The policy.
  """
  anchor = Assignment(ANCHOR, {}, {}, 'the starting recipe, for the noise floor')
  return Policy(
    round=0,
    parent='',
    standing={},
    promoted={},
    demoted=(),
    dead_ends=(),
    assignments=(anchor,) * seeds,
    reasons=(),
  )
