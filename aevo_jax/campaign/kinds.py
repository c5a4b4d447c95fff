"""Which agents, budgets, recipes and submissions go together: checked before anything is made."""

from typing import Any

from aevo_jax.campaign.gate import default_values
from aevo_jax.config.constitution import Constitution

ARBITERS = ('local', 'manual')


class CampaignKindError(ValueError):
  """A campaign whose parts do not go together; the message names the binding and the fix."""


def check(constitution: Constitution, agent: str, recipe: str | None) -> None:
  """Whether a campaign of this agent can be run.

  Args:
    recipe: text of the starting recipe; None where there is no substrate yet.

  Raises:
    CampaignKindError: naming what does not go together.
  """
  budget = constitution.budget
  if agent == 'keep_or_discard':
    if budget.workers != 1:
      raise CampaignKindError(f"campaign.agent = 'keep_or_discard' runs one trial a round, and budget.workers is {budget.workers}; set budget.workers = 1 and more budget.rounds")
  elif budget.workers < 2:
    raise CampaignKindError(f"budget.workers = 1 leaves campaign.agent = {agent!r} no explorer beside the anchor; set 2 or more, or campaign.agent = 'keep_or_discard'")
  if agent == 'frozen' and budget.wall_clock_s:
    raise CampaignKindError("campaign.agent = 'frozen' promotes after its last round, which budget.wall_clock_s may cut off; set it to 0")
  if constitution.submission.max_rank:
    _check_adapters(constitution, None if recipe is None else default_values(recipe))


def _check_adapters(constitution: Constitution, values: dict[str, Any] | None) -> None:
  """Whether the starting recipe and everything that an agent may bind train an adapter within the limit; raises CampaignKindError."""
  limit = constitution.submission.max_rank
  if values is not None and values['adaptation.method'] != 'lora':
    raise CampaignKindError(f"submission.max_rank = {limit} asks for adapters, and the starting recipe has adaptation.method = {values['adaptation.method']!r}; put "
                            "adaptation.method = 'lora' into the substrate's recipe.gin and pin it (aevo substrate pin)")
  if values is not None and values['lora.rank'] > limit:
    raise CampaignKindError(f"submission.max_rank = {limit}, and the starting recipe has lora.rank = {values['lora.rank']}; lower it in the substrate's recipe.gin and pin it")
  for parameter in constitution.space().parameters:
    if parameter.selector == 'adaptation.method' and set(parameter.choices) != {'lora'}:
      raise CampaignKindError(f'submission.max_rank = {limit} asks for adapters, and search_space.axes offers adaptation.method; leave it out')
    if parameter.selector == 'lora.rank' and max(parameter.choices or (parameter.high,)) > limit:
      raise CampaignKindError(f'search_space.axes offers lora.rank up to {max(parameter.choices or (parameter.high,))}, and submission.max_rank is {limit}')
