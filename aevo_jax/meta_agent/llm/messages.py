"""What a language model is sent: the constitution's system prompt, and one message of facts.

The facts are JSON, and a function of what the ledger holds. Evidence is of bounded length: the
latest rounds in full, earlier ones as one short row a trial, the earliest as their best trials, and
then only counted. Workers are memory-free: their question holds no evidence, only the task, the
standing recipe and the parameters they may choose.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import Axis
from aevo_jax.meta_agent.drift.trust import ALARMS
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm.chat_client import Messages
from aevo_jax.meta_agent.policy import Assignment, Policy

EVIDENCE_CHARS = 24_000
# Trials of a round of which only the best are told.
BEST = 3
TASK = (
  'Post-train a small language model on rule-induction puzzles (or the tasks of '
  '`families`): a trial trains a copy of the base under one recipe, within the '
  'budget, and '
  'the answers it then generates are scored.'
)


def policy_messages(
  history: Sequence[Evidence],
  base: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
) -> list[dict[str, str]]:
  """Asks for the explorers' recipes of a round.

  Args:
    history: evidence of all rounds so far.
    base: of the round; its standing recipe, dead ends and number of workers hold.
    constitution: system prompt, budget and search space.
    defaults: selector -> value of the substrate's default recipe.

  Returns:
    The messages.
  """
  dead_ends = []
  for dead in base.dead_ends:
    if dead.expires > base.round:
      dead_ends.append({'changes': dead.changes, 'gain': dead.gain, 'until_round': dead.expires})
  facts = {
    'question': 'policy',
    'round': base.round,
    'explorers': len(base.assignments) - 1,
    **_common(constitution, base.standing, defaults, constitution.space().axes),
    'dead_ends': dead_ends,
    'demoted_axes': list(base.demoted),
    'objectives': dict(base.objectives),
    'trust': base.trust,
    'decided_by_the_rule': list(base.reasons),
    'evidence': told_evidence(history),
  }
  return _messages(constitution, facts)


def worker_messages(
  assignment: Assignment,
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
  axes: Sequence[Axis],
) -> list[dict[str, str]]:
  """Asks one worker for its bindings within the axes it was assigned.

  Args:
    assignment: of the worker.
    policy: of the round.
    constitution: system prompt, budget and search space.
    defaults: selector -> value of the substrate's default recipe.
    axes: that the worker may bind.

  Returns:
    The messages.
  """
  facts = {
    'question': 'worker',
    **_common(constitution, policy.standing, defaults, axes),
    'assigned': assignment.changes,
  }
  return _messages(constitution, facts)


def _messages(constitution: Constitution, facts: dict[str, Any]) -> Messages:
  return [
    {'role': 'system', 'content': constitution.llm_rules.system_prompt},
    {'role': 'user', 'content': _json(facts)},
  ]


def _common(
  constitution: Constitution,
  standing: Mapping[str, Any],
  defaults: Mapping[str, Any],
  axes: Sequence[Axis],
) -> dict[str, Any]:
  """The facts of either question: task, budget, and the standing recipe on the axes."""
  budget = constitution.budget
  values = {**defaults, **standing}
  specs = {}
  recipe = {}
  for axis in axes:
    specs[axis.name] = constitution.search_space.axes[axis.name]
    for parameter in axis.parameters:
      if parameter.selector in values:
        recipe[parameter.selector] = values[parameter.selector]
  return {
    'task': TASK,
    'budget': {
      'rounds': budget.rounds,
      'tokens_a_trial': budget.trial_tokens,
      'steps_a_trial_at_most': budget.trial_steps,
    },
    'search_space': specs,
    'standing_recipe': recipe,
  }


def told_evidence(history: Sequence[Evidence], limit: int = EVIDENCE_CHARS) -> dict[str, Any]:
  """Renders evidence within a limit, each round in the fullest form that fits.

  Args:
    history: evidence of all rounds so far.
    limit: characters of JSON.

  Returns:
    The rounds, newest first, and how many earlier ones are left out.
  """
  rounds: list[Any] = []
  left = limit
  for age, evidence in enumerate(reversed(history)):
    short = _short(evidence)
    by_dev = sorted(short['trials'], key=lambda trial: -(trial['dev'] or 0.0))
    best = short | {
      'trials': by_dev[:BEST],
      'trials_left_out': max(0, len(by_dev) - BEST),
    }
    for form in (evidence.to_json(), short, best):
      size = len(_json(form))
      if size <= left:
        break
    else:
      return {'rounds': rounds, 'earlier_rounds_left_out': len(history) - age}
    rounds.append(form)
    left -= size
  return {'rounds': rounds, 'earlier_rounds_left_out': 0}


def _short(evidence: Evidence) -> dict[str, Any]:
  """A round with a short row a trial."""
  rows = []
  for trial in evidence.trials:
    rows.append(
      {
        'axis': trial.axis,
        'changes': {} if trial.is_anchor else trial.changes,
        'status': trial.status,
        'dev': None if trial.dev is None else trial.dev.overall.accuracy,
        'external': trial.external,
      }
    )
  alarms = {s: v.verdict for s, v in evidence.verdicts.items() if v.verdict in ALARMS}
  return {
    'round': evidence.round,
    'standing': evidence.standing,
    'trials': rows,
    'noise': evidence.noise.to_json(),
    'alarms': alarms,
  }


def _json(value: Any) -> str:
  return json.dumps(value, separators=(',', ':'), sort_keys=True, ensure_ascii=True)
