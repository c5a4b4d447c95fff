"""The default meta agent: statistics only, offline, a pure function of the evidence.

After each round it
  1. rolls the standing recipe back if the anchor shows that the last promotion lowered the external score;
  2. promotes every axis whose change raised the released external score in at least two trials, by at least `min_gain` and beyond the noise
     floor: gains of one change are pooled over rounds, t = mean gain / (seed_sd sqrt((1 + 1/anchors) / n)) against Student's t with the noise's
     degrees of freedom, at the constitution's confidence divided (Bonferroni) among the explorers whose scores the round released;
  3. enters changes that lost on dev, by the same test, into the dead-end registry, and demotes axes with two of them and no gain;
  4. assigns axes: first those with a change that gained in its only trial, which is tried again; then by optimistic value (best shrunk gain plus a
     bonus for few looks), refining settings that gained and drawing new ones elsewhere, away from dead ends.

One look at 90% would promote something in most campaigns without any effect (tests/meta_agent/test_statistical_agent.py simulates them). Dev decides whose external score is asked for; the external score alone decides promotions.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import unmet_conditions
from aevo_jax.config.search_space import Axis, SearchSpace, neighbour, sample
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, Policy, render_overlay

PRIOR_SD = 0.03  # of an axis effect, for shrinkage and the bonus of axes seldom looked at
DEAD_END_ROUNDS = 3
DEAD_END_DISTANCE = 0.2  # in units of each parameter's range
REFINE_STEP = 0.2
LOOKS = 2  # trials whose released external score a promotion needs
DRAWS = 40


@dataclasses.dataclass
class Observation:
  """All looks at one change: gains over the anchor of the same round."""

  axis: str
  changes: dict[str, Any]
  dev: list[float] = dataclasses.field(default_factory=list)
  external: list[float] = dataclasses.field(default_factory=list)


def decide(history: Sequence[dict], policy: Policy, constitution: Constitution, defaults: dict[str, Any], seed: int) -> Policy:
  """The policy of the next round.

  Args:
    history: evidence of all rounds so far, oldest first. policy: that of the last round.
    constitution: search space, thresholds and number of workers. defaults: selector -> value of the substrate's default recipe.
    seed: of the settings drawn.
  """
  space, rule = constitution.space(), constitution.promotion
  rng = np.random.default_rng([seed, policy.round])
  observations = observe(history)
  latest = history[-1]
  standing, promoted, reasons = dict(policy.standing), dict(policy.promoted), []

  previous = _rollback(history, rule.min_gain)
  if previous is not None:
    standing, lost = previous
    promoted = {axis: changes for axis, changes in promoted.items() if all(standing.get(k) == v for k, v in changes.items())}
    reasons.append(f'rolled back to the standing recipe before: the anchor scored {-lost:.3f} lower on external after the last promotion')
  else:
    for observation in _significant(observations, latest, rule):
      if all(standing.get(k) == v for k, v in observation.changes.items()):
        continue
      gain = float(np.mean(observation.external))
      standing = prune(standing | observation.changes, space, defaults)
      promoted[observation.axis] = observation.changes
      reasons.append(f'promoted {observation.axis}: {_words(observation.changes)} gained {gain:+.3f} on external over {len(observation.external)} trial(s), '
                     f'beyond the noise floor (sd {latest["noise"]["seed_sd"]:.4f})')

  dead_ends = list(policy.dead_ends)
  known = {(d.axis, render_overlay(d.changes)) for d in dead_ends}
  for observation in observations.values():
    confidence = 1 - _tail(-float(np.mean(observation.dev)), len(observation.dev), latest['noise'], latest)
    key = (observation.axis, render_overlay(observation.changes))
    if float(np.mean(observation.dev)) <= -rule.min_gain and confidence >= rule.confidence and key not in known:
      dead_ends.append(DeadEnd(*(observation.axis, observation.changes, round(float(np.mean(observation.dev)), 4), round(confidence, 4)), policy.round,
                               policy.round + 1 + DEAD_END_ROUNDS))
      reasons.append(f'dead end on {observation.axis}: {_words(observation.changes)} lost {-float(np.mean(observation.dev)):.3f} on dev')
  counts = defaultdict(int)
  for dead_end in dead_ends:
    counts[dead_end.axis] += 1
  gained = {o.axis for o in observations.values() if np.mean(o.dev) > 0}
  demoted = tuple(sorted(axis for axis, n in counts.items() if n >= 2 and axis not in gained))
  reasons += [f'demoted {axis}: {counts[axis]} dead ends and no gain' for axis in demoted if axis not in policy.demoted]

  assignments = [Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged')]
  for axis, note in _choose_axes(space, observations, demoted, constitution.budget.workers - 1, rule.min_gain, rng):
    assignments.append(_assign(axis, note, standing, observations, dead_ends, space, defaults, policy.round + 1, latest, rule, rng, assignments))
  return Policy(policy.round + 1, policy.digest(), standing, promoted, demoted, tuple(dead_ends), tuple(assignments), tuple(reasons))


def observe(history: Sequence[dict]) -> dict[str, Observation]:
  """Gains of every change over its round's anchors, pooled over rounds."""
  observations: dict[str, Observation] = {}
  for evidence in history:
    anchors = [t for t in evidence['trials'] if t['axis'] == ANCHOR and t['dev'] is not None]
    if not anchors:
      continue
    anchor_dev = float(np.mean([t['dev']['overall']['accuracy'] for t in anchors]))
    released = [t['external'] for t in anchors if t['external'] is not None]
    for trial in evidence['trials']:
      if trial['axis'] == ANCHOR or trial['dev'] is None:
        continue
      key = f'{trial["axis"]}|{render_overlay(trial["changes"])}'
      observation = observations.setdefault(key, Observation(trial['axis'], trial['changes']))
      observation.dev.append(trial['dev']['overall']['accuracy'] - anchor_dev)
      if trial['external'] is not None and released:
        observation.external.append(trial['external'] - float(np.mean(released)))
  return observations


def prune(overlay: dict[str, Any], space: SearchSpace, defaults: dict[str, Any]) -> dict[str, Any]:
  """Drops bindings whose condition no longer holds, e.g. lora.rank once adaptation.method is 'full'."""
  while True:
    values = {**defaults, **overlay}
    unmet = [s for s in overlay if unmet_conditions(space.parameter(s), values)]
    if not unmet:
      return overlay
    overlay = {s: v for s, v in overlay.items() if s not in unmet}


def _tail(gain: float, n: int, noise: dict, evidence: dict) -> float:
  """One-sided p value of a mean gain over `n` trials against the anchors."""
  anchors = max(1, sum(t['axis'] == ANCHOR and t['dev'] is not None for t in evidence['trials']))
  error = noise['seed_sd'] * math.sqrt((1 + 1 / anchors) / n)
  return float(stats.t.sf(gain / error, max(noise['degrees_of_freedom'], 1)))


def _significant(observations: dict[str, Observation], latest: dict, rule) -> list[Observation]:
  """The best change of each axis that passes the promotion rule, looked at in the latest round, best first."""
  fresh = {f'{t["axis"]}|{render_overlay(t["changes"])}' for t in latest['trials']}
  released = max(1, sum(t['axis'] != ANCHOR and t['external'] is not None for t in latest['trials']))
  best: dict[str, Observation] = {}
  for key, observation in observations.items():
    if key not in fresh or len(observation.external) < LOOKS:
      continue
    gain = float(np.mean(observation.external))
    if gain >= rule.min_gain and _tail(gain, len(observation.external), latest['noise'], latest) <= (1 - rule.confidence) / released:
      if observation.axis not in best or gain > np.mean(best[observation.axis].external):
        best[observation.axis] = observation
  return sorted(best.values(), key=lambda o: (-float(np.mean(o.external)), o.axis))


def _rollback(history: Sequence[dict], min_gain: float) -> tuple[dict, float] | None:
  """(the overlay to return to, loss) if the latest standing recipe scored lower on external than the one it replaced."""
  def external(evidence):
    scores = [t['external'] for t in evidence['trials'] if t['axis'] == ANCHOR and t['external'] is not None]
    return float(np.mean(scores)) if scores else None
  if len(history) < 2 or history[-1]['standing'] == history[-2]['standing']:
    return None
  before, after = external(history[-2]), external(history[-1])
  if before is None or after is None or after >= before - min_gain:
    return None
  return dict(history[-2]['standing']), after - before


def _choose_axes(space: SearchSpace, observations: dict[str, Observation], demoted: Sequence[str], count: int, min_gain: float,
                 rng: np.random.Generator) -> list[tuple[Axis, str]]:
  """The axes of the next round, most promising first; an axis comes twice only when there are fewer axes than workers."""
  looks = defaultdict(list)
  for observation in observations.values():
    looks[observation.axis] += observation.dev
  shrink = PRIOR_SD**2 / (PRIOR_SD**2 + 0.015**2)
  pending = {o.axis for o in observations.values() if _to_retest(o, min_gain)}
  ranked = []
  for axis, tie in zip(space.axes, rng.permutation(len(space.axes))):
    seen = looks[axis.name]
    value = max((shrink * g for g in seen), default=0.0) + PRIOR_SD / math.sqrt(1 + len(seen))
    ranked.append((axis.name not in pending, axis.name in demoted, -round(value, 6) if seen else -math.inf, int(tie), axis, 'not looked at yet' if not seen else f'best gain so far {max(seen):+.3f}'))
  ranked.sort(key=lambda row: row[:4])
  chosen = [(axis, note) for *_, axis, note in ranked]
  return [chosen[i % len(chosen)] for i in range(count)]


def _to_retest(observation: Observation, min_gain: float) -> bool:
  """Gained in its only trial: worth a second look before anything else."""
  return len(observation.dev) == 1 and observation.dev[0] >= min_gain


def _assign(axis: Axis, note: str, standing: dict, observations: dict[str, Observation], dead_ends: Sequence[DeadEnd], space: SearchSpace, defaults: dict,
            round_: int, latest: dict, rule, rng: np.random.Generator, taken: Sequence[Assignment]) -> Assignment:
  """A setting for one axis that differs from the standing recipe."""
  mine = sorted((o for o in observations.values() if o.axis == axis.name), key=lambda o: -float(np.mean(o.dev)))
  best = mine[0] if mine and np.mean(mine[0].dev) > 0 else None
  used = {render_overlay(a.overlay) for a in taken}
  base = prune(dict(standing), space, defaults)

  def assignment(changes: dict[str, Any], reason: str) -> Assignment | None:
    overlay = prune(base | changes, space, defaults)
    changes = {k: v for k, v in changes.items() if k in overlay}
    same = all({**defaults, **base}.get(k) == v for k, v in changes.items())
    return None if same or render_overlay(overlay) in used else Assignment(axis.name, changes, overlay, reason)

  if best is not None and _to_retest(best, rule.min_gain):
    retest = assignment(best.changes, f'retest: gained {np.mean(best.dev):+.3f} on dev in one trial, not promoted')
    if retest is not None:
      return retest
  for draw in range(DRAWS):
    if best is not None and draw < DRAWS // 2 and any(space.parameter(k).kind in ('float', 'int') for k in best.changes):
      changes = {k: neighbour(v, space.parameter(k), rng, REFINE_STEP) if space.parameter(k).kind in ('float', 'int') else v for k, v in best.changes.items()}
      reason = f'refine {_words(best.changes)} ({note})'
    else:
      changes, reason = {b.selector: b.value for b in sample(axis, rng, {**defaults, **standing})}, f'new setting ({note})'
    near = any(_distance(changes, d.changes, space) < DEAD_END_DISTANCE for d in dead_ends if d.axis == axis.name and d.expires >= round_)
    found = None if near and draw < DRAWS - 1 else assignment(changes, reason)
    if found is not None:
      return found
  return Assignment(ANCHOR, {}, dict(standing), f'a further anchor: no new setting of {axis.name} in {DRAWS} draws')


def _distance(a: dict[str, Any], b: dict[str, Any], space: SearchSpace) -> float:
  """Largest difference over the parameters of two settings of one axis, each in units of its range; 1 where only one is bound."""
  largest = 0.0
  for selector in a.keys() | b.keys():
    if selector not in a or selector not in b:
      return 1.0
    parameter = space.parameter(selector)
    if parameter.kind in ('float', 'int'):
      span = lambda v: math.log(v) if parameter.scale == 'log' else v
      largest = max(largest, abs(span(a[selector]) - span(b[selector])) / (span(parameter.high) - span(parameter.low)))
    else:
      largest = max(largest, float(a[selector] != b[selector]))
  return largest


def _words(changes: dict[str, Any]) -> str:
  return ', '.join(f'{k} = {v:.3g}' if isinstance(v, float) else f'{k} = {v}' for k, v in sorted(changes.items()))
