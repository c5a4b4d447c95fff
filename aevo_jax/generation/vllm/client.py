"""The client of vLLM's HTTP interface, which refuses an answer that may be wrong.

Prompts and completions are token ids (`POST /inference/v1/generate`), so that no tokenizer or chat
template of the server's is between what was trained and what is generated. An answer is taken only
if it is whole, about the model that was asked for, and made by the weights whose digest was asked
for, token by token.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx2

from aevo_jax.generation.protocol import (
  Completion,
  Continuation,
  InferenceError,
  Request,
  Sampling,
  Scored,
)

MODEL = 'aevo'  # the name that our servers give the model
GENERATE = '/inference/v1/generate'

# vLLM writes -9999 where a log-probability is NaN.
_LEAST_LOGPROB = -9999
# Rounding may put the log-probability of a certain token just above 0.
_GREATEST_LOGPROB = 1e-6


class ServerDownError(InferenceError):
  """No answer: the server has ended, hangs, or breaks off."""


class ReplyError(InferenceError):
  """An answer that is not what was asked for."""


class WrongWeightsError(InferenceError):
  """The server does not have the weights that it was given, or they are not those announced."""


class Source(NamedTuple):
  """The model and the weights that completions are requested of.

  Attributes:
    model: its name at the server.
    weights: the digest that the server must give for each token.
    digest: what completions carry, that of `weights` or of the adapter on them.
    version: the caller's number for the weights.
  """

  model: str
  weights: str
  digest: str
  version: int


class Client:
  """Requests to one server."""

  def __init__(
    self,
    address: str,
    *,
    timeout: float,
    concurrency: int,
    transport: httpx2.BaseTransport | None = None,
  ):
    """Makes a client; nothing is sent yet.

    Args:
      address: http://host:port, or unix:/path of the server's socket.
      timeout: seconds that a request may take.
      concurrency: requests at the same time.
      transport: takes the place of the connection (tests break it there).
    """
    self.address = address
    # An idle connection is given up well before a server closes it (vLLM after 5 s): a request sent
    # at that moment would be lost.
    limits = httpx2.Limits(
      max_connections=concurrency + 2,
      max_keepalive_connections=concurrency + 2,
      keepalive_expiry=2.0,
    )
    base_url = address
    socket = None
    if address.startswith('unix:'):
      base_url = 'http://server'
      socket = address.removeprefix('unix:')
    self._http = httpx2.Client(
      base_url=base_url,
      timeout=httpx2.Timeout(timeout, connect=min(timeout, 30.0), pool=None),
      transport=transport or httpx2.HTTPTransport(uds=socket, limits=limits),
      trust_env=False,
    )

  def close(self) -> None:
    """Closes every connection."""
    self._http.close()

  def request(
    self,
    method: str,
    path: str,
    *,
    body: Any = None,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
  ) -> httpx2.Response:
    """Sends a request.

    Args:
      method: 'GET' or 'POST'.
      path: at the server.
      body: sent as JSON; None sends nothing.
      params: of the query.
      headers: beside those of every request.
      timeout: seconds, in place of the client's.

    Returns:
      The answer.

    Raises:
      ServerDownError: no connection, no answer in time, one that broke off, or a status of 500 and
        above.
      ReplyError: another status than 200 to 299.
    """
    try:
      reply = self._http.request(
        method,
        path,
        json=body,
        params=params,
        headers=headers,
        timeout=httpx2.USE_CLIENT_DEFAULT if timeout is None else timeout,
      )
    except httpx2.HTTPError as error:
      raise ServerDownError(f'{method} {path}: {type(error).__name__}: {error}') from error
    problem = f'{method} {path}: status {reply.status_code}: {_start_of(reply.text)}'
    if reply.status_code >= 500:
      raise ServerDownError(problem)
    if reply.status_code >= 300:
      raise ReplyError(problem)
    return reply

  def get(self, path: str, *, timeout: float | None = None) -> Any:
    """Sends a GET request; its errors are those of `post`.

    Args:
      path: at the server.
      timeout: seconds, in place of the client's.

    Returns:
      The JSON of the answer, None where it is empty.
    """
    return _parsed('GET', path, self.request('GET', path, timeout=timeout))

  def post(
    self,
    path: str,
    body: Any = None,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
  ) -> Any:
    """Sends a POST request.

    Args:
      path: at the server.
      body: sent as JSON; None sends nothing.
      params: of the query.
      headers: beside those of every request.

    Returns:
      The JSON of the answer, None where it is empty.

    Raises:
      ServerDownError: see `request`.
      ReplyError: see `request`; also an answer that is no JSON.
    """
    reply = self.request('POST', path, body=body, params=params, headers=headers)
    return _parsed('POST', path, reply)

  def healthy(self, timeout: float) -> bool:
    """Asks the server whether it is well.

    Args:
      timeout: seconds that it has for an answer.

    Returns:
      False for a fault of any kind.
    """
    try:
      self.get('/health', timeout=timeout)
    except InferenceError:
      return False
    return True

  def weight_version(self) -> str:
    """Reads the name of the server's weights.

    Returns:
      The digest that was announced to it last, by whichever client, or vLLM's 'default'.

    Raises:
      ReplyError: see `request`, or the server does not report it.
      ServerDownError: see `request`.
    """
    reply = self.get('/weight_info')
    version = reply.get('weight_version') if isinstance(reply, dict) else None
    if not isinstance(version, str):
      raise ReplyError(
        f'GET /weight_info answered {str(reply)[:200]}; the server needs '
        'VLLM_SERVER_DEV_MODE=1 and vLLM 0.32'
      )
    return version

  def vllm_version(self) -> str:
    """Reads the version of vLLM that the server reports.

    Returns:
      Such as '0.32.0'.

    Raises:
      ReplyError: see `request`, or the server is no vLLM.
      ServerDownError: see `request`.
    """
    reply = self.get('/version')
    version = reply.get('version') if isinstance(reply, dict) else None
    if not isinstance(version, str):
      raise ReplyError(f'GET /version answered {str(reply)[:200]}; it is no vLLM 0.32')
    return version

  def complete(
    self, request: Request, sampling: Sampling, source: Source, *, eos_ids: Sequence[int], salt: str
  ) -> Completion:
    """Requests one completion.

    Args:
      request: prompt and seed.
      sampling: temperature, limit and stop texts.
      source: whose completion it must be.
      eos_ids: it ends with any of them.
      salt: the server's prefix cache gives only what was put there with the same one.

    Returns:
      The completion, checked.

    Raises:
      ServerDownError: see `request`.
      ReplyError: see `request`; also an answer that is not whole.
      WrongWeightsError: other weights made some of its tokens.
    """
    parameters = {
      'n': 1,
      'temperature': sampling.temperature,
      'top_p': sampling.top_p,
      'top_k': sampling.top_k,
      'min_p': sampling.min_p,
      'seed': request.seed,
      'max_tokens': sampling.max_new_tokens,
      'logprobs': 0,
      'ignore_eos': True,
      'stop_token_ids': list(eos_ids),
      'stop': list(sampling.stop),
      'include_stop_str_in_output': True,
      'detokenize': bool(sampling.stop),
      'skip_special_tokens': False,
    }
    reply = self._generate(source, request.prompt, parameters, salt)
    return _completion(reply, sampling, source, eos_ids)

  def score(self, continuation: Continuation, source: Source, *, salt: str) -> Scored:
    """Requests log-probabilities of given tokens.

    They come from the step that reads the tokens and generates one more, whose weights the answer
    must name.

    Args:
      continuation: the tokens and their context.
      source: whose scores they must be.
      salt: as in `complete`.

    Returns:
      The scores, checked.

    Raises:
      ServerDownError: see `request`.
      ReplyError: see `request`; also an answer that is not whole or not about these tokens.
      WrongWeightsError: other weights made it.
    """
    parameters = {
      'n': 1,
      'temperature': 0.0,
      'max_tokens': 1,
      'logprobs': 0,
      'prompt_logprobs': 1,
      'ignore_eos': True,
      'detokenize': False,
      'skip_special_tokens': False,
    }
    prompt = (*continuation.context, *continuation.tokens)
    reply = self._generate(source, prompt, parameters, salt)
    return _scored(reply, continuation, source)

  def _generate(
    self, source: Source, prompt: Sequence[int], parameters: Mapping[str, Any], salt: str
  ) -> Any:
    body = {
      'model': source.model,
      'token_ids': list(prompt),
      'sampling_params': parameters,
      'cache_salt': salt,
      'return_token_ids': True,
    }
    return self.post(GENERATE, body)


def _start_of(text: str) -> str:
  return text[:300].replace('\n', ' ')


def _parsed(method: str, path: str, reply: httpx2.Response) -> Any:
  if not reply.content.strip():
    return None
  try:
    return reply.json()
  except ValueError as error:
    raise ReplyError(f'{method} {path}: no JSON: {_start_of(reply.text)}') from error


class _Span(NamedTuple):
  """Tokens `start` to `end` of a completion, made by the weights with digest `version`."""

  version: str
  start: int
  end: int


class _Choice(NamedTuple):
  """A completion as the server wrote it; `ids` are the tokens that `logprobs` are about."""

  tokens: tuple[int, ...]
  ids: tuple[int, ...]
  logprobs: tuple[float, ...]
  spans: list[_Span]
  finish: str | None


def _lacking(reply: Any, error: Exception) -> ReplyError:
  return ReplyError(
    f'the answer lacks what was asked for ({type(error).__name__}: {error}): {str(reply)[:300]}'
  )


def _choice(reply: Any, source: Source) -> _Choice:
  """Reads the only choice of an answer, of the right model."""
  try:
    if reply.get('model') not in (None, source.model):
      raise ReplyError(
        f'the server answered for model {reply["model"]!r}, asked was {source.model!r}'
      )
    (choice,) = reply['choices']
    content = choice['logprobs']['content']
    spans = [_Span(s['version'], s['start'], s['end']) for s in choice['weight_versions']]
    return _Choice(
      tokens=tuple(choice['token_ids']),
      ids=tuple([entry['token_id'] for entry in content]),
      logprobs=tuple([float(entry['logprob']) for entry in content]),
      spans=spans,
      finish=choice['finish_reason'],
    )
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise _lacking(reply, error) from error


def _is_logprob(value: float) -> bool:
  return math.isfinite(value) and _LEAST_LOGPROB < value <= _GREATEST_LOGPROB


def _worst(logprobs: Sequence[float]) -> float:
  """Returns a value to show in an error: one that is not finite, or the smallest."""
  return min(logprobs, key=lambda p: (math.isfinite(p), p))


def _check_tokens(choice: _Choice, sampling: Sampling) -> None:
  tokens = choice.tokens
  if choice.ids != tokens or not all(isinstance(t, int) and t >= 0 for t in tokens):
    raise ReplyError(
      f'the log-probabilities are not those of the tokens: {choice.ids[:8]}... of {tokens[:8]}...'
    )
  if not 1 <= len(tokens) <= sampling.max_new_tokens:
    raise ReplyError(f'{len(tokens)} tokens came, 1 to {sampling.max_new_tokens} were asked for')
  for logprob in choice.logprobs:
    if not _is_logprob(logprob):
      raise ReplyError(f'a log-probability is {_worst(choice.logprobs)}')


def _finish(choice: _Choice, sampling: Sampling, eos_ids: Sequence[int]) -> str:
  """Returns why a completion ended, or raises where it broke off or went on after its end."""
  tokens = choice.tokens
  for token in tokens[:-1]:
    if token in eos_ids:
      raise ReplyError(f'the completion goes on after an end token: {tokens[:16]}')
  if choice.finish == 'stop' and tokens[-1] in eos_ids:
    return 'end'
  if choice.finish == 'stop' and sampling.stop:
    return 'stop'
  if choice.finish == 'length' and len(tokens) == sampling.max_new_tokens:
    return 'length'
  raise ReplyError(
    f'the completion broke off after {len(tokens)} of {sampling.max_new_tokens} tokens: '
    f'{choice.finish!r}'
  )


def _check_spans(choice: _Choice, source: Source) -> None:
  """Raises where some token was made by other weights, or by weights that are not named."""
  covered = 0
  for span in choice.spans:
    if span.version != source.weights:
      raise WrongWeightsError(
        f'tokens {span.start} to {span.end} were made by weights {span.version}, '
        f'asked for were {source.weights}'
      )
    if span.start != covered:
      raise ReplyError(f'whose weights made tokens {covered} to {span.start} is not said')
    covered = span.end
  if covered != len(choice.tokens):
    raise ReplyError(f'whose weights made tokens {covered} to {len(choice.tokens)} is not said')


def _completion(
  reply: Any, sampling: Sampling, source: Source, eos_ids: Sequence[int]
) -> Completion:
  """Reads the completion in an answer and checks it."""
  choice = _choice(reply, source)
  _check_tokens(choice, sampling)
  finish = _finish(choice, sampling, eos_ids)
  _check_spans(choice, source)
  return Completion(choice.tokens, choice.logprobs, finish, source.version, source.digest)


class _Candidate(NamedTuple):
  """A token that the server reports at a position of the prompt; rank 1 is the most probable."""

  logprob: float
  rank: int


def _candidates(reply: Any, continuation: Continuation) -> list[dict[int, _Candidate]]:
  """Reads the candidates at each position of the continuation: token -> candidate."""
  tokens = [*continuation.context, *continuation.tokens]
  try:
    read = reply['prompt_token_ids']
    reported = reply['prompt_logprobs']
    if read != tokens or len(reported) != len(tokens):
      raise ReplyError(
        f'{len(reported)} log-probabilities came, of tokens {str(read)[:100]}; asked was for '
        f'{len(tokens)}, of {str(tokens)[:100]}'
      )
    positions = []
    for entry in reported[len(continuation.context) :]:
      candidates = {}
      for token, values in entry.items():
        candidates[int(token)] = _Candidate(float(values['logprob']), values['rank'])
      positions.append(candidates)
    for candidates, token in zip(positions, continuation.tokens, strict=True):
      if token not in candidates:
        raise KeyError(token)
    return positions
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise _lacking(reply, error) from error


def _scored(reply: Any, continuation: Continuation, source: Source) -> Scored:
  """Reads the log-probabilities in an answer and checks them."""
  _completion(reply, Sampling(temperature=0.0, max_new_tokens=1), source, eos_ids=())
  positions = _candidates(reply, continuation)
  logprobs = []
  greedy = []
  for candidates, token in zip(positions, continuation.tokens, strict=True):
    values = [candidate.logprob for candidate in candidates.values()]
    logprobs.append(candidates[token].logprob)
    greedy.append(candidates[token].logprob >= max(values))
  for candidates in positions:
    for candidate in candidates.values():
      if not _is_logprob(candidate.logprob):
        raise ReplyError(f'a log-probability of given tokens is {_worst(logprobs)}')
  for candidates in positions:
    # The most probable token stands beside the given one, unless they are the same.
    if 1 not in [candidate.rank for candidate in candidates.values()]:
      raise ReplyError('the most probable token of a place is missing')
  return Scored(tuple(logprobs), tuple(greedy), source.version, source.digest)
