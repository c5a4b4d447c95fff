"""One trial a round, hundreds of rounds: change one axis of the standing recipe, keep the change if
it scores better, discard it if not.

Whoever keeps whatever scored better once collects luck: of hundreds of changes that do nothing,
some beat the standing recipe by noise. So here
  1. the standing recipe's score is the mean of replicated anchors: round 0's seeds,
     `keep_or_discard.anchors` trials of a recipe that was kept (its own looks won a contest and are
     too good), and one more anchor in every `anchor_every` trials;
  2. a change whose first look gains `promotion.min_gain` with a one-sided p value of at most
     `keep_or_discard.screen` gets a second look on a fresh seed;
  3. it is kept if the mean of both looks passes the constitution's promotion rule
     (`promotion_rule`), whose level is divided among all rounds.
Only released external scores count; dev decides nothing. tests/meta_agent/test_keep_or_discard.py
simulates how often noise is kept.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.parameter import value_problem
from aevo_jax.config.search_space import Axis, SearchSpace, neighbour, prune, sample
from aevo_jax.config.statements import render_value
from aevo_jax.meta_agent import promotion_rule
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy, render_overlay

NEAR = 0.2  # how far a number moves, in units of its range, when it is not drawn anew
ATTEMPTS = 20  # draws of a change, until it is a new one


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
) -> Policy:
  """As `statistical_agent.decide`."""
  space, rhythm = constitution.space(), constitution.keep_or_discard
  rng = np.random.default_rng([seed, policy.round])
  standing, promoted, reasons = dict(policy.standing), dict(policy.promoted), []
  trial, again = history[-1]['trials'][0], False
  if trial['axis'] != ANCHOR:
    gains, anchors = _looks(history)
    words = (
      f'{trial["axis"]}: '
      f'{", ".join(f"{k} = {render_value(v)}" for k, v in sorted(trial["changes"].items()))}'
    )
    if not gains:
      reasons.append(f'discarded {words}: no score ({trial["status"]})')
    elif len(gains) == 1:
      again = (
        round(gains[0], 9) >= constitution.promotion.min_gain
        and promotion_rule.p_value(gains, anchors, history[-1]['noise']) <= rhythm.screen
      )
      reasons.append(
        f'{"a second look at" if again else "discarded"} {words}: {gains[0]:+.3f} on '
        f'external over {anchors} anchor(s)'
      )
    else:
      kept = promotion_rule.passes(gains, anchors, history[-1]['noise'], constitution)
      reasons.append(
        f'{"kept" if kept else "discarded"} {words}: {float(np.mean(gains)):+.3f} on '
        f'external in two looks, over {anchors} anchor(s)'
      )
      if kept:
        standing, promoted = (
          prune(standing | trial['changes'], space, defaults),
          promoted | {trial['axis']: trial['changes']},
        )
  assignment = (
    _again(trial, standing, space, defaults)
    if again
    else _next(history, standing, space, defaults, rhythm, rng)
  )
  return Policy(
    policy.round + 1, policy.digest(), standing, promoted, (), (), (assignment,), tuple(reasons)
  )


def _looks(history: Sequence[dict]) -> tuple[list[float], int]:
  """Gains of the latest change over the anchors of its standing recipe, the second look last, and
  how many anchors; no gains where a score is missing.
  """
  latest = history[-1]
  anchors = _anchors(history, latest['standing'])
  looks = [latest['trials'][0]]
  before = history[-2]['trials'][0]
  if before['changes'] == looks[0]['changes'] and history[-2]['standing'] == latest['standing']:
    looks.insert(0, before)
  if not anchors or any(look['external'] is None for look in looks):
    return [], len(anchors)
  return [look['external'] - float(np.mean(anchors)) for look in looks], len(anchors)


def _anchors(history: Sequence[dict], standing: dict[str, Any]) -> list[float]:
  """Released scores of the anchors of a recipe."""
  return [
    t['external']
    for e in history
    if e['standing'] == standing
    for t in e['trials']
    if t['axis'] == ANCHOR and t['external'] is not None
  ]


def _again(
  trial: dict, standing: dict[str, Any], space: SearchSpace, defaults: dict[str, Any]
) -> Assignment:
  return Assignment(
    trial['axis'],
    trial['changes'],
    prune(standing | trial['changes'], space, defaults),
    'a second look on a fresh seed decides',
  )


def _next(
  history: Sequence[dict],
  standing: dict[str, Any],
  space: SearchSpace,
  defaults: dict[str, Any],
  rhythm,
  rng: np.random.Generator,
) -> Assignment:
  """The standing recipe itself where it is due, else a change that it has not seen."""
  here = [t for e in history if e['standing'] == standing for t in e['trials']]
  run = sum(t['axis'] == ANCHOR for t in here)
  since = next((i for i, t in enumerate(reversed(here)) if t['axis'] == ANCHOR), len(here))
  anchor = lambda reason: Assignment(ANCHOR, {}, dict(standing), reason)
  if run < rhythm.anchors or not _anchors(history, standing):
    return anchor('the standing recipe, before anything is compared with it')
  if since >= rhythm.anchor_every - 1:
    return anchor(f'the standing recipe again, as one of every {rhythm.anchor_every} trials')
  seen = {render_overlay(t['changes']) for t in here}
  for _ in range(ATTEMPTS):
    axis = space.axes[rng.integers(len(space.axes))]
    overlay = prune(standing | _setting(axis, {**defaults, **standing}, rng), space, defaults)
    changes = {k: v for k, v in overlay.items() if v != {**defaults, **standing}.get(k)}
    if changes and render_overlay(changes) not in seen:
      return Assignment(
        axis.name, changes, overlay, 'a change that this standing recipe has not seen'
      )
  return anchor('a further anchor: no new setting was found')


def _setting(axis: Axis, values: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
  """A random setting of an axis: half of them drawn anew, the others with their numbers near the
  standing ones.
  """
  drawn, near = sample(axis, rng, values), rng.random() < 0.5
  setting = {}
  for binding in drawn:
    parameter = next(p for p in axis.parameters if p.selector == binding.selector)
    now = values.get(binding.selector)
    close = near and parameter.kind in ('float', 'int') and value_problem(parameter, now) is None
    setting[binding.selector] = neighbour(now, parameter, rng, NEAR) if close else binding.value
  return setting
