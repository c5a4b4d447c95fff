"""The controller's session with a language model about one question.

What the ledger has is not asked again, caps are checked before a request, and all of it is
recorded:

    llm_requested    a request is about to be sent, and the most that it can come to, which counts
                     as spent from here on, also if the controller is killed
    llm_exchange     what was sent, what came back, and what it cost after all
    agent_fell_back  no usable reply will come: the statistical agent takes the round, or the
                     worker runs what it was assigned

The model's text is cut after `chat_client.MAX_REPLY` bytes, and is then no usable reply; length and
SHA-256 are of all of it.
"""

import dataclasses
from typing import Any, Protocol

from aevo_jax.campaign.clock import MONOTONIC, Clock
from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.config.constitution import LlmRules
from aevo_jax.meta_agent.llm.chat_client import ChatClient, Messages, Reply, Usage
from aevo_jax.meta_agent.llm.dialogue import Answer, GaveUpError, Recorded
from aevo_jax.meta_agent.llm.settings import LlmSettings


class Records(Protocol):
  """Where exchanges are recorded: a campaign's journal."""

  state: CampaignState

  def append(self, kind: str, payload: dict[str, Any]) -> None:
    """Appends a record and folds it into `state`."""


class LlmSession(Recorded):
  """One question, put to the endpoint where the ledger does not have the answer.

  Args:
    client: of the endpoint.
    settings: attempts, waits and the deadline, which counts from here.
    rules: the campaign's caps.
    journal: has the exchanges of earlier controllers and takes new ones.
    round_: of the policy that the question is about.
    purpose: `llm_agent.POLICY`, `llm_agent.CONTROL` or a worker's.
    clock: measures the deadline and waits between requests.
  """

  def __init__(
    self,
    client: ChatClient,
    settings: LlmSettings,
    rules: LlmRules,
    journal: Records,
    round_: int,
    purpose: str,
    clock: Clock = MONOTONIC,
  ):
    exchanges, cause = journal.state.conversation(round_, purpose)
    super().__init__(settings.attempts, exchanges, cause)
    self._client = client
    self._settings = settings
    self._rules = rules
    self._journal = journal
    self._clock = clock
    self._key = {'round': round_, 'purpose': purpose}
    self._ends = clock.now() + settings.deadline_s
    self._wait = 0.0
    self._failures = 0

  def ask_on(self, attempt: int, messages: Messages) -> Answer:
    """Asks the endpoint.

    Args:
      attempt: its number, from 0.
      messages: the whole conversation so far.

    Raises:
      GaveUpError: a cap or the deadline does not allow it.
    """
    most = self._client.reserve(messages)
    refusal = beyond_caps(self._journal.state.llm_spent, most, self._rules)
    if refusal is not None:
      raise GaveUpError(refusal)
    if self._wait >= self._ends - self._clock.now():
      raise GaveUpError(
        f'the next request would have to wait {self._wait:.3g} s, which llm.deadline_s = '
        f'{self._settings.deadline_s:g} does not leave'
      )
    self._clock.sleep(self._wait)
    requested = {'attempt': attempt, 'reserved': dataclasses.asdict(most)}
    self._journal.append('llm_requested', self._key | requested)
    reply = self._client.complete(messages, self._ends - self._clock.now())
    self._journal.append('llm_exchange', self._key | _exchange(attempt, messages, reply))
    self._wait = 0.0
    error = ''
    if reply.error:
      error = f'{reply.error}: {reply.detail}'
      self._wait = max(self._settings.wait_s * 2**self._failures, reply.wait_s or 0.0)
      self._failures += 1
    return Answer(reply.text, error, reply.again)

  def gave_up(self, cause: str) -> None:
    """Records once that no usable reply will come.

    Args:
      cause: a sentence for the ledger.
    """
    if self._because is None:
      self._journal.append('agent_fell_back', self._key | {'cause': cause})
    else:
      super().gave_up(cause)


def _exchange(attempt: int, messages: Messages, reply: Reply) -> dict[str, Any]:
  return {
    'attempt': attempt,
    'messages': list(messages),
    'reply': reply.text,
    'length': reply.length,
    'digest': reply.digest,
    'error': reply.error,
    'detail': reply.detail,
    'again': reply.again,
    'usage': dataclasses.asdict(reply.usage),
    'seconds': reply.seconds,
  }


def beyond_caps(spent: dict[str, float], most: Usage, rules: LlmRules) -> str | None:
  """Checks a request against the campaign's caps.

  Args:
    spent: tokens_in, tokens_out and money so far.
    most: what the request can come to.
    rules: the caps.

  Returns:
    Why it may not be sent, or None if it may.
  """
  spent_tokens = spent['tokens_in'] + spent['tokens_out']
  next_tokens = most.tokens_in + most.tokens_out
  if spent_tokens + next_tokens > rules.token_cap:
    return (
      f'llm_rules.token_cap = {rules.token_cap}: {spent_tokens} '
      f'tokens are spent, and the next request could take {next_tokens}'
    )
  if spent['money'] + most.money > rules.money_cap:
    return (
      f'llm_rules.money_cap = {rules.money_cap:g}: {spent["money"]:.4g} is spent, and the '
      f'next request could cost {most.money:.4g}'
    )
  return None
