"""A language model as the meta agent: it reads the evidence and writes what the explorers run next.

What counts stays the constitution's. The standing recipe, roll-backs, dead ends and the anchor are
the statistical agent's, decided by the promotion rule. The model may propose a promotion, and the
policy says what became of it. The model writes the explorers' bindings, within the search space,
and reasons. Where no usable reply comes, the statistical agent's policy stands as it is.

Workers may ask too (campaign.workers_choose = 'llm'): an explorer's bindings are then chosen within
the axes it was assigned, without any evidence. If no usable reply comes, the assigned ones run.

Everything is a pure function of the evidence and of the replies, which the ledger holds.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.meta_agent.agent import Agent
from aevo_jax.meta_agent.agents.statistical import Statistical
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm import messages, reply
from aevo_jax.meta_agent.llm.dialogue import Dialogue, GaveUpError, converse
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

# Purposes of an exchange; a worker's is `worker(number)`.
POLICY = 'policy'
CONTROL = 'control arm'


def worker(number: int) -> str:
  """Names the purpose of a worker's exchanges.

  Args:
    number: of the worker.

  Returns:
    The purpose, as ledger records hold it.
  """
  return f'worker {number}'


class LlmAgent(Agent):
  """The statistical agent, with the explorers' recipes from a language model.

  Args:
    dialogue: that the question is put to.
    parse: reads the bindings of a reply.
  """

  uses_verdicts = True
  asks_llm = True

  def __init__(self, dialogue: Dialogue, parse: Parser = parse_untrusted):
    self._dialogue = dialogue
    self._parse = parse

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Asks the model; arguments as in `Agent`. After the last round nothing is asked."""
    base = dataclasses.replace(
      Statistical().decide(history, policy, constitution, defaults, seed),
      objectives=policy.objectives,
      trust=policy.trust,
    )
    if base.round > constitution.budget.rounds:
      return base
    space = constitution.space()
    anchor, *explorers = base.assignments

    def read(text: str) -> reply.Choice:
      return reply.read_policy(text, len(explorers), base.standing, space, defaults, self._parse)

    question = messages.policy_messages(history, base, constitution, defaults)
    try:
      choice = converse(self._dialogue, question, read)
    except GaveUpError:
      return base
    reasons = list(base.reasons)
    for proposal in choice.proposals:
      reasons.append(
        f'the model proposes to promote {_words(proposal.changes)} ({proposal.reason}): the '
        'promotion rule decides on that, and has not allowed it'
      )
    for sentence in choice.sentences:
      reasons.append(f'the model: {sentence}')
    return dataclasses.replace(
      base, assignments=(anchor, *choice.assignments), reasons=tuple(reasons)
    )


def choose(
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
  dialogue: Callable[[str], Dialogue],
  parse: Parser = parse_untrusted,
) -> Policy:
  """Lets the explorers of a round choose their bindings.

  Args:
    policy: of the round.
    constitution: of the round.
    defaults: selector -> value of the substrate's default recipe.
    dialogue: purpose -> whom that worker asks.
    parse: reads the bindings of a reply.

  Returns:
    The policy with what they chose.
  """
  chosen = []
  for number, assignment in enumerate(policy.assignments):
    # A fresh run of a named recipe is compared with others of it.
    if assignment.axis != ANCHOR and not assignment.arm:
      asked = dialogue(worker(number))
      assignment = _chosen(assignment, policy, constitution, defaults, asked, parse)
    chosen.append(assignment)
  return dataclasses.replace(policy, assignments=tuple(chosen))


def _chosen(
  assignment: Assignment,
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
  dialogue: Dialogue,
  parse: Parser,
) -> Assignment:
  """The assignment with the worker's bindings; as it is without a usable reply."""
  space = constitution.space()
  axes = []
  for axis in space.axes:
    if any(p.selector in assignment.changes for p in axis.parameters):
      axes.append(axis)

  def read(text: str) -> reply.Recipe:
    return reply.read_worker(text, axes, policy.standing, space, defaults, parse)

  question = messages.worker_messages(assignment, policy, constitution, defaults, axes)
  try:
    recipe = converse(dialogue, question, read)
  except GaveUpError:
    return assignment
  return dataclasses.replace(
    assignment,
    changes=recipe.changes,
    overlay=recipe.overlay,
    reason=f'the worker: {recipe.reason}',
  )


def _words(changes: Mapping[str, Any]) -> str:
  return ', '.join(f'{k} = {v}' for k, v in sorted(changes.items()))
