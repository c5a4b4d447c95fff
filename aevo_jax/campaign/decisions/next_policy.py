"""The next policy: how the controller, the audit and simulations call an agent.

All are pure functions of the evidence and, where a language model is asked, of the replies.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence

from aevo_jax.campaign.decisions import proxy_target
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.meta_agent import anonymize
from aevo_jax.meta_agent.drift import trust
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm import agent as llm_agent
from aevo_jax.meta_agent.llm.dialogue import Dialogue
from aevo_jax.meta_agent.policy import ANCHOR, Policy
from aevo_jax.meta_agent.registry import AGENTS


def next_policy(
  history: Sequence[Evidence],
  policy: Policy,
  constitution: Constitution,
  *,
  recipe: str,
  agent: str,
  campaign_seed: int,
  dialogue: Callable[[int, str], Dialogue] | None = None,
  parse: Parser = parse_untrusted,
) -> Policy:
  """Decides the policy of the next round.

  The latest verdicts first revise what dev is worth, for agents that use them. In the rounds after
  a revision some workers go on as if there had been none: the control arm.

  Args:
    history: evidence of all rounds so far, oldest first.
    policy: that of the last round.
    constitution: of the campaign.
    recipe: text of the substrate's default recipe.
    agent: name in `registry.AGENTS`.
    campaign_seed: of the whole campaign.
    dialogue: (round, purpose) -> whom an agent asks that asks a language model.
    parse: reads what a language model writes.

  Returns:
    The policy of round `policy.round + 1`.
  """
  history = proxy_target.rescored(history)
  caller = _Caller(
    policy=policy,
    constitution=constitution.in_round(policy.round + 1),
    recipe=recipe,
    agent=agent,
    seed=trial_seed(campaign_seed, f'agent{policy.round}'),
    dialogue=dialogue,
    parse=parse,
  )
  if not AGENTS[agent].uses_verdicts:
    return caller.decide(history, {}, {}, llm_agent.POLICY)
  last = history[-1]
  revision = trust.revise(policy.objectives, policy.trust, last.verdicts, last.families)
  revised = revision.objectives != policy.objectives
  control = constitution.control.rounds if revised else max(policy.control - 1, 0)
  before = policy.objectives if revised and not policy.control else policy.objectives_before
  following = dataclasses.replace(
    caller.decide(history, revision.objectives, revision.trust, llm_agent.POLICY),
    parent=policy.digest(),
    trust=revision.trust,
    objectives=revision.objectives,
    objectives_before=before if control else {},
    control=control,
  )
  reasons = (*revision.reasons, *following.reasons)
  if control and policy.round < constitution.budget.rounds:
    old = caller.decide([_without_verdicts(e) for e in history], before, {}, llm_agent.CONTROL)
    armed = _with_control_arm(following, old, constitution.control.workers, caller.seed)
    following = armed.policy
    reasons = (*reasons, armed.reason)
  return dataclasses.replace(following, reasons=reasons)


@dataclasses.dataclass(frozen=True)
class _Caller:
  """One agent with what it decides on, whatever the objectives; arguments as in `next_policy`."""

  policy: Policy
  constitution: Constitution
  recipe: str
  agent: str
  seed: int
  dialogue: Callable[[int, str], Dialogue] | None
  parse: Parser

  def decide(
    self,
    history: Sequence[Evidence],
    objectives: Mapping[str, float],
    trusted: Mapping[str, Mapping[str, float]],
    purpose: str,
  ) -> Policy:
    """What the agent decides under some objectives."""
    agent = AGENTS[self.agent]
    policy = dataclasses.replace(self.policy, objectives=dict(objectives), trust=dict(trusted))
    defaults = default_values(self.recipe)
    if agent.asks_llm:
      asking = agent(self.dialogue(policy.round + 1, purpose), self.parse)
      return asking.decide(history, policy, self.constitution, defaults, self.seed)
    return anonymize.decide(agent(), history, policy, self.constitution, defaults, self.seed)


def _without_verdicts(evidence: Evidence) -> Evidence:
  """The evidence as it would be had no verdict been spoken."""
  trials = tuple(dataclasses.replace(trial, arm='') for trial in evidence.trials)
  return dataclasses.replace(evidence, verdicts={}, attribution=None, trials=trials)


@dataclasses.dataclass(frozen=True)
class _Armed:
  """A policy with a control arm, and a sentence on it."""

  policy: Policy
  reason: str


def _with_control_arm(following: Policy, old: Policy, workers: int, seed: int) -> _Armed:
  """Gives `workers` of the explorers to what the old objectives would have run.

  Which ranks of the two lists go to which arm is random: the first explorers of a list are its best
  ones. Had the revision changed nothing, the permutation test would still be exact.
  """
  anchors = [a for a in following.assignments if a.axis == ANCHOR]
  explorers = [a for a in following.assignments if a.axis != ANCHOR]
  former = [a for a in old.assignments if a.axis != ANCHOR]
  ranks = min(len(explorers), len(former))
  count = min(workers, ranks - 1)
  if count < 1:
    return _Armed(following, 'no control arm: too few workers explore')
  control = set(random.Random(seed).sample(range(ranks), count))
  arms = []
  for rank, assignment in enumerate(explorers):
    if rank in control:
      arms.append(dataclasses.replace(former[rank], arm='control'))
    else:
      arms.append(dataclasses.replace(assignment, arm='revised'))
  reason = (
    f'control arm: {count} of {len(arms)} explorers go on under the objectives before the '
    'revision, so that the revision itself is tested'
  )
  return _Armed(dataclasses.replace(following, assignments=(*anchors, *arms)), reason)


def with_choices(
  policy: Policy,
  constitution: Constitution,
  *,
  recipe: str,
  workers_choose: str,
  dialogue: Callable[[int, str], Dialogue],
  parse: Parser = parse_untrusted,
) -> Policy:
  """Enters the bindings that workers chose, if they choose.

  Args:
    policy: of the round.
    constitution: of the campaign.
    recipe: text of the substrate's default recipe.
    workers_choose: 'policy' or 'llm', as in CampaignSettings.
    dialogue: (round, purpose) -> whom a worker asks.
    parse: reads what a language model writes.

  Returns:
    The policy that runs.
  """
  if workers_choose == 'policy':
    return policy
  rules = constitution.in_round(policy.round)

  def asked(purpose: str) -> Dialogue:
    return dialogue(policy.round, purpose)

  return llm_agent.choose(policy, rules, default_values(recipe), asked, parse)
