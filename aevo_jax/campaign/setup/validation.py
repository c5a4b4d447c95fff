"""The validation of a campaign: which agents, budgets, recipes and submissions go together.

It runs before anything is written.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from aevo_jax.campaign.sandbox.confinement import SandboxError
from aevo_jax.campaign.trial.gate import default_values
from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.registry import AGENTS
from aevo_jax.training.recipe.recipe import SECOND

ARBITERS = ('local', 'manual')


class InvalidCampaignError(ValueError):
  """The parts of a campaign do not go together; the message names the binding and the fix."""


class SeveralMistakesError(InvalidCampaignError):
  """More than one thing is wrong.

  Attributes:
    mistakes: a sentence for each.
  """

  def __init__(self, mistakes: list[str]):
    listed = '\n  - '.join(mistakes)
    super().__init__(f'{len(mistakes)} things are in the way:\n  - {listed}')
    self.mistakes = mistakes


def together(*checks: Callable[[], object]) -> None:
  """Makes all checks, so that a person hears of every mistake at once.

  Args:
    *checks: each raises ValueError, or SandboxError, for a mistake.

  Raises:
    ValueError, SandboxError: the mistake, where there is one.
    SeveralMistakesError: there are several.
  """
  found = mistakes(*checks)
  if len(found) == 1:
    raise found[0]
  sentences = []
  for error in found:
    sentences += getattr(error, 'mistakes', [str(error)])
  if sentences:
    raise SeveralMistakesError(sentences)


def mistakes(*checks: Callable[[], object]) -> list[Exception]:
  """Makes all checks, as `together`, and returns what they raise."""
  found = []
  for check_one in checks:
    try:
      check_one()
    except (ValueError, SandboxError) as error:
      found.append(error)
  return found


def check(
  constitution: Constitution,
  agent: str,
  recipe: str | None,
  *,
  arbiter: str = 'local',
  workers_choose: str = 'policy',
) -> None:
  """Checks that a campaign of these parts can run.

  Args:
    constitution: its budget, objective, reversal and submission sections are read.
    agent: a key of `registry.AGENTS`.
    recipe: text of the starting recipe; None where there is no substrate yet.
    arbiter: as in CampaignSettings.
    workers_choose: as in CampaignSettings.

  Raises:
    InvalidCampaignError: naming all that does not go together.
  """
  checks = [
    functools.partial(_check_budget, constitution, agent),
    functools.partial(_check_choices, constitution, agent, arbiter, workers_choose),
    functools.partial(_check_reversal, constitution),
    functools.partial(_check_axes, constitution),
  ]
  limit = constitution.submission.max_rank
  if limit:
    values = {}
    if recipe is not None:
      values = default_values(recipe)
      checks.append(functools.partial(_check_starting_adapter, limit, values))
    checks.append(functools.partial(_check_adapter_axes, limit, constitution, values))
  together(*checks)


def _check_choices(
  constitution: Constitution, agent: str, arbiter: str, workers_choose: str
) -> None:
  """Checks that agent, arbiter and the workers' choice go together."""
  if workers_choose == 'llm' and AGENTS[agent].changes_are_whole:
    raise InvalidCampaignError(
      f"campaign.workers_choose = 'llm' changes what campaign.agent = {agent!r} will "
      "think that it assigned; take the statistical agent or 'llm', or let the "
      'policy choose'
    )
  if arbiter == 'manual' and constitution.objective.target == 'proxies':
    raise InvalidCampaignError(
      "campaign.arbiter = 'manual' asks somebody for scores that objective.target = "
      "'proxies' has no use for; set the one or the other"
    )
  for extra in AGENTS[agent].extras:
    if importlib.util.find_spec(extra.module) is None:
      raise InvalidCampaignError(extra.missing(agent))


def _check_budget(constitution: Constitution, agent: str) -> None:
  budget = constitution.budget
  facts = AGENTS[agent]
  if facts.one_trial_a_round:
    if budget.workers != 1:
      raise InvalidCampaignError(
        f'campaign.agent = {agent!r} runs one trial a round, and budget.workers '
        f'is {budget.workers}; set budget.workers = 1 and more budget.rounds'
      )
  elif budget.workers < 2:
    raise InvalidCampaignError(
      f'budget.workers = 1 leaves campaign.agent = {agent!r} no explorer beside the '
      "anchor; set 2 or more, or campaign.agent = 'keep_or_discard'"
    )
  if facts.promotes_last and budget.wall_clock_s:
    raise InvalidCampaignError(
      f'campaign.agent = {agent!r} promotes after its last round, which '
      'budget.wall_clock_s may cut off; set it to 0'
    )


def _check_axes(constitution: Constitution) -> None:
  """Checks that there is something to explore."""
  if not constitution.search_space.axes:
    raise InvalidCampaignError(
      'search_space.axes is empty, so explorers have nothing to explore; offer an axis, as '
      'configs/campaigns/quickstart.gin does'
    )


def _check_reversal(constitution: Constitution) -> None:
  """Checks that the tests of the verdicts fit into the campaign."""
  rules = constitution.reversal
  rounds = constitution.budget.rounds
  if rules.test == 'exact' and rules.exact_rounds > rounds:
    raise InvalidCampaignError(
      f"reversal.test = 'exact' is run after reversal.exact_rounds = {rules.exact_rounds} "
      f'rounds, and budget.rounds is {rounds}; lower the one or raise the other'
    )


def _check_starting_adapter(limit: int, values: dict[str, Any]) -> None:
  """Checks that the starting recipe trains an adapter within the limit."""
  if values['adaptation.method'] != 'lora':
    raise InvalidCampaignError(
      f'submission.max_rank = {limit} asks for adapters, and the starting recipe has '
      f'adaptation.method = {values["adaptation.method"]!r}; bind '
      "adaptation.method = 'lora', or put it into the substrate's recipe.gin and pin that "
      '(aevo substrate pin)'
    )
  rank = values['lora.rank'] * _adapters(values['method.name'])
  if rank > limit:
    raise InvalidCampaignError(
      f'submission.max_rank = {limit}, and the starting recipe trains an adapter of rank {rank} '
      f'(lora.rank = {values["lora.rank"]} by each method of {values["method.name"]!r}); bind a '
      'lower lora.rank'
    )


def _adapters(*methods: str) -> int:
  """Counts the adapters that a recipe of one of the methods stacks: two methods train one each."""
  return 2 if set(methods) & set(SECOND) else 1


def _check_adapter_axes(limit: int, constitution: Constitution, values: dict[str, Any]) -> None:
  """Checks that whatever an agent may bind trains an adapter within the limit."""
  offered = {parameter.selector: parameter for parameter in constitution.space().parameters}
  method = offered.get('adaptation.method')
  if method is not None and set(method.choices) != {'lora'}:
    raise InvalidCampaignError(
      f'submission.max_rank = {limit} asks for adapters, and search_space.axes offers '
      'adaptation.method; leave it out'
    )
  names = (values.get('method.name', 'sft'),)
  if 'method.name' in offered:
    names = offered['method.name'].choices
  highest = values.get('lora.rank', 0)
  if 'lora.rank' in offered:
    highest = max(offered['lora.rank'].choices or (offered['lora.rank'].high,))
  rank = highest * _adapters(*names)
  if rank > limit and ('lora.rank' in offered or 'method.name' in offered):
    raise InvalidCampaignError(
      f'search_space.axes lets recipes train adapters of rank {rank} (lora.rank up to {highest}, '
      f'methods {", ".join(names)}), and submission.max_rank is {limit}'
    )
