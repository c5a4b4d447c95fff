"""The settings of a campaign, gin's section `campaign`, and the inputs that `setup` checked."""

import dataclasses
import os
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge

from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.setup.estimate import Estimate  # noqa: F401  registers `estimate`
from aevo_jax.campaign.setup.validation import ARBITERS
from aevo_jax.config.configurables import LoadError, configurable, resolve
from aevo_jax.config.constitution import Constitution
from aevo_jax.config.constraints import OneOf
from aevo_jax.meta_agent.llm.settings import LlmSettings  # noqa: F401  registers `llm`
from aevo_jax.meta_agent.registry import AGENTS


@configurable('campaign')
@dataclasses.dataclass(frozen=True)
class CampaignSettings:
  """How a campaign is run here; none of it changes what counts as improvement.

  Attributes:
    seed: of trials, settings and the holdout.
    agent: a key of meta_agent.registry.AGENTS.
    arbiter: 'local', or 'manual' where only somebody else can score: submissions are exported, and
      the campaign waits for their scores.
    workers_choose: 'policy' runs what the policy assigns; with 'llm' a language model chooses an
      explorer's bindings, within the axes of its assignment.
    llm: the `llm` section, where a language model is asked (see `settings_from_gin`).
    parallel: processes that compute at once; 0 is one per core.
    threads: of each of them.
    sandbox: 'locked' refuses to start where workers cannot be confined, 'open' does not confine,
      'auto' locks where it can and says so.
    trial_disk_gb: what the directory of a trial may take; 0 allows several times what a trial of
      the base's size is known to write.
    trial_memory_gb: what the processes of a trial may take; 0 is the free memory divided by the
      processes that compute at once, and several times what a trial of the base's size is known to
      need where that is more.
  """

  seed: int = 0
  agent: Annotated[str, OneOf(sorted(AGENTS))] = 'statistical'
  workers_choose: Annotated[str, OneOf(('policy', 'llm'))] = 'policy'
  llm: dict = dataclasses.field(default_factory=dict)
  arbiter: Annotated[str, OneOf(ARBITERS)] = 'local'
  parallel: Annotated[int, Ge(0)] = 0
  threads: Annotated[int, Ge(1)] = 1
  sandbox: Annotated[str, OneOf(('locked', 'open', 'auto'))] = 'auto'
  trial_disk_gb: Annotated[float, Ge(0)] = 0.0
  trial_memory_gb: Annotated[float, Ge(0)] = 0.0

  @property
  def slots(self) -> int:
    """How many processes compute at once on this machine."""
    return self.parallel or max(1, len(os.sched_getaffinity(0)) // self.threads)

  @property
  def asks_llm(self) -> bool:
    """Whether a language model has a part in this campaign."""
    return AGENTS[self.agent].asks_llm or self.workers_choose == 'llm'

  def locked(self, available: Callable[[], tuple[bool, str]] = confinement.available) -> bool:
    """Finds out whether workers will be confined.

    Args:
      available: tells whether this machine can confine them, and why not.

    Returns:
      Whether it can and `sandbox` is not 'open'.

    Raises:
      SandboxUnavailableError: 'locked' was asked for and this machine cannot.
    """
    usable, reason = available()
    if self.sandbox == 'locked' and not usable:
      raise confinement.SandboxUnavailableError(f"campaign.sandbox = 'locked', but {reason}")
    return usable and self.sandbox != 'open'


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a campaign is started with, all of it already checked.

  Attributes:
    constitution: with the arbiter's commitment.
    holdout: name of the arbiter's secret.
    arbiter_campaign: name of its private directory, which no other campaign has.
    store: root of the substrate store.
    substrate_object: digest of the stored substrate, see `substrate.build`.
    substrate_identity: digest of base, code and recipe.
    base_digest: logical digest of the base.
    recipe: the substrate's default recipe.
    cache: compilation cache, '' for none.
    arbiter_home: the arbiter's directory.
    substrate_root: the folder the substrate was built from; '' for the project's.
  """

  constitution: Constitution
  holdout: str
  arbiter_campaign: str
  store: str
  substrate_object: str
  substrate_identity: str
  base_digest: str
  recipe: str
  cache: str
  arbiter_home: str
  substrate_root: str = ''


def settings_from_gin() -> CampaignSettings:
  """Reads the settings of the loaded gin configuration.

  Returns:
    The `campaign` section, with the `llm` section where a language model is asked.

  Raises:
    LoadError: `campaign.llm` is bound.
  """
  settings = resolve('campaign')
  if settings.llm:
    raise LoadError('campaign.llm cannot be bound; bind llm.base_url, llm.model and so on')
  if settings.asks_llm:
    settings = dataclasses.replace(settings, llm=dataclasses.asdict(resolve('llm')))
  return settings
