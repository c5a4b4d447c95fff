"""The dry run: what a campaign takes in trials, time, memory and disk, and what it lacks."""

import dataclasses
import pathlib
from collections.abc import Mapping

from scipy import special

from aevo_jax.campaign.machine import allowance
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.setup import estimate as estimate_lib
from aevo_jax.campaign.setup import preflight, setup
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.config.configurables import LoadError
from aevo_jax.config.constitution import Constitution, LlmRules
from aevo_jax.evaluation import sets
from aevo_jax.meta_agent.drift import detectable
from aevo_jax.meta_agent.llm.chat_client import LlmSetupError, read_key
from aevo_jax.meta_agent.llm.settings import LlmSettings
from aevo_jax.meta_agent.promotion_rule import level, needed_gain
from aevo_jax.models.hf import checkpoint
from aevo_jax.stats.comparisons.mean_gain import Sample, welch
from aevo_jax.substrate import build

# One core of a laptop and the micro model. A report prints what its machine reached.
TOKENS_PER_SECOND = 9000
SCORE_SECONDS = 12.0
# Between seeds of one recipe, on 3,000 items of the micro base; resubmissions on the public board
# differed as much.
EXTERNAL_SD = 0.01


def rows(
  constitution: Constitution,
  settings: CampaignSettings,
  estimate: estimate_lib.Estimate,
  substrate: pathlib.Path | None,
  run: pathlib.Path | None = None,
  machine: Machine | None = None,
) -> dict[str, str]:
  """Estimates a campaign without starting anything.

  Args:
    constitution: with the tasks' digest.
    settings: gin's section `campaign`.
    estimate: gin's section `estimate`; its model, where there is one, replaces the base.
    substrate: folder of a substrate of one's own; None for the project's.
    run: where it would run; None for anywhere below the working directory.
    machine: that it would run on; this one's if not given.

  Returns:
    Name and value of each line.

  Raises:
    ValueError, SandboxError: see `setup.prepare`.
  """
  machine = machine or Machine()
  tasks = sets.own_tasks(constitution, setup.tasks_path(constitution.tasks.path))
  root = None
  base_bytes = 0
  setup.check_needed(run, constitution, substrate)
  if substrate is not None or not estimate.model:
    root = setup.find_substrate(substrate)
    base_bytes = allowance.float32_bytes(root / build.BASE / checkpoint.WEIGHTS)
  # Whether a language model can be asked is a row of its own.
  setup.check(setup.Given(run, constitution, settings, root, tasks, machine), b'')
  manual = settings.arbiter == 'manual'
  budget = constitution.budget
  trials = preflight.trials(constitution, manual=manual)
  final = trials - budget.noise_seeds - budget.rounds * budget.workers
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
    'verdicts detect': _detected(constitution, len(setup.families(tasks)), manual=manual),
    'promotion finds': _promotable(constitution),
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
    disk = preflight.disk_bytes(constitution, base_bytes, manual=manual)
    parent = (run or pathlib.Path('run')).absolute().parent
    lines |= _machine(machine, parent, disk, allowance.needs(base_bytes).trial_memory)
  if settings.asks_llm:
    lines['language model'] = _language_model(LlmSettings(**settings.llm), constitution.llm_rules)
  if settings.arbiter == 'manual':
    lines['submissions'] = _submissions(constitution)
  if estimate.model:
    lines |= _large_model(constitution, estimate, substrate)
  return lines


def _detected(constitution: Constitution, families: int, *, manual: bool) -> str:
  """Says which flaws of dev the verdicts could see, and what would show the one that they miss."""
  if constitution.objective.target != 'external':
    return 'a proxy that departs from the others; how far is not reckoned beforehand'
  found = detectable.outlook(constitution, families, manual=manual)
  text = detectable.sentence(found, constitution.reversal.power)
  if found.dev_gain is None:
    fixes = detectable.fixes(constitution, families, manual=manual)
    text += f'. That would be seen with: {"; ".join(fixes) or "more of everything"}'
  return text


def _promotable(constitution: Constitution) -> str:
  """Says how large a true gain has to be for the first candidate to pass at its first test."""
  rule = constitution.promotion
  budget = constitution.budget
  replicates = budget.noise_seeds + budget.rounds - 1
  if budget.rounds < 2:
    return 'nothing: a change is tested by looks after the round that found it, so in two rounds'
  change = Sample(EXTERNAL_SD, max(rule.looks - 1, 1), rule.looks)
  anchor = Sample(EXTERNAL_SD, max(budget.noise_seeds - 1, 1), replicates)
  power = constitution.reversal.power
  error = welch(change, anchor)
  needed = max(needed_gain(change, anchor, level(constitution, 0, 1)), rule.min_gain)
  gain = needed + float(special.stdtrit(error.freedom, power)) * error.se
  return (
    f'with power {power:g}: a gain of {gain:.3f} at {rule.looks} looks, if seeds move an external '
    f'score by {EXTERNAL_SD:g}'
  )


def _machine(machine: Machine, parent: pathlib.Path, disk: int, memory: int) -> dict[str, str]:
  """Says what a campaign takes of disk and memory, and what there is."""
  room = machine.disk_free(parent) / 1e9
  free = machine.memory_free() / 1e9
  return {
    'disk': f'about {disk / 1e6:,.0f} MB; {room:,.1f} GB are free at {parent}',
    'memory': f'about {memory / 1e9:.1f} GB for each process; {free:,.1f} GB are free',
  }


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
  try:
    lines = dict(estimate_lib.memory(estimate, constitution))
  except ValueError as error:
    raise LoadError(f'estimate: {error}') from error
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
