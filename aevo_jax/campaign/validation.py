"""Which agents, budgets, recipes and submissions go together: checked before anything is made."""

import importlib.util
from typing import Any

from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.registry import AGENTS

ARBITERS = ('local', 'manual')


class CampaignKindError(ValueError):
  """A campaign whose parts do not go together; the message names the binding and the fix."""


def check(
  constitution: Constitution,
  agent: str,
  recipe: str | None,
  *,
  arbiter: str = 'local',
  workers_choose: str = 'policy',
) -> None:
  """Whether a campaign of this agent can be run.

  Args:
    arbiter, workers_choose: as in CampaignSettings.
    recipe: text of the starting recipe; None where there is no substrate yet.

  Raises:
    CampaignKindError: naming what does not go together.
  """
  budget = constitution.budget
  facts = AGENTS[agent]
  if facts.one_trial_a_round:
    if budget.workers != 1:
      raise CampaignKindError(
        f'campaign.agent = {agent!r} runs one trial a round, and budget.workers '
        f'is {budget.workers}; set budget.workers = 1 and more budget.rounds'
      )
  elif budget.workers < 2:
    raise CampaignKindError(
      f'budget.workers = 1 leaves campaign.agent = {agent!r} no explorer beside the '
      "anchor; set 2 or more, or campaign.agent = 'keep_or_discard'"
    )
  if facts.promotes_last and budget.wall_clock_s:
    raise CampaignKindError(
      f'campaign.agent = {agent!r} promotes after its last round, which '
      'budget.wall_clock_s may cut off; set it to 0'
    )
  if workers_choose == 'llm' and facts.changes_are_whole:
    raise CampaignKindError(
      f"campaign.workers_choose = 'llm' changes what campaign.agent = {agent!r} will "
      "think that it assigned; take the statistical agent or 'llm', or let the "
      'policy choose'
    )
  if arbiter == 'manual' and constitution.objective.target == 'proxies':
    raise CampaignKindError(
      "campaign.arbiter = 'manual' asks somebody for scores that objective.target = "
      "'proxies' has no use for; set the one or the other"
    )
  if facts.extra is not None and importlib.util.find_spec(facts.extra.module) is None:
    raise CampaignKindError(facts.extra.missing(agent))
  _check_reversal(constitution)
  if constitution.submission.max_rank:
    _check_adapters(constitution, None if recipe is None else default_values(recipe))


def _check_reversal(constitution: Constitution) -> None:
  """Whether the tests of the verdicts can be run within the campaign; raises CampaignKindError."""
  rules, rounds = constitution.reversal, constitution.budget.rounds
  if rules.test == 'exact' and rules.exact_rounds > rounds:
    raise CampaignKindError(
      f"reversal.test = 'exact' is run after reversal.exact_rounds = {rules.exact_rounds} "
      f'rounds, and budget.rounds is {rounds}; lower the one or raise the other'
    )


def _check_adapters(constitution: Constitution, values: dict[str, Any] | None) -> None:
  """Whether the starting recipe and everything that an agent may bind train an adapter within the
  limit; raises CampaignKindError.
  """
  limit = constitution.submission.max_rank
  if values is not None and values['adaptation.method'] != 'lora':
    raise CampaignKindError(
      f'submission.max_rank = {limit} asks for adapters, and the starting recipe has '
      f'adaptation.method = {values["adaptation.method"]!r}; put '
      "adaptation.method = 'lora' into the substrate's recipe.gin and pin it (aevo substrate pin)"
    )
  if values is not None and values['lora.rank'] > limit:
    raise CampaignKindError(
      f'submission.max_rank = {limit}, and the starting recipe has lora.rank = '
      f"{values['lora.rank']}; lower it in the substrate's recipe.gin and pin it"
    )
  for parameter in constitution.space().parameters:
    if parameter.selector == 'adaptation.method' and set(parameter.choices) != {'lora'}:
      raise CampaignKindError(
        f'submission.max_rank = {limit} asks for adapters, and search_space.axes offers '
        'adaptation.method; leave it out'
      )
    if parameter.selector == 'lora.rank' and max(parameter.choices or (parameter.high,)) > limit:
      raise CampaignKindError(
        'search_space.axes offers lora.rank up to '
        f'{max(parameter.choices or (parameter.high,))}, and submission.max_rank is {limit}'
      )
