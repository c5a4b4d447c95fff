"""One trial a round, hundreds of rounds: change one axis, keep the change if it scores better.

Whoever keeps whatever scored better once collects luck: of hundreds of changes that do nothing,
some beat the standing recipe by noise. So here
  1. the standing recipe's score is the mean of replicated anchors: round 0's seeds,
     `keep_or_discard.anchors` trials of a recipe that was kept (the looks that won it a contest are
     too good), and one more anchor in every `anchor_every` trials;
  2. a change whose first look gains `promotion.min_gain` with a one-sided p value of at most
     `keep_or_discard.screen` is looked at again on fresh seeds, as long as these gain `min_gain`
     and the campaign may still test changes;
  3. it is kept if the fresh looks pass the constitution's promotion rule (`promotion_rule`), in
     one of `TESTS` tests, and no protected family fell.
Only released external scores count; dev decides nothing. benchmarks/promotion_noise.py simulates
how often noise is kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import value_problem
from aevo_jax.config.search_space import Axis, neighbour, prune, sample
from aevo_jax.config.statements import render_value
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.evidence import Evidence, ExternalNoise, TrialEvidence
from aevo_jax.meta_agent.observations import candidates, released_anchors
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy, render_overlay
from aevo_jax.meta_agent.promotion_rule import Candidate
from aevo_jax.stats.comparisons.mean_gain import gain_p

# How far a number moves, in units of its range, when it is not sampled anew.
NEAR = 0.2
# Samples of a change, until it is a new one.
ATTEMPTS = 20
# Of one change, the later of which have a smaller level (`promotion_rule.level`).
TESTS = 3


class KeepOrDiscard(Agent):
  """Tries one change after the other, and looks several times at what it keeps."""

  changes_are_whole = True
  one_trial_a_round = True

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Judges the latest trial and assigns the next one; arguments as in `Agent`."""
    space = constitution.space()
    trial = history[-1].trials[0]
    outcome = _Outcome()
    if not trial.is_anchor:
      outcome = _judge(history, constitution)
    standing = dict(policy.standing)
    promoted = dict(policy.promoted)
    if outcome.keep:
      standing = prune(standing | trial.changes, space, defaults)
      promoted[trial.axis] = trial.changes
    if outcome.look_again:
      overlay = prune(standing | trial.changes, space, defaults)
      reason = 'a further look on a fresh seed'
      assignment = Assignment(trial.axis, trial.changes, overlay, reason)
    else:
      rng = np.random.default_rng([seed, policy.round])
      assignment = _next(history, standing, constitution, defaults, rng)
    return Policy(
      round=policy.round + 1,
      parent=policy.digest(),
      standing=standing,
      promoted=promoted,
      demoted=(),
      dead_ends=(),
      assignments=(assignment,),
      reasons=outcome.reasons,
    )


@dataclasses.dataclass(frozen=True)
class _Outcome:
  """What follows for the latest change, with a sentence."""

  keep: bool = False
  look_again: bool = False
  reasons: tuple[str, ...] = ()


def _judge(history: Sequence[Evidence], constitution: Constitution) -> _Outcome:
  """Keeps or discards the latest change, or asks for a further look at it."""
  latest = history[-1]
  trial = latest.trials[0]
  bindings = [f'{k} = {render_value(v)}' for k, v in sorted(trial.changes.items())]
  words = f'{trial.axis}: {", ".join(bindings)}'
  anchors = released_anchors(history, latest.standing)
  if trial.external is None or not anchors or latest.noise.external is None:
    return _Outcome(reasons=(f'discarded {words}: no score ({trial.status})',))
  tested = candidates(history, constitution)
  current = [c for c in tested if c.latest == latest.round]
  if not current:
    first = Candidate(len(tested), trial.axis, trial.changes, latest.standing, [trial], anchors)
    return _screened(first, latest.noise.external, constitution, words)
  return _tested(current[0], latest.noise.external, constitution, words)


def _screened(
  first: Candidate, noise: ExternalNoise, constitution: Constitution, words: str
) -> _Outcome:
  """Whether a first look, the only one of `first`, leads to further ones."""
  score = f'{first.gain:+.3f} on external over {len(first.anchors)} anchor(s)'
  # A screen and no test: one look says nothing of its own variance.
  sd = promotion_rule.change_sample(noise, [0.0], constitution).sd
  freedom = max(noise.anchor_freedom, noise.changed_freedom)
  p = gain_p(first.gain, sd, freedom, 1, len(first.anchors))
  if first.gain < constitution.promotion.min_gain or p > constitution.keep_or_discard.screen:
    return _Outcome(reasons=(f'discarded {words}: {score}',))
  if first.number >= constitution.promotion.candidates:
    return _Outcome(reasons=(f'discarded {words}: {score}, and no further change may be tested',))
  return _Outcome(look_again=True, reasons=(f'further looks at {words}: {score}',))


def _tested(
  candidate: Candidate, noise: ExternalNoise, constitution: Constitution, words: str
) -> _Outcome:
  """What follows from the fresh looks at a change."""
  rule = constitution.promotion
  score = (
    f'{candidate.gain:+.3f} on external in {len(candidate.looks)} fresh look(s), over '
    f'{len(candidate.anchors)} anchor(s)'
  )
  if promotion_rule.passes(candidate, noise, constitution):
    fallen = candidate.fallen(constitution)
    if not fallen:
      return _Outcome(keep=True, reasons=(f'kept {words}: {score}',))
    falls = ', '.join(f'{family} {fall:+.3f}' for family, fall in fallen.items())
    reason = f'discarded {words}: {score}, and a protected family fell ({falls})'
    return _Outcome(reasons=(reason,))
  if candidate.gain >= rule.min_gain and candidate.tests < TESTS:
    return _Outcome(look_again=True, reasons=(f'further looks at {words}: {score}',))
  return _Outcome(reasons=(f'discarded {words}: {score}',))


def _under(history: Sequence[Evidence], standing: Mapping[str, Any]) -> list[TrialEvidence]:
  """All trials under a standing recipe, in order."""
  trials: list[TrialEvidence] = []
  for evidence in history:
    if evidence.standing == standing:
      trials += evidence.trials
  return trials


def _next(
  history: Sequence[Evidence],
  standing: dict[str, Any],
  constitution: Constitution,
  defaults: Mapping[str, Any],
  rng: np.random.Generator,
) -> Assignment:
  """Assigns the standing recipe itself where it is due, else a change that it has not seen."""
  rhythm = constitution.keep_or_discard
  trials = _under(history, standing)
  anchors = 0
  since = 0
  for trial in trials:
    anchors += trial.is_anchor
    since = 0 if trial.is_anchor else since + 1
  if anchors < rhythm.anchors or not released_anchors(history, standing):
    return _anchor(standing, 'the standing recipe, before anything is compared with it')
  if since >= rhythm.anchor_every - 1:
    reason = f'the standing recipe again, as one of every {rhythm.anchor_every} trials'
    return _anchor(standing, reason)
  space = constitution.space()
  values = {**defaults, **standing}
  seen = {render_overlay(t.changes) for t in trials}
  for _ in range(ATTEMPTS):
    axis = space.axes[rng.integers(len(space.axes))]
    overlay = prune(standing | _setting(axis, values, rng), space, defaults)
    changes = {k: v for k, v in overlay.items() if v != values.get(k)}
    if changes and render_overlay(changes) not in seen:
      reason = 'a change that this standing recipe has not seen'
      return Assignment(axis.name, changes, overlay, reason)
  return _anchor(standing, 'a further anchor: no new setting was found')


def _anchor(standing: dict[str, Any], reason: str) -> Assignment:
  return Assignment(ANCHOR, {}, dict(standing), reason)


def _setting(axis: Axis, values: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
  """Samples a setting of an axis: half of them anew, the others with numbers near `values`."""
  sampled = sample(axis, rng, values)
  near = rng.random() < 0.5
  setting = {}
  for binding in sampled:
    parameter = next(p for p in axis.parameters if p.selector == binding.selector)
    now = values.get(binding.selector)
    value = binding.value
    if near and parameter.kind in ('float', 'int') and value_problem(parameter, now) is None:
      value = neighbour(now, parameter, rng, NEAR)
    setting[binding.selector] = value
  return setting
