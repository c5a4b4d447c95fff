"""Asking a language model until its reply can be used: the same steps with a server at the other
end and with a transcript.

A question is asked at most `attempts` times: again where the request failed and may fare better,
and with a list of what is wrong where the reply cannot be used. What comes out is a function of the
replies alone, so that a transcript gives it again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aevo_jax.meta_agent.llm.chat_client import Messages

PROBLEMS, PROBLEM_CHARS, QUOTED = (
  12,
  240,
  6000,
)  # what is sent back: problems, characters of each, and of the reply they are about


class GaveUpError(Exception):
  """No usable reply will come; the message says why."""


class ReplyError(ValueError):
  """A reply that cannot be used. `problems` has a sentence each."""

  def __init__(self, problems: Sequence[str]):
    super().__init__('; '.join(problems))
    self.problems = list(problems)


class TranscriptError(ValueError):
  """The ledger's transcript is not that of the conversation it should be."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """text: the reply. error: '' or why there is none. again: whether the request may be repeated."""

  text: str
  error: str
  again: bool


class Dialogue(Protocol):
  """Whom one question is put to; `attempts` is how often at most."""

  attempts: int

  def ask(self, attempt: int, messages: Messages) -> Answer:
    """The answer to the attempt-th request; raises GaveUpError if it may not be asked."""

  def gave_up(self, cause: str) -> None:
    """Notes that the question remains without a usable reply."""


def converse[T](dialogue: Dialogue, messages: Messages, read: Callable[[str], T]) -> T:
  """What `read` makes of the first reply it can use; it raises ReplyError for the others.

  Raises:
    GaveUpError: there is none. `dialogue` was told.
  """
  sent, cause = messages, ''
  try:
    for attempt in range(dialogue.attempts):
      answer = dialogue.ask(attempt, sent)
      if answer.error:
        cause = answer.error
        if not answer.again:
          raise GaveUpError(cause)
        continue
      try:
        return read(answer.text)
      except ReplyError as error:
        problems = [p[:PROBLEM_CHARS] for p in error.problems[:PROBLEMS]]
        cause = f'unusable reply: {problems[0]}'
        sent = [
          *messages,
          {'role': 'assistant', 'content': answer.text[:QUOTED]},
          {
            'role': 'user',
            'content': 'That reply cannot be used:\n'
            + '\n'.join(f'- {p}' for p in problems)
            + '\nAnswer again, with one JSON object and nothing else.',
          },
        ]
    raise GaveUpError(f'{dialogue.attempts} attempts; the last: {cause}')
  except GaveUpError as error:
    dialogue.gave_up(str(error))
    raise


class Recorded:
  """A dialogue that has taken place.

  Args:
    exchanges: the ledger's llm_exchange payloads about one question, in order. gave_up_because:
      cause of its agent_fell_back record, if there is one.
  """

  def __init__(
    self, attempts: int, exchanges: Sequence[dict[str, Any]], gave_up_because: str | None
  ):
    self.attempts, self._exchanges, self._because, self._used = (
      attempts,
      list(exchanges),
      gave_up_because,
      0,
    )

  def ask(self, attempt: int, messages: Messages) -> Answer:
    """As recorded; raises TranscriptError if other words were sent."""
    if attempt < len(self._exchanges):
      exchange = self._exchanges[attempt]
      if exchange['messages'] != list(messages):
        raise TranscriptError(
          f'attempt {attempt} asked something else than follows from what was known'
        )
      self._used = attempt + 1
      return Answer(
        exchange['reply'],
        exchange['error'] and f'{exchange["error"]}: {exchange["detail"]}',
        exchange['again'],
      )
    if self._because is not None:
      raise GaveUpError(self._because)
    return self.ask_on(attempt, messages)

  def ask_on(self, attempt: int, messages: Messages) -> Answer:
    """Beyond the record."""
    raise TranscriptError(f'no reply to attempt {attempt} is recorded')

  def gave_up(self, cause: str) -> None:
    """As recorded."""
    if cause != self._because:
      raise TranscriptError(f'it should have been given up: {cause}; recorded is {self._because!r}')

  def check_complete(self) -> None:
    """Raises TranscriptError if more was recorded than was needed."""
    if self._used < len(self._exchanges):
      raise TranscriptError(
        f'{len(self._exchanges)} exchanges are recorded, and {self._used} led to the outcome'
      )
