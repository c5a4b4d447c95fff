"""The default meta agent: statistics only, offline, a pure function of the evidence.

After each round it
  1. rolls the standing recipe back if the anchors show that the last promotion lowered the external
     score, beyond the noise floor;
  2. promotes the one change that raised the released external score most, if it passes
     `promotion_rule` on looks that were fixed before their scores were known, and no protected
     family fell;
  3. estimates the effect of every axis' settings from the dev scores of all rounds, family by
     family (see `effects`), enters settings that lose beyond doubt into the dead-end registry, and
     demotes axes with two of them and no setting that may gain. Of a family whose dev lost trust,
     the released external scores are taken instead; where there are none, dev's steps times what
     they are worth (`Policy.objectives`);
  4. assigns workers: of changes tried before, several times where the rule needs that many looks,
     and of recipes that change several axes at once, those that are worth most together to the
     promotion rule in the rounds that are left (see `proposals` and `promotion_value`).

Several axes a worker, because 28 trials of one axis each look at every axis of twelve about twice,
and 28 trials of two or three each five times. Dev decides whose external score is asked for; the
external score alone decides promotions. benchmarks/promotion_noise.py simulates how often noise is
promoted, and benchmarks/agent_comparison.py what is gained.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import draw, prune
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.effects import Count, Effects, Trial, fit
from aevo_jax.meta_agent.encoding import Encoder
from aevo_jax.meta_agent.evidence import PROXIES, Evidence, ExternalNoise, TrialEvidence
from aevo_jax.meta_agent.observations import (
  Observation,
  anchor_trials,
  by_axis,
  candidates,
  observe,
  released_anchors,
  rollback,
  settings,
  significant,
)
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, DeadEnd, Policy, render_overlay
from aevo_jax.meta_agent.promotion_rule import Candidate
from aevo_jax.meta_agent.promotion_value import Outlook
from aevo_jax.meta_agent.proposals import Situation, explorers
from aevo_jax.meta_agent.scores import OVERALL

DEAD_END_ROUNDS = 3
# Settings of an axis that are looked at before it is demoted.
PROBES = 20


class Statistical(Agent):
  """Promotes by the rule, and explores where the posterior of the effects says."""

  uses_verdicts = True

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Decides in the four steps of the module's docstring; arguments as in `Agent`."""
    rng = np.random.default_rng([seed, policy.round])
    observations = observe(history, policy.objectives)
    changed = self.standing(history, policy, constitution, defaults)
    space = constitution.space()
    encoder = Encoder(space, defaults)
    calibration = constitution.reversal.calibration_rounds
    effects = _effects(history, changed.standing, encoder, policy.objectives, calibration)
    base = prune(changed.standing, space, defaults)

    entered = _dead_ends(observations, effects, base, policy, constitution)
    dead_ends = (*policy.dead_ends, *entered.dead_ends)
    live = [d for d in dead_ends if d.expires > policy.round + 1]
    exhausted: Counter[str] = Counter()
    for dead in live:
      if dead.axis not in changed.promoted:
        exhausted[dead.axis] += 1
    demoted = _demoted(exhausted, effects, base, constitution.promotion.min_gain, rng)
    demotions = []
    for axis in demoted:
      if axis not in policy.demoted:
        demotions.append(
          f'demoted {axis}: {exhausted[axis]} dead ends, and none of {PROBES} other settings may '
          'gain'
        )

    tested = candidates(history, constitution)
    situation = Situation(
      standing=changed.standing,
      base=base,
      demoted=demoted,
      dead_ends=live,
      effects=effects,
      protected=_protected(history, changed.standing, encoder, constitution),
      outlook=_outlook(history, changed.standing, len(tested), constitution),
      constitution=constitution,
    )
    anchor = Assignment(ANCHOR, {}, dict(changed.standing), 'the standing recipe unchanged')
    others = explorers(situation, observations, tested, constitution.budget.workers - 1, rng)
    return Policy(
      round=policy.round + 1,
      parent=policy.digest(),
      standing=changed.standing,
      promoted=changed.promoted,
      demoted=demoted,
      dead_ends=dead_ends,
      assignments=(anchor, *others),
      reasons=(*changed.reasons, *entered.reasons, *demotions),
    )

  def standing(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
  ) -> 'Standing':
    """Decides the next standing recipe; arguments as in `Agent`."""
    return _standing(history, policy, constitution, defaults)


def _outlook(
  history: Sequence[Evidence], standing: dict[str, Any], tested: int, constitution: Constitution
) -> Outlook:
  """What the promotion rule will ask for, after so many candidates."""
  rule = constitution.promotion
  noise = history[-1].noise.external or ExternalNoise()
  anchors = max(len(released_anchors(history, standing)), 1)
  return Outlook(
    rounds=constitution.budget.rounds - history[-1].round,
    releases=max(constitution.release.per_round - 1, 0),
    change=promotion_rule.change_sample(noise, [0.0], constitution),
    anchor=promotion_rule.anchor_sample(noise, anchors, constitution),
    looks=rule.looks,
    level=(1 - rule.confidence) / rule.candidates,
    candidates=max(rule.candidates - tested, 0),
    min_gain=rule.min_gain,
  )


def promotion_reason(
  candidate: Candidate,
  noise: ExternalNoise,
  constitution: Constitution,
  measure: str = 'external',
) -> str:
  """Words the sentence that explains a promotion.

  Args:
    candidate: the change.
    noise: of the evidence.
    constitution: holds the rule.
    measure: name of the score that the gain is of.

  Returns:
    One sentence.
  """
  p = promotion_rule.p_value(candidate, noise, constitution)
  return (
    f'promoted {candidate.axis}: {_words(candidate.changes)} gained {candidate.gain:+.3f} on '
    f'{measure} in {len(candidate.looks)} fresh looks over {len(candidate.anchors)} anchors '
    f'(p = {p:.2g}, beyond the noise of changed recipes)'
  )


def held_back_reason(candidate: Candidate, constitution: Constitution) -> str:
  """Words the sentence that explains why a change that gains is not promoted.

  Args:
    candidate: the change.
    constitution: holds the floor.

  Returns:
    One sentence.
  """
  falls = [f'{f} {d:+.3f}' for f, d in candidate.fallen(constitution).items()]
  return (
    f'held back {candidate.axis}: {_words(candidate.changes)} gained {candidate.gain:+.3f}, and '
    f'a protected family fell below its floor ({", ".join(falls)})'
  )


class Standing(NamedTuple):
  """The next standing recipe: overlay, axis -> changes that made it in, and why it changes."""

  standing: dict[str, Any]
  promoted: dict[str, dict[str, Any]]
  reasons: tuple[str, ...]


def _standing(
  history: Sequence[Evidence],
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
) -> Standing:
  """Rolls the standing recipe back, or promotes a change, or leaves it."""
  latest = history[-1]
  measure = 'the consensus of the proxies' if latest.target == PROXIES else 'external'
  previous = rollback(history, constitution)
  if previous is not None:
    promoted = {}
    for axis, changes in policy.promoted.items():
      if _holds(changes, previous.standing):
        promoted[axis] = changes
    reason = (
      f'rolled back to the standing recipe before: anchors score {-previous.loss:.3f} lower on '
      f'{measure} since the last promotion, beyond the noise floor'
    )
    return Standing(previous.standing, promoted, (reason,))
  tested = significant(history, constitution)
  held_back = [held_back_reason(candidate, constitution) for candidate in tested.held_back]
  winner = tested.winner
  if winner is None or _holds(winner.changes, policy.standing):
    return Standing(dict(policy.standing), dict(policy.promoted), tuple(held_back))
  space = constitution.space()
  reason = promotion_reason(winner, latest.noise.external, constitution, measure)
  return Standing(
    prune(policy.standing | winner.changes, space, defaults),
    policy.promoted | by_axis(winner.changes, space),
    (reason, *held_back),
  )


def _holds(changes: Mapping[str, Any], standing: Mapping[str, Any]) -> bool:
  return all(standing.get(selector) == value for selector, value in changes.items())


class _Entered(NamedTuple):
  """Dead ends that this round adds to the registry, with a sentence each."""

  dead_ends: list[DeadEnd]
  reasons: list[str]


def _dead_ends(
  observations: Mapping[str, Observation],
  effects: Effects,
  base: dict[str, Any],
  policy: Policy,
  constitution: Constitution,
) -> _Entered:
  """Finds the settings that lose beyond doubt."""
  rule = constitution.promotion
  known = set()
  for dead in policy.dead_ends:
    if dead.expires > policy.round:
      known.add((dead.axis, render_overlay(dead.changes)))
  entered = _Entered([], [])
  tried = settings(observations.values(), effects.encoder.space)
  gains, sds = _own_gains([setting.changes for setting in tried], effects, base)
  for (axis, changes), gain, sd in zip(tried, gains, sds, strict=True):
    # sd 0: the standing recipe has it already.
    confidence = float(special.ndtr(-gain / sd)) if sd else 0.0
    loses = gain <= -rule.min_gain and confidence >= rule.confidence
    if not loses or (axis, render_overlay(changes)) in known:
      continue
    dead = DeadEnd(
      axis=axis,
      changes=changes,
      gain=round(float(gain), 4),
      confidence=round(confidence, 4),
      round=policy.round,
      expires=policy.round + 1 + DEAD_END_ROUNDS,
    )
    entered.dead_ends.append(dead)
    entered.reasons.append(f'dead end on {axis}: {_words(changes)} costs {-gain:.3f} on dev')
  return entered


def _effects(
  history: Sequence[Evidence],
  standing: dict[str, Any],
  encoder: Encoder,
  objectives: Mapping[str, float],
  calibration_rounds: int,
) -> Effects:
  """The posterior from the scores of all rounds: dev's, or released ones where dev lost trust.

  In the calibration rounds dev did track external, or there would have been an alarm. So what is
  only known on dev there is taken as it is.
  """
  trials = []
  for evidence in history:
    anchors = anchor_trials(history, evidence.standing)
    if not anchors:
      continue
    before = encoder.prune(evidence.standing)
    released = _with_families(anchors)
    on_dev = _counts(anchors)
    on_external = _counts(anchors, objectives, released)
    for trial in evidence.explorers:
      compared = bool(released) and trial.external_by_family is not None
      families = frozenset(objectives) if compared else frozenset()
      trials.append(
        Trial(
          before=before,
          after=encoder.prune(before | trial.changes),
          counts=_counts([trial], families, [trial]),
          anchors=on_external if compared else on_dev,
          replicates=len(anchors),
          external=families,
          worth=objectives if evidence.round > calibration_rounds else {},
        )
      )
  looks = _looks(history, standing, encoder)
  released = _with_families(looks)
  return fit(encoder, trials, _counts(looks, objectives, released))


def _protected(
  history: Sequence[Evidence],
  standing: dict[str, Any],
  encoder: Encoder,
  constitution: Constitution,
) -> np.ndarray:
  """[F] bool, the families that may not fall, in the order of `_effects`; overall is none."""
  free = (*constitution.promotion.unprotected, OVERALL)
  families = _counts(_looks(history, standing, encoder))
  return np.asarray([family not in free for family in families], bool)


def _with_families(trials: Sequence[TrialEvidence]) -> list[TrialEvidence]:
  return [t for t in trials if t.external_by_family is not None]


def _looks(
  history: Sequence[Evidence], standing: dict[str, Any], encoder: Encoder
) -> list[TrialEvidence]:
  """All scored trials that ran a recipe, under whatever name; every one if none did."""
  recipe = encoder.prune(standing)
  scored = []
  same = []
  for evidence in history:
    for trial in evidence.trials:
      if trial.dev is None:
        continue
      scored.append(trial)
      if encoder.prune(evidence.standing | trial.changes) == recipe:
        same.append(trial)
  return same or scored


def _counts(
  trials: Sequence[TrialEvidence],
  external: Collection[str] = (),
  released: Sequence[TrialEvidence] = (),
) -> dict[str, Count]:
  """What trials got right of each family on dev, or on the external set for families `external`.

  The external counts are those of the `released` trials. Where no families are told apart,
  'overall' is the only one.
  """
  if not trials:
    return {OVERALL: Count(0, 0)}
  counts: dict[str, Count] = {}
  for trial in trials:
    for family, part in (trial.dev.by_family or {OVERALL: trial.dev.overall}).items():
      before = counts.get(family, Count(0, 0))
      counts[family] = Count(before.correct + part.correct, before.total + part.total)
  if not released:
    return counts
  for family in external:
    scores = [trial.external_by_family[family] for trial in released]
    correct = sum(score.accuracy * score.total for score in scores)
    counts[family] = Count(round(correct), sum(score.total for score in scores))
  return counts


def _own_gains(
  changes: Sequence[dict[str, Any]], effects: Effects, base: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """[N] gains of changes of one axis, and their sd, without the average cost of any change."""
  encoder = effects.encoder
  codes = [encoder.codes(encoder.prune(base | change)) for change in changes]
  after = np.asarray(codes).reshape(len(changes), len(encoder.parameters))
  steps = encoder.differences(encoder.codes(base), after)
  steps[:, 0] = 0.0
  return effects.gains(steps)


def _demoted(
  dead_ends: Counter[str],
  effects: Effects,
  base: dict[str, Any],
  min_gain: float,
  rng: np.random.Generator,
) -> tuple[str, ...]:
  """Axes with two live dead ends, of which no random setting may gain.

  A setting may gain if it gains `min_gain` or more at one standard deviation above its mean.
  """
  encoder = effects.encoder
  values = {**encoder.defaults, **base}
  demoted = []
  for axis in encoder.space.axes:
    if dead_ends[axis.name] < 2:
      continue
    probes = [draw(axis, rng, values) for _ in range(PROBES)]
    gains, sds = _own_gains(probes, effects, base)
    if not (gains + sds >= min_gain).any():
      demoted.append(axis.name)
  return tuple(demoted)


def _words(changes: Mapping[str, Any]) -> str:
  words = []
  for selector, value in sorted(changes.items()):
    shown = f'{value:.3g}' if isinstance(value, float) else f'{value}'
    words.append(f'{selector} = {shown}')
  return ', '.join(words)
