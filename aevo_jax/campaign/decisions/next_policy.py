"""The next policy: how the controller, the audit and simulations call an agent.

All are pure functions of the evidence and, where a language model is asked, of the replies.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from aevo_jax.campaign.decisions import arms, proxy_target
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.campaign.trial.spec import trial_seed
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.meta_agent import anonymize
from aevo_jax.meta_agent.drift import trust
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.llm import agent as llm_agent
from aevo_jax.meta_agent.llm.dialogue import Dialogue
from aevo_jax.meta_agent.policy import Policy
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
  a revision some workers run the recipes that the old and the new objectives put first (`arms`).

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
  following = dataclasses.replace(
    caller.decide(history, revision.objectives, revision.trust, llm_agent.POLICY),
    parent=policy.digest(),
    trust=revision.trust,
    objectives=revision.objectives,
    objectives_before={},
    control=0,
    look=0,
  )
  following = caller.with_arms(following, history)
  return dataclasses.replace(following, reasons=(*revision.reasons, *following.reasons))


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

  def with_arms(self, following: Policy, history: Sequence[Evidence]) -> Policy:
    """Adds the arms that test a revision of objectives, while there is one to test."""
    rules = self.constitution.control
    recipes = arms.Recipes(
      following.standing, self.constitution.space(), default_values(self.recipe)
    )
    if self.policy.look > self.policy.round:
      return arms.go_on(following, self.policy, rules, recipes)
    if following.objectives == self.policy.objectives or not (rules.workers and rules.rounds):
      return following
    return arms.begin(following, self.policy.objectives, history, self.constitution, recipes)


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
