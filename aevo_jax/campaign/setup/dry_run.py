"""The dry run: what a campaign takes in trials, time, memory and disk, and what it lacks."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping

from aevo_jax import layout
from aevo_jax.campaign.setup import estimate as estimate_lib
from aevo_jax.campaign.setup import starting_recipe, validation
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.config.constitution import Constitution, LlmRules
from aevo_jax.meta_agent.llm.chat_client import LlmSetupError, read_key
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.substrate import build

# One core of a laptop and the micro model. A report prints what its machine reached.
TOKENS_PER_SECOND = 9000
SCORE_SECONDS = 12.0
BYTES_PER_TRIAL = 14e6


def rows(
  constitution: Constitution,
  settings: CampaignSettings,
  estimate: estimate_lib.Estimate,
  substrate: pathlib.Path | None,
) -> dict[str, str]:
  """Estimates a campaign without starting anything.

  Args:
    constitution: with the tasks' digest.
    settings: gin's section `campaign`.
    estimate: gin's section `estimate`; its model, where there is one, replaces the base.
    substrate: folder of a substrate of one's own; None for the project's.

  Returns:
    Name and value of each line.

  Raises:
    InvalidCampaignError: agent, budget, recipe and submission do not go together.
  """
  _check(constitution, settings, estimate, substrate)
  budget = constitution.budget
  recipes = 1 if settings.arbiter == 'manual' else 2
  final = recipes * budget.final_seeds
  trials = budget.noise_seeds + budget.rounds * budget.workers + final
  slots = settings.slots
  probes = [f'{name} {getattr(constitution.probes, name)}' for name in constitution.probes.used()]
  lines = {
    'trials': (
      f'{trials} ({budget.noise_seeds} for the noise floor, {budget.rounds} rounds of '
      f'{budget.workers}, {final} final)'
    ),
    'training tokens': f'{trials * budget.trial_tokens:,} ({budget.trial_tokens:,} a trial)',
    'processes at a time': f'{slots}',
    'time': 'not known: no trial of such a model has run',
    'wall-clock cap': 'none',
    'disk': 'not known',
    'probes': ', '.join(probes) or 'none',
    'settings': str(dataclasses.asdict(settings)),
    'constitution': constitution.digest(),
  }
  if budget.wall_clock_s:
    lines['wall-clock cap'] = f'{budget.wall_clock_s / 3600:g} h; rounds end early to keep it'
  if not estimate.model:
    seconds = budget.trial_tokens / TOKENS_PER_SECOND + SCORE_SECONDS
    hours = trials * seconds / min(slots, budget.workers) / 3600
    lines['time'] = (
      f'about {hours:.2f} h on cores that train {TOKENS_PER_SECOND:,} tokens a second (micro model)'
    )
    lines['disk'] = (
      f'about {trials * BYTES_PER_TRIAL / 1e6:.0f} MB; '
      f'{shutil.disk_usage(".").free / 1e9:.1f} GB are free here'
    )
  if settings.asks_llm:
    lines['language model'] = _language_model(LlmSettings(**settings.llm), constitution.llm_rules)
  if settings.arbiter == 'manual':
    lines['submissions'] = _submissions(constitution)
  if estimate.model:
    lines |= _large_model(constitution, estimate, substrate)
  return lines


def _check(
  constitution: Constitution,
  settings: CampaignSettings,
  estimate: estimate_lib.Estimate,
  substrate: pathlib.Path | None,
) -> None:
  """Checks what can be checked without a run: a starting recipe is read where one exists."""
  root = substrate
  if root is None and not estimate.model:
    root = layout.root_file('substrate')
  starting = None
  if root is not None and (root / build.RECIPE).exists():
    starting = starting_recipe.text(constitution, (root / build.RECIPE).read_text())
  validation.check(
    constitution,
    settings.agent,
    starting,
    arbiter=settings.arbiter,
    workers_choose=settings.workers_choose,
  )


def _submissions(constitution: Constitution) -> str:
  """Says how many submissions somebody else has to score."""
  budget = constitution.budget
  quota = constitution.release.per_round
  noise = min(budget.noise_seeds, quota)
  a_round = min(budget.workers, quota)
  return f'{noise} + {budget.rounds} x {a_round} + 1, to be scored elsewhere'


def _large_model(
  constitution: Constitution, estimate: estimate_lib.Estimate, substrate: pathlib.Path | None
) -> Mapping[str, str]:
  """Says what a trial of another model takes on each device, and that its substrate is missing."""
  lines = dict(estimate_lib.memory(estimate, constitution))
  if substrate is None:
    recipe = ''
    if constitution.submission.max_rank:
      recipe = " (adaptation.method = 'lora', lora.rank, train.row_length), aevo substrate pin"
    lines['missing'] = (
      'a substrate of this model: aevo substrate build --from_hf=CHECKPOINT --out=my_substrate, '
      f'then in its recipe.gin the starting recipe{recipe}, and --substrate=my_substrate'
    )
  return lines


def _language_model(llm: LlmSettings, rules: LlmRules) -> str:
  """Says which endpoint will be asked, whether it can be, and the caps."""
  try:
    ready = 'no key is sent'
    if read_key(llm):
      ready = f'the key is in {llm.key_variable}'
  except LlmSetupError as error:
    ready = f'NOT READY: {error}'
  price = 'unpriced (llm.price_in, llm.price_out)'
  if llm.price_in or llm.price_out:
    price = f'at most {rules.money_cap:g} of money'
  return (
    f'{llm.model or "no model"} at {llm.base_url}; {ready}; at most {rules.token_cap:,} '
    f'tokens, {price}; nothing was sent'
  )
