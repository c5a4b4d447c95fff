"""Looks at changes: what each gained over its anchors in all rounds, which of them is promoted, and
when a promotion is taken back.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution, Promotion
from aevo_jax.config.search_space import SearchSpace
from aevo_jax.meta_agent import evidence as evidence_lib
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.policy import ANCHOR


@dataclasses.dataclass
class Observation:
  """All looks at one change, of one axis or several: gains over the anchor of the same round."""

  axis: str
  changes: dict[str, Any]
  dev: list[float] = dataclasses.field(default_factory=list)
  external: list[float] = dataclasses.field(default_factory=list)
  anchors: int = 0  # that each external gain is taken over, at least


def observe(
  history: Sequence[dict], objectives: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Observation]:
  """Gains of every change over the anchors of the standing recipe it was tried on, pooled over
  rounds; on dev as far as `objectives` value it.
  """
  observations: dict[str, Observation] = {}
  for evidence in history:
    anchors = anchor_trials(history, evidence['standing'])
    dev, released = (
      [evidence_lib.valued(t['dev'], objectives) for t in anchors],
      [t['external'] for t in anchors if t['external'] is not None],
    )
    for trial in evidence['trials']:
      if trial['axis'] == ANCHOR or trial['dev'] is None or not dev:
        continue
      key = _key(trial['axis'], trial['changes'])
      observation = observations.setdefault(key, Observation(trial['axis'], trial['changes']))
      observation.dev.append(evidence_lib.valued(trial['dev'], objectives) - float(np.mean(dev)))
      if trial['external'] is not None and released:
        observation.external.append(trial['external'] - float(np.mean(released)))
        observation.anchors = min(observation.anchors or len(released), len(released))
  return observations


def _key(axis: str, changes: dict[str, Any]) -> str:
  """A name for a change, whatever the order of its bindings."""
  return f'{axis}|{sorted(changes.items())!r}'


def anchor_trials(history: Sequence[dict], standing: dict[str, Any]) -> list[dict]:
  """Every scored anchor that ran this standing recipe, in any round: each trial has a seed of its
  own, and a round adds nothing to it.
  """
  return [
    t
    for evidence in history
    if evidence['standing'] == standing
    for t in evidence['trials']
    if t['axis'] == ANCHOR and t['dev'] is not None
  ]


def significant(
  observations: dict[str, Observation], history: Sequence[dict], constitution: Constitution
) -> list[Observation]:
  """The best change that passes the promotion rule, looked at in the latest round; or none."""
  latest = history[-1]
  fresh = {_key(t['axis'], t['changes']) for t in latest['trials']}
  passed = []
  for key, observation in observations.items():
    if key not in fresh or not observation.external:
      continue
    if promotion_rule.passes(
      observation.external, observation.anchors, latest['noise'], constitution
    ):
      passed.append(observation)
  return sorted(passed, key=lambda o: (-float(np.mean(o.external)), o.axis))[:1]


def rollback(history: Sequence[dict], rule: Promotion) -> tuple[dict, float] | None:
  """The standing recipe before the last change of it, and the (negative) difference, if all anchors
  since show a loss beyond the noise floor.
  """
  current, noise = history[-1]['standing'], history[-1]['noise']
  earlier = [evidence['standing'] for evidence in history if evidence['standing'] != current]
  if not earlier:
    return None
  before, after = (
    [t['external'] for t in anchor_trials(history, s) if t['external'] is not None]
    for s in (earlier[-1], current)
  )
  if not before or not after:
    return None
  lost = float(np.mean(after) - np.mean(before))
  error = noise['seed_sd'] * math.sqrt(1 / len(before) + 1 / len(after))
  if (
    round(lost, 9) > -rule.min_gain
    or special.stdtr(max(noise['degrees_of_freedom'], 1), lost / error) > 1 - rule.confidence
  ):
    return None
  return dict(earlier[-1]), lost


def by_axis(changes: dict[str, Any], space: SearchSpace) -> dict[str, dict[str, Any]]:
  """Axis -> its part of the changes."""
  parts = {
    axis.name: {p.selector: changes[p.selector] for p in axis.parameters if p.selector in changes}
    for axis in space.axes
  }
  return {name: part for name, part in parts.items() if part}


def settings(
  observations: Iterable[Observation], space: SearchSpace
) -> list[tuple[str, dict[str, Any]]]:
  """Every (axis, changes) that some trial ran, each once."""
  found = {
    _key(name, part): (name, part)
    for o in observations
    for name, part in by_axis(o.changes, space).items()
  }
  return list(found.values())
