"""The client of an endpoint that speaks OpenAI's chat completions.

One question is one request and one reply, never an exception. The `openai` library speaks the
protocol; what it leaves open is closed here. Its retries are off: every request is one record of
the ledger. A request ends after `llm.timeout_s` whatever the server does, also where it sends a
byte a second forever, since the exchange runs under one asyncio timeout. No more than `MAX_BODY`
bytes are read, of error bodies too, and none that are compressed. Redirects and proxies are not
followed, since the key would travel there.

The key is read from the environment variable that `llm.key_variable` names. Whatever comes back is
cleaned of it, piece by piece, before anybody sees it, and of replies that refuse the key nothing is
kept.

Tokens are the server's count where it is possible, otherwise an upper bound: a byte makes at most
one token. A request that may have been charged without an answer (a timeout, a torn reply) counts
in full.
"""

import asyncio
import dataclasses
import datetime
import email.utils
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aevo_jax.meta_agent.llm.settings import LlmSettings

# Bytes of a response.
MAX_BODY = 1_000_000
# Bytes of a reply that is read; of a longer one that many are kept.
MAX_REPLY = 60_000
# Characters of an error's words that are kept.
DETAIL = 300
# Tokens a chat template may add to a message.
PER_MESSAGE = 16
# Statuses that refuse the key.
REFUSES_KEY = (401, 403)
# A shorter key is none, and its letters could not be told from ordinary words.
SHORTEST_KEY = 8

Messages = Sequence[Mapping[str, str]]


class LlmSetupError(ValueError):
  """The endpoint cannot be asked at all as this machine is set up; the message names the fix."""


@dataclasses.dataclass(frozen=True)
class Usage:
  """Tokens and money of a request.

  Attributes:
    tokens_in: that were sent.
    tokens_out: that were received.
    money: their price.
    source: 'server', 'lengths' where its count is missing or impossible, 'reserved' where no reply
      came, 'none' if the request was refused.
  """

  tokens_in: int
  tokens_out: int
  money: float
  source: str


@dataclasses.dataclass(frozen=True)
class Reply:
  """The outcome of a request.

  Attributes:
    text: the model's words, or what came in their place, cut after MAX_REPLY bytes.
    length: bytes of all that was read of it.
    digest: SHA-256 of the same.
    error: '' or what went wrong, in one word.
    detail: the same in more words.
    again: whether the same request may fare better.
    wait_s: what the server asked to wait, if it did.
    usage: what is counted as spent.
    seconds: that it took.
  """

  text: str
  length: int
  digest: str
  error: str
  detail: str
  again: bool
  wait_s: float | None
  usage: Usage
  seconds: float


class _Failure(Exception):
  """A request that failed; fields as in `Reply`. charged: whether it may have been charged."""

  def __init__(
    self,
    error: str,
    detail: str,
    *,
    again: bool = True,
    charged: bool = False,
    wait_s: float | None = None,
    text: str = '',
  ):
    super().__init__(error)
    self.error = error
    self.detail = detail
    self.again = again
    self.charged = charged
    self.wait_s = wait_s
    self.text = text


class _Completion(NamedTuple):
  """The words of a chat completion, and what is counted as spent."""

  text: str
  usage: Usage


class ChatClient:
  """The endpoint of `settings`.

  Raises:
    LlmSetupError: no model, no `openai`, or no usable key in the environment.
  """

  def __init__(self, settings: LlmSettings):
    self._settings = settings
    self._key = read_key(settings)
    try:
      # Late: only campaigns with a language model need the two, and they take seconds.
      import httpx2  # noqa: PLC0415
      import openai  # noqa: F401, PLC0415
    except ImportError:
      raise LlmSetupError(
        "a language model needs the openai library: uv pip install 'aevo-jax[llm]', or "
        "campaign.agent = 'statistical'"
      ) from None
    # Once: it reads all of the machine's certificates.
    self._tls = httpx2.create_ssl_context()

  def reserve(self, messages: Messages) -> Usage:
    """Computes the most that a request can come to.

    Args:
      messages: role and content each.

    Returns:
      An upper bound.
    """
    tokens_in = sum(len(m['content'].encode()) + PER_MESSAGE for m in messages)
    return self._usage(tokens_in, self._settings.max_reply_tokens, 'reserved')

  def complete(self, messages: Messages, timeout_s: float) -> Reply:
    """Asks once.

    Args:
      messages: role and content each.
      timeout_s: of the whole request; `llm.timeout_s` at most.

    Returns:
      The reply, or why there is none.
    """
    began = time.monotonic()
    problem = None
    try:
      body = asyncio.run(self._request(messages, min(timeout_s, self._settings.timeout_s)))
      text, usage = self._read(body, messages)
    except _Failure as failure:
      problem = failure
      text = failure.text
      usage = self.reserve(messages) if failure.charged else self._usage(0, 0, 'none')
    text = _unicode(self._clean(text))
    encoded = text.encode()
    if problem is None and len(encoded) > MAX_REPLY:
      problem = _Failure(
        'too_long', f'the reply has {len(encoded)} bytes, at most {MAX_REPLY} are read'
      )
    reply = Reply(
      text=encoded[:MAX_REPLY].decode(errors='ignore'),
      length=len(encoded),
      digest=hashlib.sha256(encoded).hexdigest(),
      error='',
      detail='',
      again=False,
      wait_s=None,
      usage=usage,
      seconds=round(time.monotonic() - began, 3),
    )
    if problem is None:
      return reply
    return dataclasses.replace(
      reply,
      error=problem.error,
      detail=_unicode(self._clean(problem.detail))[:DETAIL],
      again=problem.again,
      wait_s=problem.wait_s,
    )

  async def _request(self, messages: Messages, timeout_s: float) -> bytes:
    """The body of a successful response; raises _Failure for anything else."""
    # Late, as in __init__.
    import httpx2  # noqa: PLC0415
    import openai  # noqa: PLC0415

    settings = self._settings
    extra = {settings.limit_name: settings.max_reply_tokens}
    if settings.temperature is not None:
      extra['temperature'] = settings.temperature
    client = None
    try:
      async with asyncio.timeout(timeout_s):
        http = httpx2.AsyncClient(
          transport=_bounded_transport(self._tls),
          timeout=timeout_s,
          trust_env=False,
          headers={'Accept-Encoding': 'identity'},
        )
        client = openai.AsyncOpenAI(
          api_key=self._key or 'none',
          base_url=settings.base_url,
          max_retries=0,
          timeout=timeout_s,
          http_client=http,
        )
        reply = await client.chat.completions.with_raw_response.create(
          model=settings.model, messages=list(messages), **extra
        )
        return reply.http_response.content
    except _Failure:
      raise
    except (TimeoutError, openai.APITimeoutError):
      raise _Failure(
        'timeout', f'no complete reply within {timeout_s:.3g} s', charged=True
      ) from None
    except openai.APIStatusError as error:
      raise _status_failure(
        error.status_code, error.response.headers, error.response.content
      ) from None
    except openai.APIConnectionError as error:
      cause = error.__cause__
      if isinstance(cause, _Failure):
        raise cause from None
      before = isinstance(cause, (httpx2.ConnectError, httpx2.UnsupportedProtocol))
      raise _Failure(
        'connection', f'{type(cause).__name__}: {cause} ({settings.base_url})', charged=not before
      ) from None
    # Of a library fed by a hostile server: nothing that it stumbles over may end a campaign. Its
    # words could hold anything.
    except Exception as error:
      raise _Failure(
        'client', f'{type(error).__name__} in the openai library', charged=True
      ) from None
    finally:
      if client is not None:
        await client.close()

  def _read(self, body: bytes, messages: Messages) -> _Completion:
    """Reads a chat completion; raises _Failure for anything else."""
    raw = body.decode(errors='replace')
    try:
      answer = json.loads(body)
    except (ValueError, RecursionError):
      raise _Failure('bad_body', 'the response is not JSON', charged=True, text=raw) from None
    try:
      text = answer['choices'][0]['message']['content']
    except (LookupError, TypeError):
      text = None
    if not isinstance(text, str):
      raise _Failure(
        'bad_body',
        'the response is not a chat completion with text in choices[0].message.content',
        charged=True,
        text=raw,
      )
    return _Completion(text, self._counted(answer.get('usage'), messages, text))

  def _counted(self, usage: Any, messages: Messages, text: str) -> Usage:
    """The server's count if it is possible, else an upper bound.

    Possible is at least a token each way, at most a token a byte and what the request allows.
    """
    most = self.reserve(messages)
    if (
      isinstance(usage, dict)
      and _possible(usage.get('prompt_tokens'), most.tokens_in)
      and _possible(usage.get('completion_tokens'), most.tokens_out)
    ):
      return self._usage(usage['prompt_tokens'], usage['completion_tokens'], 'server')
    tokens_out = min(len(_unicode(text).encode()), most.tokens_out)
    return self._usage(most.tokens_in, tokens_out, 'lengths')

  def _usage(self, tokens_in: int, tokens_out: int, source: str) -> Usage:
    return Usage(tokens_in, tokens_out, self._settings.money(tokens_in, tokens_out), source)

  def _clean(self, text: str) -> str:
    """The text without the key or any piece of it of SHORTEST_KEY characters."""
    if not self._key:
      return text
    hidden = bytearray(len(text))
    for i in range(len(self._key) - SHORTEST_KEY + 1):
      piece = self._key[i : i + SHORTEST_KEY]
      start = text.find(piece)
      while start >= 0:
        hidden[start : start + SHORTEST_KEY] = b'\1' * SHORTEST_KEY
        start = text.find(piece, start + 1)
    if not any(hidden):
      return text
    marked = list(text.replace('\0', ' '))
    for i, is_hidden in enumerate(hidden):
      if is_hidden:
        marked[i] = '\0'
    return re.sub('\0+', '[key]', ''.join(marked))


def _possible(count: Any, limit: int) -> bool:
  return type(count) is int and 1 <= count <= limit


def read_key(settings: LlmSettings) -> str:
  """Reads the key from the environment.

  Args:
    settings: name the variable.

  Returns:
    The key, '' if none is needed.

  Raises:
    LlmSetupError: no model is named, or the variable holds nothing that can be a key.
  """
  if not settings.model:
    raise LlmSetupError(
      "llm.model has no value; bind the model's name at the endpoint, e.g. llm.model = "
      "'Qwen/Qwen3-8B'"
    )
  if not settings.key_variable:
    return ''
  key = os.environ.get(settings.key_variable, '').strip()
  if not key:
    raise LlmSetupError(
      f'the environment variable {settings.key_variable} (llm.key_variable) is not set; '
      "export it, or bind llm.key_variable = '' for a server without keys"
    )
  if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or ' ' in key:
    raise LlmSetupError(
      f'{settings.key_variable} (llm.key_variable) does not hold a key: a key is '
      f'{SHORTEST_KEY} or more printable characters without spaces; bind '
      "llm.key_variable = '' for a server without keys"
    )
  return key


def _bounded_transport(tls):
  """A transport that reads each response whole, as it is sent, of MAX_BODY bytes at most."""
  # Late, as in ChatClient.
  import httpx2  # noqa: PLC0415

  class Bounded(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request):
      response = await super().handle_async_request(request)
      try:
        if response.headers.get('content-encoding', 'identity').strip().lower() != 'identity':
          raise _Failure(
            'bad_body',
            'the response is compressed, which was not asked for',
            charged=response.is_success,
          )
        body = bytearray()
        async for chunk in response.stream:
          body += chunk
          if len(body) > MAX_BODY:
            raise _Failure(
              'too_long',
              f'the response has more than {MAX_BODY} bytes',
              charged=response.is_success,
              text='' if response.status_code in REFUSES_KEY else body.decode(errors='replace'),
            )
      finally:
        await response.aclose()
      return httpx2.Response(
        response.status_code, headers=response.headers, content=bytes(body), request=request
      )

  return Bounded(verify=tls)


def _status_failure(status: int, headers: Mapping[str, str], body: bytes) -> _Failure:
  """What a status other than success means.

  A reply that refuses the key is not kept: such replies quote it.
  """
  if status in REFUSES_KEY:
    return _Failure('unauthorized', f'HTTP {status}: the endpoint refuses the key', again=False)
  text = body.decode(errors='replace')
  try:
    message = json.loads(text)['error']['message']
  except (ValueError, LookupError, TypeError, RecursionError):
    message = text
  detail = f'HTTP {status}'
  words = ' '.join(message.split()) if isinstance(message, str) else ''
  if words:
    detail = f'{detail}: {words}'
  otherwise = 'server' if status >= 500 else 'refused'
  name = {429: 'rate_limited', 408: 'timeout', 409: 'busy'}.get(status, otherwise)
  return _Failure(
    name,
    detail,
    again=name != 'refused',
    wait_s=_retry_after(headers.get('retry-after', '')),
    text=text,
  )


def _retry_after(value: str) -> float | None:
  """Seconds of a Retry-After header, which holds seconds or a date; None if it makes no sense."""
  try:
    seconds = float(value)
  except ValueError:
    try:
      until = email.utils.parsedate_to_datetime(value)
      seconds = (until - datetime.datetime.now(until.tzinfo)).total_seconds()
    except (ValueError, TypeError, OverflowError):
      return None
  return max(0.0, seconds) if math.isfinite(seconds) else None


def _unicode(text: str) -> str:
  """The text with anything that UTF-8 cannot hold replaced."""
  return text.encode('utf-8', 'replace').decode('utf-8')
