"""A dialogue: asking a language model until its reply can be used, live or from a transcript.

A question is asked at most `attempts` times: again where the request failed and may fare better,
and with a list of what is wrong where the reply cannot be used. What comes out is a function of the
replies alone, so that a transcript gives it again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aevo_jax.meta_agent.llm.chat_client import Messages

# What is sent back: problems, characters of each, and characters of the reply they are about.
PROBLEMS = 12
PROBLEM_CHARS = 240
QUOTED = 6000


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
  """An answer to one request.

  Attributes:
    text: the reply.
    error: '' or why there is none.
    again: whether the request may be repeated.
  """

  text: str
  error: str
  again: bool


class Dialogue(Protocol):
  """Whom one question is put to; `attempts` is how often at most."""

  attempts: int

  def ask(self, attempt: int, messages: Messages) -> Answer:
    """Sends one request.

    Args:
      attempt: its number, from 0.
      messages: role and content each.

    Returns:
      The answer.

    Raises:
      GaveUpError: the request may not be sent.
    """
    ...

  def gave_up(self, cause: str) -> None:
    """Notes that the question remains without a usable reply.

    Args:
      cause: in words.
    """
    ...


def converse[T](dialogue: Dialogue, messages: Messages, read: Callable[[str], T]) -> T:
  """Asks until a reply can be read.

  Args:
    dialogue: whom to ask.
    messages: the question.
    read: makes something of a reply, or raises ReplyError.

  Returns:
    What `read` makes of the first reply it can use.

  Raises:
    GaveUpError: there is none. `dialogue` was told.
  """
  try:
    return _converse(dialogue, messages, read)
  except GaveUpError as error:
    dialogue.gave_up(str(error))
    raise


def _converse[T](dialogue: Dialogue, messages: Messages, read: Callable[[str], T]) -> T:
  sent = messages
  cause = ''
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
      problems = [problem[:PROBLEM_CHARS] for problem in error.problems[:PROBLEMS]]
      cause = f'unusable reply: {problems[0]}'
      sent = [*messages, *_complaint(answer.text, problems)]
  raise GaveUpError(f'{dialogue.attempts} attempts; the last: {cause}')


def _complaint(reply: str, problems: Sequence[str]) -> Messages:
  """A reply that cannot be used, and what is wrong with it."""
  lines = ['That reply cannot be used:']
  for problem in problems:
    lines.append(f'- {problem}')
  lines.append('Answer again, with one JSON object and nothing else.')
  return [
    {'role': 'assistant', 'content': reply[:QUOTED]},
    {'role': 'user', 'content': '\n'.join(lines)},
  ]


class Recorded:
  """A dialogue that has taken place.

  Args:
    attempts: requests for the question.
    exchanges: the ledger's llm_exchange payloads about one question, in order.
    gave_up_because: cause of its agent_fell_back record, None without one.
  """

  def __init__(
    self, attempts: int, exchanges: Sequence[dict[str, Any]], gave_up_because: str | None
  ):
    self.attempts = attempts
    self._exchanges = list(exchanges)
    self._because = gave_up_because
    self._used = 0

  def ask(self, attempt: int, messages: Messages) -> Answer:
    """Answers as recorded.

    Args:
      attempt: its number, from 0.
      messages: role and content each.

    Returns:
      The answer.

    Raises:
      TranscriptError: other words were sent.
      GaveUpError: the question was given up at this attempt.
    """
    if attempt < len(self._exchanges):
      exchange = self._exchanges[attempt]
      if exchange['messages'] != list(messages):
        raise TranscriptError(
          f'attempt {attempt} asked something else than follows from what was known'
        )
      self._used = attempt + 1
      error = exchange['error']
      if error:
        error = f'{error}: {exchange["detail"]}'
      return Answer(exchange['reply'], error, exchange['again'])
    if self._because is not None:
      raise GaveUpError(self._because)
    return self.ask_on(attempt, messages)

  def ask_on(self, attempt: int, messages: Messages) -> Answer:
    """Answers beyond the record; a live dialogue overrides it.

    Args:
      attempt: its number, from 0.
      messages: role and content each.

    Raises:
      TranscriptError: there is nothing beyond a transcript.
    """
    raise TranscriptError(f'no reply to attempt {attempt} is recorded')

  def gave_up(self, cause: str) -> None:
    """Checks the recorded cause.

    Args:
      cause: in words.

    Raises:
      TranscriptError: another one is recorded.
    """
    if cause != self._because:
      raise TranscriptError(f'it should have been given up: {cause}; recorded is {self._because!r}')

  def check_complete(self) -> None:
    """Checks that everything recorded was needed.

    Raises:
      TranscriptError: more exchanges are recorded.
    """
    if self._used < len(self._exchanges):
      raise TranscriptError(
        f'{len(self._exchanges)} exchanges are recorded, and {self._used} led to the outcome'
      )
