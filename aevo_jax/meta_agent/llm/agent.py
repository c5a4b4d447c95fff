"""A language model as the meta agent: it reads the evidence of all rounds and writes what the
explorers run next.

What counts stays the constitution's. The standing recipe, roll-backs, dead ends and the anchor are
the statistical agent's, decided by the promotion rule; the model may propose a promotion, and the
policy says what became of it. The model writes the explorers' bindings, within the search space,
and reasons. Where no usable reply comes, the statistical agent's policy stands as it is.

Workers may ask too (campaign.workers_choose = 'llm'): an explorer's bindings are then chosen within
the axes it was assigned, without any evidence; if no usable reply comes, the assigned ones run.

Everything is a pure function of the evidence and of the replies, which the ledger holds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.agents import statistical
from aevo_jax.meta_agent.llm import messages, reply
from aevo_jax.meta_agent.llm.dialogue import Dialogue, GaveUpError, converse
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

POLICY, CONTROL = 'policy', 'control arm'  # purposes of an exchange; a worker's is `worker(w)`


def worker(number: int) -> str:
  """The purpose of a worker's exchanges."""
  return f'worker {number}'


def decide(
  history: Sequence[dict],
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  seed: int,
  dialogue: Dialogue,
) -> Policy:
  """As `statistical_agent.decide`, with the explorers' recipes from `dialogue`."""
  base = dataclasses.replace(
    statistical.decide(history, policy, constitution, defaults, seed),
    objectives=policy.objectives,
    trust=policy.trust,
  )
  if base.round > constitution.budget.rounds:
    return base  # after the last round only its standing recipe counts
  space, (anchor, *explorers) = constitution.space(), base.assignments
  read = lambda text: reply.read_policy(text, len(explorers), base.standing, space, defaults)
  try:
    choice = converse(
      dialogue, messages.policy_messages(history, base, constitution, defaults), read
    )
  except GaveUpError:
    return base
  proposed = tuple(
    (
      f'the model proposes to promote {_words(p.changes)} ({p.reason}): the promotion rule '
      'decides on that, and has not allowed it'
    )
    for p in choice.proposals
  )
  said = tuple(f'the model: {s}' for s in choice.sentences)
  return dataclasses.replace(
    base, assignments=(anchor, *choice.assignments), reasons=(*base.reasons, *proposed, *said)
  )


def choose(
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  dialogue: Callable[[str], Dialogue],
) -> Policy:
  """The policy with what its explorers chose to run.

  Args:
    policy: of the round. dialogue: purpose -> whom that worker asks.
  """
  chosen = [
    _chosen(a, number, policy, constitution, defaults, dialogue)
    for number, a in enumerate(policy.assignments)
  ]
  return dataclasses.replace(policy, assignments=tuple(chosen))


def _chosen(
  assignment: Assignment,
  number: int,
  policy: Policy,
  constitution: Constitution,
  defaults: dict[str, Any],
  dialogue: Callable[[str], Dialogue],
) -> Assignment:
  if assignment.axis == ANCHOR:
    return assignment
  space = constitution.space()
  axes = [
    axis for axis in space.axes if any(p.selector in assignment.changes for p in axis.parameters)
  ]
  read = lambda text: reply.read_worker(text, axes, policy.standing, space, defaults)
  try:
    recipe = converse(
      dialogue(worker(number)),
      messages.worker_messages(assignment, policy, constitution, defaults, axes),
      read,
    )
  except GaveUpError:
    return assignment
  return dataclasses.replace(
    assignment,
    changes=recipe.changes,
    overlay=recipe.overlay,
    reason=f'the worker: {recipe.reason}',
  )


def _words(changes: dict[str, Any]) -> str:
  return ', '.join(f'{k} = {v}' for k, v in sorted(changes.items()))
