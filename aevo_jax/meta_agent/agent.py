"""The agent: what every meta agent has, and the facts that a campaign asks of it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from aevo_jax.config.constitution import Constitution
from aevo_jax.meta_agent.evidence import Evidence
from aevo_jax.meta_agent.policy import Policy


class Extra(NamedTuple):
  """An optional dependency.

  Attributes:
    module: name that Python imports.
    name: of the extra of this package that installs it.
    target: of a checkout's Makefile that installs it, '' without one.
  """

  module: str
  name: str
  target: str = ''

  def missing(self, agent: str) -> str:
    """Words the error of an agent that lacks it.

    Args:
      agent: name in the registry.

    Returns:
      A sentence with the command that installs it.
    """
    checkout = f', or in a checkout: make {self.target}' if self.target else ''
    return (
      f'campaign.agent = {agent!r} needs {self.module}; install it with: '
      f"pip install 'aevo-jax[{self.name}]'{checkout}"
    )


class Agent(Protocol):
  """Writes the next policy from the evidence.

  A class that inherits from this one is a row of `registry.AGENTS`. Its facts are class attributes.

  Attributes:
    uses_verdicts: its decisions follow `Policy.objectives`, which verdicts revise. Other agents are
      peers that no verdict changes.
    changes_are_whole: it takes a trial's changes for the trial's whole recipe, not for changes of
      the standing one. So workers may not choose bindings under it.
    one_trial_a_round: it assigns one trial, not an anchor beside explorers.
    promotes_last: it promotes after the last round alone, so no wall-clock budget may cut that off.
    asks_llm: it is constructed with a `Dialogue` and a `Parser`, and is no function of the evidence
      alone. Others are constructed without arguments, and are shown roles instead of names (see
      `anonymize`).
    extras: optional dependencies.
  """

  uses_verdicts: ClassVar[bool] = False
  changes_are_whole: ClassVar[bool] = False
  one_trial_a_round: ClassVar[bool] = False
  promotes_last: ClassVar[bool] = False
  asks_llm: ClassVar[bool] = False
  extras: ClassVar[tuple[Extra, ...]] = ()

  def decide(
    self,
    history: Sequence[Evidence],
    policy: Policy,
    constitution: Constitution,
    defaults: Mapping[str, Any],
    seed: int,
  ) -> Policy:
    """Decides the policy of the next round: a pure function of its arguments.

    Args:
      history: evidence of all rounds so far, oldest first.
      policy: that of the last round.
      constitution: search space, thresholds and number of workers.
      defaults: selector -> value of the substrate's default recipe.
      seed: of the settings that are sampled.

    Returns:
      The policy of round `policy.round + 1`.
    """
    ...
