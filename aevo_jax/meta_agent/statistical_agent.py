"""The default meta agent: statistics only, offline, a pure function of the evidence.

After each round it
  1. rolls the standing recipe back if the anchors show that the last promotion lowered the external score, beyond the noise floor;
  2. promotes the one change that raised the released external score most, by at least `min_gain` and beyond the noise floor: gains of one change are
     pooled over rounds, t = mean gain / (seed_sd sqrt(1/n + 1/anchors)) against Student's t with the noise's degrees of freedom, at the
     constitution's confidence divided (Bonferroni) among all explorers of the campaign;
  3. estimates the effect of every axis' settings from the dev scores of all rounds, family by family (see `effects`), enters settings that lose beyond
     doubt into the dead-end registry, and demotes axes with two of them and no setting that may gain;
  4. assigns workers: changes that gained in their only trial are tried again; one runs the recipe that is expected to be best; the others run recipes that
     change several axes at once, each the best of many random ones under effects drawn from their posterior (Thompson 1933).

Several axes a worker, because 28 trials of one axis each look at every axis of twelve about twice, and 28 trials of two or three each five times. Dev
decides whose external score is asked for; the external score alone decides promotions. tests/meta_agent/test_statistical_agent.py simulates how often
noise is promoted.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import unmet_conditions
from aevo_jax.config.search_space import Axis, SearchSpace, neighbour, sample
from aevo_jax.meta_agent import effects as effects_lib
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, Policy, render_overlay

DEAD_END_ROUNDS = 3
DEAD_END_DISTANCE = 0.2  # in units of each parameter's range
REFINE_STEP = 0.2
NEW, PAST = 15, 10  # random and past settings of an axis to choose from in a round
SUBSETS = 60  # sets of axes, of which an explorer takes the best
ATTEMPTS = 5  # draws of the effects for each explorer, until its recipe is a new one
CHANGED = (0.05, 0.2)  # range of the probability that a set has an axis
DEMOTED = 0.05  # the same of a demoted axis
PROBES = 20  # settings of an axis that are looked at before it is demoted


@dataclasses.dataclass
class Observation:
  """All looks at one change, of one axis or several: gains over the anchor of the same round."""

  axis: str
  changes: dict[str, Any]
  dev: list[float] = dataclasses.field(default_factory=list)
  external: list[float] = dataclasses.field(default_factory=list)
  anchors: int = 0  # that each external gain is taken over, at least


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
  measure = 'the consensus of the proxies' if latest.get('target') == 'proxies' else 'external'
  standing, promoted, reasons = dict(policy.standing), dict(policy.promoted), []

  previous = _rollback(history, rule)
  if previous is not None:
    standing, lost = previous
    promoted = {axis: changes for axis, changes in promoted.items() if all(standing.get(k) == v for k, v in changes.items())}
    reasons.append(f'rolled back to the standing recipe before: anchors score {-lost:.3f} lower on {measure} since the last promotion, beyond the noise floor')
  else:
    for observation in _significant(observations, history, constitution):
      if all(standing.get(k) == v for k, v in observation.changes.items()):
        continue
      gain = float(np.mean(observation.external))
      standing = prune(standing | observation.changes, space, defaults)
      promoted |= _by_axis(observation.changes, space)
      reasons.append(f'promoted {observation.axis}: {_words(observation.changes)} gained {gain:+.3f} on {measure} over {len(observation.external)} trial(s), '
                     f'beyond the noise floor (sd {latest["noise"]["seed_sd"]:.4f})')

  effects = _effects(history, standing, space, defaults)
  dead_ends = list(policy.dead_ends)
  known = {(d.axis, render_overlay(d.changes)) for d in dead_ends if d.expires > policy.round}
  for axis, changes in _settings(observations.values(), space):
    gain, sd = effects.gain(standing, prune(standing | changes, space, defaults), own=True)
    confidence = float(stats.norm.sf(gain / sd)) if sd else 0.0  # sd 0: the standing recipe has it already
    if gain <= -rule.min_gain and confidence >= rule.confidence and (axis, render_overlay(changes)) not in known:
      dead_ends.append(DeadEnd(axis, changes, round(gain, 4), round(confidence, 4), policy.round, policy.round + 1 + DEAD_END_ROUNDS))
      reasons.append(f'dead end on {axis}: {_words(changes)} costs {-gain:.3f} on dev')
  live = [d for d in dead_ends if d.expires > policy.round + 1]
  counts = Counter(d.axis for d in live)
  demoted = tuple(axis.name for axis in space.axes if counts[axis.name] >= 2 and axis.name not in promoted
                  and not _may_gain(axis, effects, standing, space, defaults, rule.min_gain, rng))
  reasons += [f'demoted {axis}: {counts[axis]} dead ends, and none of {PROBES} other settings may gain' for axis in demoted if axis not in policy.demoted]

  explorers = _explorers(space, observations, standing, defaults, demoted, live, effects, constitution.budget.workers - 1, rule.min_gain, rng)
  assignments = (Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged'), *explorers)
  return Policy(policy.round + 1, policy.digest(), standing, promoted, demoted, tuple(dead_ends), assignments, tuple(reasons))


def observe(history: Sequence[dict]) -> dict[str, Observation]:
  """Gains of every change over the anchors of the standing recipe it was tried on, pooled over rounds."""
  observations: dict[str, Observation] = {}
  for evidence in history:
    anchors = _anchor_trials(history, evidence['standing'])
    dev, released = [t['dev']['overall']['accuracy'] for t in anchors], [t['external'] for t in anchors if t['external'] is not None]
    for trial in evidence['trials']:
      if trial['axis'] == ANCHOR or trial['dev'] is None or not dev:
        continue
      key = f'{trial["axis"]}|{render_overlay(trial["changes"])}'
      observation = observations.setdefault(key, Observation(trial['axis'], trial['changes']))
      observation.dev.append(trial['dev']['overall']['accuracy'] - float(np.mean(dev)))
      if trial['external'] is not None and released:
        observation.external.append(trial['external'] - float(np.mean(released)))
        observation.anchors = min(observation.anchors or len(released), len(released))
  return observations


def _anchor_trials(history: Sequence[dict], standing: dict[str, Any]) -> list[dict]:
  """Every scored anchor that ran this standing recipe, in any round: each trial has a seed of its own, and a round adds nothing to it."""
  return [t for evidence in history if evidence['standing'] == standing for t in evidence['trials'] if t['axis'] == ANCHOR and t['dev'] is not None]


def prune(overlay: dict[str, Any], space: SearchSpace, defaults: dict[str, Any]) -> dict[str, Any]:
  """Drops bindings whose condition no longer holds, e.g. lora.rank once adaptation.method is 'full'."""
  while True:
    values = {**defaults, **overlay}
    unmet = [s for s in overlay if unmet_conditions(space.parameter(s), values)]
    if not unmet:
      return overlay
    overlay = {s: v for s, v in overlay.items() if s not in unmet}


def _tail(observation: Observation, noise: dict) -> float:
  """One-sided p value of the mean external gain of a change."""
  error = noise['seed_sd'] * math.sqrt(1 / len(observation.external) + 1 / observation.anchors)
  return float(stats.t.sf(float(np.mean(observation.external)) / error, max(noise['degrees_of_freedom'], 1)))


def _significant(observations: dict[str, Observation], history: Sequence[dict], constitution: Constitution) -> list[Observation]:
  """The best change that passes the promotion rule, looked at in the latest round; or none."""
  latest, rule, budget = history[-1], constitution.promotion, constitution.budget
  fresh = {f'{t["axis"]}|{render_overlay(t["changes"])}' for t in latest['trials']}
  level = (1 - rule.confidence) / (budget.rounds * (budget.workers - 1))  # of every explorer that the campaign will have had
  passed = []
  for key, observation in observations.items():
    if key not in fresh or not observation.external:
      continue
    # Rounded: scores have two decimals, and .03 - .02 < .01 in floating point.
    if round(float(np.mean(observation.external)), 9) >= rule.min_gain and _tail(observation, latest['noise']) <= level:
      passed.append(observation)
  return sorted(passed, key=lambda o: (-float(np.mean(o.external)), o.axis))[:1]


def _rollback(history: Sequence[dict], rule) -> tuple[dict, float] | None:
  """The standing recipe before the last change of it, and the (negative) difference, if all anchors since show a loss beyond the noise floor."""
  current, noise = history[-1]['standing'], history[-1]['noise']
  earlier = [evidence['standing'] for evidence in history if evidence['standing'] != current]
  if not earlier:
    return None
  before, after = ([t['external'] for t in _anchor_trials(history, s) if t['external'] is not None] for s in (earlier[-1], current))
  if not before or not after:
    return None
  lost = float(np.mean(after) - np.mean(before))
  error = noise['seed_sd'] * math.sqrt(1 / len(before) + 1 / len(after))
  if round(lost, 9) > -rule.min_gain or stats.t.cdf(lost / error, max(noise['degrees_of_freedom'], 1)) > 1 - rule.confidence:
    return None
  return dict(earlier[-1]), lost


def _effects(history: Sequence[dict], standing: dict[str, Any], space: SearchSpace, defaults: dict[str, Any]) -> effects_lib.Effects:
  """What the dev scores of all rounds say of every setting, and of the standing recipe."""
  trials = []
  for evidence in history:
    anchors = [t['dev'] for t in _anchor_trials(history, evidence['standing'])]
    if not anchors:
      continue
    before, counts = prune(evidence['standing'], space, defaults), _counts(anchors)
    trials += [effects_lib.Trial(before, prune(before | t['changes'], space, defaults), _counts([t['dev']]), counts, len(anchors))
               for t in evidence['trials'] if t['axis'] != ANCHOR and t['dev'] is not None]
  return effects_lib.fit(space, defaults, trials, _counts(_looks(history, standing, space, defaults)))


def _looks(history: Sequence[dict], standing: dict[str, Any], space: SearchSpace, defaults: dict[str, Any]) -> list[dict]:
  """Dev scores of all trials that ran a recipe, under whatever name; of every trial if none did, so that there is something to go by."""
  scored = [(prune(evidence['standing'] | t['changes'], space, defaults), t['dev']) for evidence in history for t in evidence['trials'] if t['dev'] is not None]
  return [dev for overlay, dev in scored if overlay == prune(standing, space, defaults)] or [dev for _, dev in scored]


def _counts(scores: Sequence[dict]) -> dict[str, effects_lib.Count]:
  """What several dev scores got right of each family; of 'overall' where no families are told apart."""
  parts = [s['by_family'] or {'overall': s['overall']} for s in scores]
  if not parts:
    return {'overall': effects_lib.Count(0, 0)}
  return {f: effects_lib.Count(sum(p[f]['correct'] for p in parts), sum(p[f]['total'] for p in parts)) for f in parts[0]}


def _by_axis(changes: dict[str, Any], space: SearchSpace) -> dict[str, dict[str, Any]]:
  """Axis -> its part of the changes."""
  parts = {axis.name: {p.selector: changes[p.selector] for p in axis.parameters if p.selector in changes} for axis in space.axes}
  return {name: part for name, part in parts.items() if part}


def _settings(observations: Iterable[Observation], space: SearchSpace) -> list[tuple[str, dict[str, Any]]]:
  """Every (axis, changes) that some trial ran, each once."""
  found = {(name, render_overlay(part)): (name, part) for o in observations for name, part in _by_axis(o.changes, space).items()}
  return list(found.values())


def _may_gain(axis, effects: effects_lib.Effects, standing: dict[str, Any], space: SearchSpace, defaults: dict[str, Any], min_gain: float,
              rng: np.random.Generator) -> bool:
  """Whether some random setting of the axis gains `min_gain` or more at one standard deviation above what is expected of it."""
  for _ in range(PROBES):
    changes = {b.selector: b.value for b in sample(axis, rng, {**defaults, **standing})}
    gain, sd = effects.gain(standing, prune(standing | changes, space, defaults), own=True)
    if gain + sd >= min_gain:
      return True
  return False


def _to_retest(observation: Observation, min_gain: float) -> bool:
  """Gained in its only trial: worth a second look before anything else."""
  return len(observation.dev) == 1 and observation.dev[0] >= min_gain


def _explorers(space: SearchSpace, observations: dict[str, Observation], standing: dict[str, Any], defaults: dict[str, Any], demoted: Sequence[str],
               dead_ends: Sequence[DeadEnd], effects: effects_lib.Effects, count: int, min_gain: float, rng: np.random.Generator) -> list[Assignment]:
  """What the explorers run: second looks, half of them at most, then the candidates that effects drawn from the posterior favour."""
  base = prune(dict(standing), space, defaults)
  chosen: dict[str, Assignment] = {}

  def offer(changes: dict[str, Any], reason: str) -> None:
    overlay = prune(base | changes, space, defaults)
    changes = {k: v for k, v in changes.items() if k in overlay and v != {**defaults, **base}.get(k)}
    if changes and len(chosen) < count:
      axes = list(_by_axis(changes, space))
      axis = ' + '.join(axes) if len(axes) <= 2 else f'{len(axes)} axes'
      chosen.setdefault(render_overlay(overlay), Assignment(axis, changes, overlay, reason))

  gained = sorted((o for o in observations.values() if _to_retest(o, min_gain)), key=lambda o: -o.dev[0])
  for observation in gained[:(count + 1) // 2]:
    offer(observation.changes, f'retest: gained {observation.dev[0]:+.3f} on dev in one trial, not promoted')

  seen = {render_overlay(prune(base | o.changes, space, defaults)) for o in observations.values()}
  past = defaultdict(list)
  for axis, setting in _settings(observations.values(), space):
    past[axis].append(setting)
  menus = {axis.name: _menu(axis, past[axis.name], base, space, defaults, [d for d in dead_ends if d.axis == axis.name], rng) for axis in space.axes}
  menus = {name: menu for name, menu in menus.items() if menu}
  moves = {name: np.stack([effects.difference(base, prune(base | setting, space, defaults)) for setting in menu]) for name, menu in menus.items()}
  # The first round has nothing to go by; from the second on, one explorer runs what is expected to be best, and is tried again if it gains.
  greedy = bool(observations)
  for _ in range(ATTEMPTS * count):
    if len(chosen) == count:
      break
    weights, how = (effects.means, 'expected') if greedy else (effects.draw(rng), 'drawn')
    greedy = False
    steps = {name: features @ weights.T for name, features in moves.items()}
    best = {name: int(np.argmax(effects.overall(s))) for name, s in steps.items()}
    subsets = (_subset(list(menus), demoted, rng) for _ in range(SUBSETS))
    subset = max((s for s in subsets if s), key=lambda names: effects.overall(sum(steps[n][best[n]] for n in names)), default=())
    changes = {k: v for name in subset for k, v in menus[name][best[name]].items()}
    if changes and render_overlay(prune(base | changes, space, defaults)) not in seen:
      gain, sd = effects.gain(base, prune(base | changes, space, defaults))
      offer(changes, f'expected {gain:+.3f} +- {sd:.3f} on dev, the most promising of {SUBSETS} sets of axes under {how} effects')
  further = Assignment(ANCHOR, {}, dict(standing), 'a further anchor: no new setting was found')
  return [*chosen.values(), *[further] * (count - len(chosen))]


def _menu(axis: Axis, past: Sequence[dict[str, Any]], base: dict[str, Any], space: SearchSpace, defaults: dict[str, Any], dead_ends: Sequence[DeadEnd],
          rng: np.random.Generator) -> list[dict[str, Any]]:
  """Settings of one axis to choose from, none of them near a dead end: random ones, and those of past trials with their numbers moved a little."""
  settings = [{b.selector: b.value for b in sample(axis, rng, {**defaults, **base})} for _ in range(NEW)]
  for index in rng.permutation(len(past))[:PAST]:
    settings.append({k: neighbour(v, space.parameter(k), rng, REFINE_STEP) if space.parameter(k).kind in ('float', 'int') else v for k, v in past[index].items()})
  here = prune(base, space, defaults)
  settings = {render_overlay(s): s for s in settings if prune(base | s, space, defaults) != here}
  return [s for s in settings.values() if not any(_distance(s, d.changes, space) < DEAD_END_DISTANCE for d in dead_ends)]


def _subset(axes: Sequence[str], demoted: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
  """Axes to change together, each with the same random probability."""
  share = rng.uniform(*CHANGED)
  return tuple(name for name in axes if rng.random() < (DEMOTED if name in demoted else share))


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
