"""The collaborators of a campaign: the processes, the parser and the clock that it works with."""

import dataclasses
import pathlib
from collections.abc import Callable

from aevo_jax.campaign.clock import MONOTONIC, Clock
from aevo_jax.campaign.decisions import next_policy
from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.precompiler import Precompiler
from aevo_jax.campaign.executors.protocol import Executor
from aevo_jax.campaign.machine.probes import Machine
from aevo_jax.campaign.manual_arbiter import WriteSubmission
from aevo_jax.campaign.sandbox import confinement
from aevo_jax.campaign.setup.settings import CampaignSettings, Inputs
from aevo_jax.campaign.trial import submission
from aevo_jax.config.untrusted import Parser, parse_untrusted
from aevo_jax.evaluation.servers.client import ARBITER, EVALUATOR, Server, ServerArguments
from aevo_jax.meta_agent.policy import Policy


@dataclasses.dataclass(frozen=True)
class Collaborators:
  """What a campaign takes from outside; none of it changes what counts as improvement.

  Attributes:
    executor: runs attempts at trials.
    evaluator: the server that gives dev scores.
    arbiter: the server that gives external and final scores.
    precompiler: compiles training steps ahead.
    parser: reads an agent's text, which is untrusted.
    clock: for deadlines and waiting.
    next_policy: decides a round's policy, see `next_policy.next_policy`.
    write_submission: writes what is handed in elsewhere, see `submission.write`.
    machine: the controller's own look at disk, memory and devices.
    can_confine: tells whether workers can be confined here, see `confinement.available`.
  """

  executor: Executor
  evaluator: Server
  arbiter: Server
  precompiler: Precompiler
  parser: Parser = parse_untrusted
  clock: Clock = MONOTONIC
  next_policy: Callable[..., Policy] = next_policy.next_policy
  write_submission: WriteSubmission = submission.write
  machine: Machine = dataclasses.field(default_factory=Machine)
  can_confine: Callable[[], tuple[bool, str]] = confinement.available


def local(run: pathlib.Path, settings: CampaignSettings, inputs: Inputs) -> Collaborators:
  """Makes the collaborators of a campaign on this machine; no process starts yet.

  Args:
    run: the run directory; their logs go to `logs` in it.
    settings: of the campaign.
    inputs: of the campaign.
  """
  logs = run / 'logs'
  logs.mkdir(exist_ok=True)
  shared = ServerArguments(
    base=pathlib.Path(inputs.store) / inputs.substrate_object,
    constitution=run / 'constitution.gin',
    cache=inputs.cache,
    threads=settings.threads,
  )
  arbiter_command = shared.command(
    ARBITER,
    home=inputs.arbiter_home,
    holdout=inputs.holdout,
    campaign=inputs.arbiter_campaign,
  )
  return Collaborators(
    executor=LocalExecutor(settings.slots, logs / 'fork_server.log'),
    evaluator=Server(shared.command(EVALUATOR), logs / 'evaluator.log'),
    arbiter=Server(arbiter_command, logs / 'arbiter.log'),
    precompiler=Precompiler(logs),
  )
