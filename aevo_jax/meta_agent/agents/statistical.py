"""The default meta agent: statistics only, offline, a pure function of the evidence.

After each round it
  1. rolls the standing recipe back if the anchors show that the last promotion lowered the external
     score, beyond the noise floor;
  2. promotes the one change that raised the released external score most, by at least `min_gain`
     and beyond the noise floor: gains of one change are pooled over rounds and pass
       `promotion_rule`;
  3. estimates the effect of every axis' settings from the dev scores of all rounds, family by
     family (see `effects`), enters settings that lose beyond doubt into the dead-end registry, and
     demotes axes with two of them and no setting that may gain; of a family whose dev lost trust,
     the released external scores are taken instead, and where there are none dev's steps times what
     they are worth (`Policy.objectives`);
  4. assigns workers: of changes tried before and of recipes that change several axes at once, those
     that are worth most together to the promotion rule in the rounds that are left (see `proposals`
     and `promotion_value`).

Several axes a worker, because 28 trials of one axis each look at every axis of twelve about twice,
and 28 trials of two or three each five times. Dev decides whose external score is asked for; the
external score alone decides promotions. benchmarks/agent_comparison.py simulates how often noise is
promoted, and what is gained.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import Axis, draw, prune
from aevo_jax.meta_agent import effects as effects_lib
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.encoding import Encoder
from aevo_jax.meta_agent.observations import (
  Observation,
  anchor_trials,
  by_axis,
  observe,
  rollback,
  settings,
  significant,
)
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, Policy, render_overlay
from aevo_jax.meta_agent.promotion_value import Outlook
from aevo_jax.meta_agent.proposals import Situation, explorers

DEAD_END_ROUNDS = 3
PROBES = 20  # settings of an axis that are looked at before it is demoted


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """The policy of the next round.

  Args:
    history: evidence of all rounds so far, oldest first. policy: that of the last round.
    constitution: search space, thresholds and number of workers. defaults: selector -> value of the
      substrate's default recipe.
    seed: of the settings drawn.
  """
  space, rule = constitution.space(), constitution.promotion
  rng = np.random.default_rng([seed, policy.round])
  observations = observe(history, policy.objectives)
  latest = history[-1]
  measure = 'the consensus of the proxies' if latest.get('target') == 'proxies' else 'external'
  standing, promoted, reasons = dict(policy.standing), dict(policy.promoted), []

  previous = rollback(history, rule)
  if previous is not None:
    standing, lost = previous
    promoted = {
      axis: changes
      for axis, changes in promoted.items()
      if all(standing.get(k) == v for k, v in changes.items())
    }
    reasons.append(
      f'rolled back to the standing recipe before: anchors score {-lost:.3f} lower on '
      f'{measure} since the last promotion, beyond the noise floor'
    )
  else:
    for observation in significant(observations, history, constitution):
      if all(standing.get(k) == v for k, v in observation.changes.items()):
        continue
      standing = prune(standing | observation.changes, space, defaults)
      promoted |= by_axis(observation.changes, space)
      reasons.append(promotion_reason(observation, latest['noise'], measure))

  effects = _effects(
    history,
    standing,
    Encoder(space, defaults),
    policy.objectives,
    constitution.reversal.calibration_rounds,
  )
  base = prune(standing, space, defaults)
  dead_ends = list(policy.dead_ends)
  known = {(d.axis, render_overlay(d.changes)) for d in dead_ends if d.expires > policy.round}
  tried = settings(observations.values(), space)
  for (axis, changes), gain, sd in zip(
    tried, *_own_gains([changes for _, changes in tried], effects, base)
  ):
    confidence = (
      float(special.ndtr(-gain / sd)) if sd else 0.0
    )  # sd 0: the standing recipe has it already
    if (
      gain <= -rule.min_gain
      and confidence >= rule.confidence
      and (axis, render_overlay(changes)) not in known
    ):
      dead_ends.append(
        DeadEnd(
          axis,
          changes,
          round(float(gain), 4),
          round(confidence, 4),
          policy.round,
          policy.round + 1 + DEAD_END_ROUNDS,
        )
      )
      reasons.append(f'dead end on {axis}: {_words(changes)} costs {-gain:.3f} on dev')
  live = [d for d in dead_ends if d.expires > policy.round + 1]
  counts = Counter(d.axis for d in live)
  demoted = tuple(
    axis.name
    for axis in space.axes
    if counts[axis.name] >= 2
    and axis.name not in promoted
    and not _may_gain(axis, effects, base, defaults, rule.min_gain, rng)
  )
  reasons += [
    f'demoted {axis}: {counts[axis]} dead ends, and none of {PROBES} other settings may gain'
    for axis in demoted
    if axis not in policy.demoted
  ]

  anchors = sum(t['external'] is not None for t in anchor_trials(history, standing))
  outlook = Outlook(
    constitution.budget.rounds - policy.round,
    latest['noise']['seed_sd'],
    latest['noise']['degrees_of_freedom'],
    anchors,
    promotion_rule.level(constitution),
    rule.min_gain,
  )
  situation = Situation(base, demoted, live, effects, outlook)
  assignments = (
    Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged'),
    *explorers(situation, observations, constitution.budget.workers - 1, rng),
  )
  return Policy(
    policy.round + 1,
    policy.digest(),
    standing,
    promoted,
    demoted,
    tuple(dead_ends),
    assignments,
    tuple(reasons),
  )


def promotion_reason(observation: Observation, noise: dict, measure: str = 'external') -> str:
  """The sentence that a promoted change is explained by."""
  return (
    f'promoted {observation.axis}: {_words(observation.changes)} gained '
    f'{float(np.mean(observation.external)):+.3f} on {measure} over '
    f'{len(observation.external)} trial(s), beyond the noise floor (sd {noise["seed_sd"]:.4f})'
  )


def _effects(
  history: Sequence[dict],
  standing: dict[str, Any],
  encoder: Encoder,
  objectives: Mapping[str, float],
  calibration_rounds: int,
) -> effects_lib.Effects:
  """What the scores of all rounds say of every setting, and of the standing recipe: dev's, but of
  families whose objective is another the released external ones.

  In the calibration rounds dev did track external, or there would have been no alarm; so what is
  only known on dev there is taken as it is.
  """
  trials = []
  for evidence in history:
    anchors = anchor_trials(history, evidence['standing'])
    if not anchors:
      continue
    before, released = (
      encoder.prune(evidence['standing']),
      [t for t in anchors if t['external_by_family'] is not None],
    )
    counts = {
      True: _counts(anchors, objectives if released else (), released),
      False: _counts(anchors),
    }
    for trial in evidence['trials']:
      if trial['axis'] == ANCHOR or trial['dev'] is None:
        continue
      told = bool(released) and trial['external_by_family'] is not None
      families = frozenset(objectives) if told else frozenset()
      trials.append(
        effects_lib.Trial(
          before,
          encoder.prune(before | trial['changes']),
          _counts([trial], families, [trial]),
          counts[told],
          len(anchors),
          families,
          objectives if evidence['round'] > calibration_rounds else {},
        )
      )
  looks = _looks(history, standing, encoder)
  released = [t for t in looks if t['external_by_family'] is not None]
  return effects_lib.fit(encoder, trials, _counts(looks, objectives if released else (), released))


def _looks(history: Sequence[dict], standing: dict[str, Any], encoder: Encoder) -> list[dict]:
  """All scored trials that ran a recipe, under whatever name; every one if none did, so that there
  is something to go by.
  """
  scored = [
    (encoder.prune(evidence['standing'] | t['changes']), t)
    for evidence in history
    for t in evidence['trials']
    if t['dev'] is not None
  ]
  return [t for overlay, t in scored if overlay == encoder.prune(standing)] or [
    t for _, t in scored
  ]


def _counts(
  trials: Sequence[dict], external: Iterable[str] = (), released: Sequence[dict] = ()
) -> dict[str, effects_lib.Count]:
  """What several trials got right of each family on dev, or on the external set (of the `released`
  ones) for the families `external`; of 'overall' where no families are told apart."""
  parts = [t['dev']['by_family'] or {'overall': t['dev']['overall']} for t in trials]
  if not parts:
    return {'overall': effects_lib.Count(0, 0)}
  found = {
    f: effects_lib.Count(sum(p[f]['correct'] for p in parts), sum(p[f]['total'] for p in parts))
    for f in parts[0]
  }
  for f in external:
    scores = [t['external_by_family'][f] for t in released]
    found[f] = effects_lib.Count(
      round(sum(s['accuracy'] * s['total'] for s in scores)), sum(s['total'] for s in scores)
    )
  return found


def _own_gains(
  changes: Sequence[dict[str, Any]], effects: effects_lib.Effects, base: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """[N] gains of changes of one axis each, and their standard deviations, without what any change
  costs on average.
  """
  encoder = effects.encoder
  after = np.asarray([encoder.codes(encoder.prune(base | c)) for c in changes]).reshape(
    len(changes), len(encoder.parameters)
  )
  steps = encoder.differences(encoder.codes(base), after)
  steps[:, 0] = 0.0
  return effects.gains(steps)


def _may_gain(
  axis: Axis,
  effects: effects_lib.Effects,
  base: dict[str, Any],
  defaults: dict[str, Any],
  min_gain: float,
  rng: np.random.Generator,
) -> bool:
  """Whether some random setting of the axis gains `min_gain` or more at one standard deviation
  above what is expected of it.
  """
  gains, sds = _own_gains(
    [draw(axis, rng, {**defaults, **base}) for _ in range(PROBES)], effects, base
  )
  return bool((gains + sds >= min_gain).any())


def _words(changes: dict[str, Any]) -> str:
  return ', '.join(
    f'{k} = {v:.3g}' if isinstance(v, float) else f'{k} = {v}' for k, v in sorted(changes.items())
  )
