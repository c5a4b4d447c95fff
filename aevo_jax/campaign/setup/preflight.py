"""The preflight: what a machine lacks for a campaign, found before the run exists."""

import importlib.util
import pathlib

from aevo_jax.campaign.machine import allowance
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.setup.settings import CampaignSettings
from aevo_jax.campaign.setup.validation import InvalidCampaignError
from aevo_jax.config.constitution import Constitution

# Evaluator and arbiter compute beside the trials.
SERVERS = 2
_MB = 1e6


def trials(constitution: Constitution, *, manual: bool) -> int:
  """Counts the trials of a campaign, its noise floor and its final included.

  Args:
    constitution: its budget is read.
    manual: whether somebody else scores, who scores one retraining for each seed.
  """
  budget = constitution.budget
  recipes = 1 if manual else 2
  return budget.noise_seeds + budget.rounds * budget.workers + recipes * budget.final_seeds


def disk_bytes(constitution: Constitution, base_bytes: int, *, manual: bool) -> int:
  """Estimates the bytes that a whole campaign writes.

  Args:
    constitution: see `trials`.
    base_bytes: of the base's weights in float32.
    manual: see `trials`.
  """
  needs = allowance.needs(base_bytes)
  return needs.setup_disk + trials(constitution, manual=manual) * needs.trial_disk


def disk_remark(run: pathlib.Path, needed: int, machine: Machine) -> str:
  """Says where a disk is too small for a whole campaign, which begins all the same.

  Args:
    run: the run directory.
    needed: bytes that its trials take.
    machine: of the campaign.

  Returns:
    A sentence, '' where there is room.
  """
  free = machine.disk_free(run.absolute().parent)
  if free >= needed:
    return ''
  return (
    f'{run.absolute().parent} has {free / _MB:,.0f} MB free, and the trials take about '
    f'{needed / _MB:,.0f} MB; the campaign will pause when the disk is full, and can be resumed'
  )


def check_disk(run: pathlib.Path, base_bytes: int, machine: Machine) -> None:
  """Checks that there is room for what is written before the first trial.

  Args:
    run: the run directory, which does not exist yet.
    base_bytes: of the base's weights in float32.
    machine: of the campaign.

  Raises:
    InvalidCampaignError: there is not.
  """
  needed = allowance.needs(base_bytes).setup_disk
  parent = run.absolute().parent
  free = machine.disk_free(parent)
  if free < needed:
    raise InvalidCampaignError(
      f'{parent} has {free / _MB:,.1f} MB free, and a campaign writes {needed / _MB:,.1f} MB '
      'before its first trial; free space, or choose another --run'
    )


def check_allowance(settings: CampaignSettings, base_bytes: int) -> None:
  """Checks that a trial may hold its weights, in memory and on disk.

  Args:
    settings: what a trial may take; 0 leaves it to `allowance.default`.
    base_bytes: of the base's weights in float32, which a trial holds once at least.

  Raises:
    InvalidCampaignError: every trial would fail.
  """
  needs = allowance.needs(base_bytes)
  for name, needed in (('disk', needs.trial_disk), ('memory', needs.trial_memory)):
    field = f'trial_{name}_gb'
    allowed = getattr(settings, field)
    if allowed and allowed * allowance.GB < base_bytes:
      raise InvalidCampaignError(
        f'campaign.{field} = {allowed:g}, and the weights of a trial alone take '
        f'{base_bytes / _MB:,.1f} MB; leave it out, or bind {needed / allowance.GB:.2g} or more'
      )


def check_memory(
  constitution: Constitution,
  settings: CampaignSettings,
  needs: allowance.Needs,
  machine: Machine,
) -> None:
  """Checks that the processes that compute at once fit into the free memory.

  Args:
    constitution: its budget says how many trials there are at a time.
    settings: how many processes may compute.
    needs: of a trial.
    machine: of the campaign.

  Raises:
    InvalidCampaignError: they do not; it says how many would, or which limit forbids it.
  """
  each = needs.trial_memory
  limit = machine.memory_limit()
  if limit is not None and limit < each:
    raise InvalidCampaignError(
      f'memory is limited to {limit / allowance.GB:.1f} GB (ulimit -v, -d), and a trial takes '
      f'about {each / allowance.GB:.1f} GB; raise the limit'
    )
  budget = constitution.budget
  at_once = min(settings.slots, budget.workers + budget.final_seeds + SERVERS)
  free = machine.memory_free()
  if each * at_once <= free:
    return
  fitting = free // each
  fix = 'free some, or use a larger machine'
  if fitting:
    fix = f'bind campaign.parallel = {fitting}, or free some'
  raise InvalidCampaignError(
    f'{free / allowance.GB:.1f} GB of memory are free, and {at_once} processes that compute '
    f'at once take about {each * at_once / allowance.GB:.1f} GB; {fix}'
  )


def check_engine(constitution: Constitution) -> None:
  """Checks that the evaluation engine is installed.

  Args:
    constitution: names it.

  Raises:
    InvalidCampaignError: it is not, and what to do.
  """
  problem = missing_engine(constitution)
  if problem:
    raise InvalidCampaignError(
      f"evaluation.engine = 'vllm', and {problem}, or bind evaluation.engine = 'jax'"
    )


def missing_engine(constitution: Constitution) -> str:
  """Says which part of the evaluation engine is not installed, and what to do; '' if it is whole.

  Args:
    constitution: names the engine.
  """
  if constitution.evaluation.engine != 'vllm':
    return ''
  if importlib.util.find_spec('httpx2') is None:
    return "there is no httpx2: install it with: pip install 'aevo-jax[vllm]'"
  if constitution.vllm.url:
    return ''
  from aevo_jax.generation.vllm import server  # noqa: PLC0415  httpx2 is an extra

  try:
    server.interpreter(constitution.vllm)
  except server.NoVllmError as error:
    return str(error)
  return ''
