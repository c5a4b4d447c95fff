"""What a language model is sent: the constitution's system prompt, and one message of facts as
JSON. Both are functions of what the ledger holds.

Evidence is of bounded length: the latest rounds in full, earlier ones as one short row a trial, the
earliest as their best trials, and then only counted. Workers are memory-free: their question holds
no evidence, only the task, the standing recipe and the parameters they may choose.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aevo_jax.config.constitution import Constitution
from aevo_jax.config.search_space import Axis
from aevo_jax.meta_agent.drift.trust import ALARMS
from aevo_jax.meta_agent.llm.chat_client import Messages
from aevo_jax.meta_agent.policy import ANCHOR, Assignment, Policy

EVIDENCE_CHARS = 24_000
BEST = 3  # trials of a round of which only the best are told
TASK = (
  'Post-train a small language model on rule-induction puzzles (or the tasks of '
  '`families`): a trial trains a copy of the base under one recipe, within the '
  'budget, and '
  'the answers it then generates are scored.'
)


def policy_messages(
  history: Sequence[Mapping[str, Any]],
  base: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
) -> list[dict[str, str]]:
  """Asks for the explorers' recipes of the round that `base` is for; its standing recipe, dead ends
  and number of workers hold.
  """
  return _messages(
    constitution,
    {
      'question': 'policy',
      'round': base.round,
      'explorers': len(base.assignments) - 1,
      **_common(constitution, base.standing, defaults, constitution.space().axes),
      'dead_ends': [
        {'changes': d.changes, 'gain': d.gain, 'until_round': d.expires}
        for d in base.dead_ends
        if d.expires > base.round
      ],
      'demoted_axes': list(base.demoted),
      'objectives': dict(base.objectives),
      'trust': base.trust,
      'decided_by_the_rule': list(base.reasons),
      'evidence': evidence(history),
    },
  )


def worker_messages(
  assignment: Assignment,
  policy: Policy,
  constitution: Constitution,
  defaults: Mapping[str, Any],
  axes: Sequence[Axis],
) -> list[dict[str, str]]:
  """Asks one worker for its bindings within the axes it was assigned."""
  return _messages(
    constitution,
    {
      'question': 'worker',
      **_common(constitution, policy.standing, defaults, axes),
      'assigned': assignment.changes,
    },
  )


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
  budget, named = constitution.budget, {axis.name for axis in axes}
  values = {**defaults, **standing}
  return {
    'task': TASK,
    'budget': {
      'rounds': budget.rounds,
      'tokens_a_trial': budget.trial_tokens,
      'steps_a_trial_at_most': budget.trial_steps,
    },
    'search_space': {
      name: specs for name, specs in constitution.search_space.axes.items() if name in named
    },
    'standing_recipe': {
      p.selector: values[p.selector]
      for axis in axes
      for p in axis.parameters
      if p.selector in values
    },
  }


def evidence(history: Sequence[Mapping[str, Any]], limit: int = EVIDENCE_CHARS) -> dict[str, Any]:
  """The rounds, newest first, in at most `limit` characters of JSON: each in the fullest form that
  fits beside those after it.
  """
  rounds: list[Any] = []
  left = limit
  for age, past in enumerate(reversed(history)):
    short = _short(past)
    best = short | {
      'trials': sorted(short['trials'], key=lambda t: -(t['dev'] or 0.0))[:BEST],
      'trials_left_out': max(0, len(short['trials']) - BEST),
    }
    form = next((f for f in (past, short, best) if len(_json(f)) <= left), None)
    if form is None:
      return {'rounds': rounds, 'earlier_rounds_left_out': len(history) - age}
    rounds.append(form)
    left -= len(_json(form))
  return {'rounds': rounds, 'earlier_rounds_left_out': 0}


def _short(past: Mapping[str, Any]) -> dict[str, Any]:
  """A round with a short row a trial."""
  rows = [
    {
      'axis': t['axis'],
      'changes': {} if t['axis'] == ANCHOR else t['changes'],
      'status': t['status'],
      'dev': t['dev'] and t['dev']['overall']['accuracy'],
      'external': t['external'],
    }
    for t in past['trials']
  ]
  alarms = {
    stream: v['verdict'] for stream, v in past['verdicts'].items() if v['verdict'] in ALARMS
  }
  return {
    'round': past['round'],
    'standing': past['standing'],
    'trials': rows,
    'noise': past['noise'],
    'alarms': alarms,
  }


def _json(value: Any) -> str:
  return json.dumps(value, separators=(',', ':'), sort_keys=True, ensure_ascii=True)
