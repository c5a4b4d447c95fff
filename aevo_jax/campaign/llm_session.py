"""The controller's side of a conversation with a language model: what the ledger has is not asked
again, caps are checked before a request, and all of it is recorded.

    llm_requested   a request is about to be sent, and the most that it can come to, which counts as
    spent from here on, also if the controller is killed llm_exchange    what was sent, what came
    back, and what it came to after all
    agent_fell_back no usable reply will come: the statistical agent takes the round, or the worker
      runs what it was assigned

The model's words are cut after `chat_client.MAX_REPLY` bytes, and are then no usable reply; length
and SHA-256 are of all of them.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from aevo_jax.campaign.state import CampaignState
from aevo_jax.config.constitution import LlmRules
from aevo_jax.meta_agent.llm.chat_client import ChatClient, Messages, Usage
from aevo_jax.meta_agent.llm.dialogue import Answer, GaveUpError, Recorded
from aevo_jax.meta_agent.llm.settings import LlmSettings


class Desk(Recorded):
  """One question, put to the endpoint where the ledger does not have the answer.

  Args:
    state: the folded ledger, kept up to date by `append`. round_, purpose: which question
      (`llm_agent.POLICY` or a worker's).
  """

  def __init__(
    self,
    client: ChatClient,
    settings: LlmSettings,
    rules: LlmRules,
    state: CampaignState,
    append: Callable[[str, dict[str, Any]], None],
    round_: int,
    purpose: str,
  ):
    super().__init__(settings.attempts, *state.conversation(round_, purpose))
    self._client, self._settings, self._rules, self._state, self._append = (
      client,
      settings,
      rules,
      state,
      append,
    )
    self._key = {'round': round_, 'purpose': purpose}
    self._ends = time.monotonic() + settings.deadline_s
    self._wait, self._failures = 0.0, 0

  def ask_on(self, attempt: int, messages: Messages) -> Answer:
    """Asks the endpoint.

    Raises:
      GaveUpError: a cap or the deadline does not allow it.
    """
    most = self._client.reserve(messages)
    if (reason := beyond_caps(self._state.llm_spent, most, self._rules)) is not None:
      raise GaveUpError(reason)
    if self._wait >= self._ends - time.monotonic():
      raise GaveUpError(
        f'the next request would have to wait {self._wait:.3g} s, which llm.deadline_s = '
        f'{self._settings.deadline_s:g} does not leave'
      )
    time.sleep(self._wait)
    self._append(
      'llm_requested', self._key | {'attempt': attempt, 'reserved': dataclasses.asdict(most)}
    )
    reply = self._client.complete(messages, self._ends - time.monotonic())
    self._append(
      'llm_exchange',
      self._key
      | {
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
      },
    )
    self._wait = (
      max(self._settings.wait_s * 2**self._failures, reply.wait_s or 0.0) if reply.error else 0.0
    )
    self._failures += bool(reply.error)
    return Answer(reply.text, reply.error and f'{reply.error}: {reply.detail}', reply.again)

  def gave_up(self, cause: str) -> None:
    """Enters it into the ledger, once."""
    if self._because is None:
      self._append('agent_fell_back', self._key | {'cause': cause})
    else:
      super().gave_up(cause)


def beyond_caps(spent: dict[str, float], most: Usage, rules: LlmRules) -> str | None:
  """Why a request that can come to `most` may not be sent any more, or None."""
  tokens = spent['tokens_in'] + spent['tokens_out'] + most.tokens_in + most.tokens_out
  if tokens > rules.token_cap:
    return (
      f'llm_rules.token_cap = {rules.token_cap}: {spent["tokens_in"] + spent["tokens_out"]} '
      f'tokens are spent, and the next request could take {most.tokens_in + most.tokens_out}'
    )
  if spent['money'] + most.money > rules.money_cap:
    return (
      f'llm_rules.money_cap = {rules.money_cap:g}: {spent["money"]:.4g} is spent, and the '
      f'next request could cost {most.money:.4g}'
    )
  return None
