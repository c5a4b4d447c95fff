"""What peers share: how their standing recipe moves, and what they look at again.

A peer comes in two forms. The published one keeps the recipe with the best released score. The
tested one (`tested = True`, a name that ends in '_tested') moves its standing recipe only by the
constitution's promotion rule, as the statistical agent does. The rule tests repeats. So the recipe
that gained most on the released score takes as many explorers of the next round as scores of
explorers are released. A peer with `promotes_last` holds the starting recipe until the last round
is over.

A peer's changes are whole recipes. So all looks at one recipe count, whichever standing recipe the
round had, and are compared with the anchors of the present one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.statistical import promotion_reason
from aevo_jax.meta_agent.evidence import PROXIES, Evidence, TrialEvidence
from aevo_jax.meta_agent.observations import Observation, candidates, observe, rollback, significant
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy, render_overlay

# Tests of one recipe, the later of which have a smaller level (`promotion_rule.level`).
TESTS = 2


class Situation(NamedTuple):
  """What a peer proposes recipes on.

  Attributes:
    history: evidence of all rounds.
    standing: overlay of the next standing recipe.
    constitution: search space and budget.
    defaults: selector -> value of the substrate's default recipe.
    seed: of the campaign's round.
  """

  history: Sequence[Evidence]
  standing: dict[str, Any]
  constitution: Constitution
  defaults: Mapping[str, Any]
  seed: int

  @property
  def round(self) -> int:
    """The last round that ran."""
    return self.history[-1].round


class Best(NamedTuple):
  """The standing recipe's overlay, and why it changes, if it does."""

  standing: dict[str, Any]
  reasons: tuple[str, ...]


class Peer(Agent):
  """Assigns whole recipes.

  Attributes:
    tested: whether the standing recipe moves by the promotion rule, not by the best score.
  """

  changes_are_whole = True
  tested: ClassVar[bool] = False

  def best(self, history: Sequence[Evidence], policy: Policy, constitution: Constitution) -> Best:
    """Finds the next standing recipe.

    Args:
      history: evidence of all rounds.
      policy: holds the standing recipe before.
      constitution: holds the promotion rule.

    Returns:
      The recipe.
    """
    if self.tested:
      return best_tested(history, policy, constitution)
    return best_released(history, policy)

  def propose(self, situation: Situation, count: int) -> list[Assignment]:
    """Proposes recipes.

    Args:
      situation: of the round.
      count: how many.

    Returns:
      `count` assignments.
    """
    raise NotImplementedError

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Decides the standing recipe, repeats what gained and proposes; arguments as in `Agent`."""
    found = Best(dict(policy.standing), ())
    if not self.promotes_last or policy.round == constitution.budget.rounds:
      found = self.best(history, policy, constitution)
    explorers = []
    if self.tested and not self.promotes_last:
      explorers = retests(history, found.standing, constitution)
    situation = Situation(history, found.standing, constitution, defaults, seed)
    explorers += self.propose(situation, constitution.budget.workers - 1 - len(explorers))
    return policy_of(policy, found.standing, explorers, found.reasons)


def overlay_of(trial: TrialEvidence, evidence: Evidence) -> dict[str, Any]:
  """Finds the recipe that a trial ran, under an agent whose changes are whole.

  Args:
    trial: of the round.
    evidence: of the round.

  Returns:
    Its overlay.
  """
  return evidence.standing if trial.is_anchor else trial.changes


def best_released(history: Sequence[Evidence], policy: Policy) -> Best:
  """Finds the recipe with the best released external score so far, the earliest of equals.

  Args:
    history: evidence of all rounds.
    policy: holds the standing recipe before.

  Returns:
    The recipe; the standing one where nothing was released.
  """
  best = -1.0
  standing = dict(policy.standing)
  for evidence in history:
    for trial in evidence.trials:
      if trial.external is not None and trial.external > best:
        best = trial.external
        standing = dict(overlay_of(trial, evidence))
  if standing == policy.standing:
    return Best(standing, ())
  return Best(standing, (f'best {_measure(history)} so far: {best:.2f}',))


def _measure(history: Sequence[Evidence]) -> str:
  if history[-1].target == PROXIES:
    return 'consensus of the proxies'
  return 'released external score'


def best_tested(history: Sequence[Evidence], policy: Policy, constitution: Constitution) -> Best:
  """Finds the recipe that the promotion rule promotes, or rolls the last promotion back.

  Args:
    history: evidence of all rounds.
    policy: holds the standing recipe before.
    constitution: holds the rule.

  Returns:
    The recipe; the standing one where nothing passes.
  """
  previous = rollback(history, constitution)
  if previous is not None:
    reason = f'rolled back: anchors score {-previous.loss:.3f} lower since the last promotion'
    return Best(dict(previous.standing), (reason,))
  winner = significant(compared_with(history, policy.standing), constitution).winner
  if winner is None or winner.changes == policy.standing:
    return Best(dict(policy.standing), ())
  reason = promotion_reason(winner, history[-1].noise.external, constitution, _measure(history))
  return Best(dict(winner.changes), (reason,))


def compared_with(history: Sequence[Evidence], standing: Mapping[str, Any]) -> list[Evidence]:
  """Compares the trials of all rounds with one standing recipe.

  Args:
    history: evidence of all rounds, of an agent whose changes are whole.
    standing: overlay of the recipe.

  Returns:
    The evidence as if every round had had that standing recipe, without the anchors of other ones.
  """
  relative = []
  for evidence in history:
    own = evidence.standing == standing
    kept = tuple(trial for trial in evidence.trials if own or not trial.is_anchor)
    relative.append(dataclasses.replace(evidence, standing=dict(standing), trials=kept))
  return relative


def retests(
  history: Sequence[Evidence], standing: Mapping[str, Any], constitution: Constitution
) -> list[Assignment]:
  """Repeats the recipe that gained most on the released score, if the rule may still test it.

  Args:
    history: evidence of all rounds.
    standing: overlay of the next standing recipe.
    constitution: the least gain that counts, released scores and what the rule may test.

  Returns:
    Assignments of one recipe, as many as explorers have released scores; none where nothing gained.
  """
  relative = compared_with(history, standing)
  tested = {}
  for candidate in candidates(relative, constitution):
    tested[render_overlay(candidate.changes)] = candidate
  most = constitution.promotion.candidates
  best = None
  for observation in observe(relative).values():
    candidate = tested.get(render_overlay(observation.changes))
    if candidate is None:
      possible = len(tested) < most
    else:
      possible = candidate.number < most and candidate.tests < TESTS
    if not observation.external or not possible or observation.changes == standing:
      continue
    gain = round(float(np.mean(observation.external)), 9)
    if gain >= constitution.promotion.min_gain and (best is None or gain > best.gain):
      best = _Gained(gain, observation)
  if best is None:
    return []
  overlay = dict(best.observation.changes)
  reason = f'a further look at what gained {best.gain:+.3f} on the released score'
  look = Assignment(best.observation.axis, overlay, overlay, reason)
  return [look] * min(constitution.release.per_round - 1, constitution.budget.workers - 1)


class _Gained(NamedTuple):
  """A recipe that gained on the released score."""

  gain: float
  observation: Observation


def policy_of(
  policy: Policy,
  standing: dict[str, Any],
  explorers: Sequence[Assignment],
  reasons: tuple[str, ...] = (),
) -> Policy:
  """Makes the next policy of an agent that keeps no dead ends: an anchor, and the explorers.

  Args:
    policy: that of the last round.
    standing: overlay of the next standing recipe.
    explorers: assignments beside the anchor.
    reasons: sentences.

  Returns:
    The policy.
  """
  anchor = Assignment(ANCHOR, {}, dict(standing), 'the standing recipe unchanged')
  return Policy(
    round=policy.round + 1,
    parent=policy.digest(),
    standing=standing,
    promoted={},
    demoted=(),
    dead_ends=(),
    assignments=(anchor, *explorers),
    reasons=reasons,
  )
