"""vLLM's HTTP interface, and everything that may be wrong with an answer.

Prompts and completions are token ids (`POST /inference/v1/generate`), so that no tokenizer or chat
template of the server's is between what was trained and what is generated. An answer is taken only
if it is whole, about the model that was asked for, and made by the weights whose digest was asked
for, token by token.
"""

import math
from collections.abc import Sequence
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


class ServerDownError(InferenceError):
  """No answer: it has ended, hangs, or breaks off."""


class ReplyError(InferenceError):
  """An answer that is not what was asked for."""


class WrongWeightsError(InferenceError):
  """It does not have the weights that it was given, or they are not the ones announced."""


class Source(NamedTuple):
  """Whose completions are asked for. model: its name at the server. weights: the digest that the
  server must give for each token. digest: what completions carry, that of `weights` or of the
  adapter on them. version: the caller's number for it."""

  model: str
  weights: str
  digest: str
  version: int


class Client:
  """Requests to one server.

  Args:
    address: http://host:port, or unix:/path of its socket. timeout: seconds that a request may
      take.
    transport: takes the place of the connection (tests break it there).
  """

  def __init__(
    self,
    address: str,
    *,
    timeout: float,
    concurrency: int,
    transport: httpx2.BaseTransport | None = None,
  ):
    self.address = address
    socket = address.removeprefix('unix:') if address.startswith('unix:') else None
    # An idle connection is given up well before a server closes it (vLLM after 5 s): a request sent
    # at that moment would be lost.
    limits = httpx2.Limits(
      max_connections=concurrency + 2,
      max_keepalive_connections=concurrency + 2,
      keepalive_expiry=2.0,
    )
    self._http = httpx2.Client(
      base_url='http://server' if socket else address,
      timeout=httpx2.Timeout(timeout, connect=min(timeout, 30.0), pool=None),
      transport=transport or httpx2.HTTPTransport(uds=socket, limits=limits),
      trust_env=False,
    )

  def close(self) -> None:
    self._http.close()

  def ask(
    self, method: str, path: str, *, timeout: float | None = None, said: bool = False, **what
  ) -> Any:
    """The JSON of an answer, None where there is none. said: its text, where vLLM answers in words.

    Raises:
      ServerDownError: no connection, no answer in time, one that broke off, or a status of 500 and
        above. ReplyError: another status, or no JSON.
    """
    try:
      reply = self._http.request(
        method, path, **what, **({} if timeout is None else {'timeout': timeout})
      )
    except httpx2.HTTPError as error:
      raise ServerDownError(f'{method} {path}: {type(error).__name__}: {error}') from error
    if reply.status_code >= 500:
      raise ServerDownError(f'{method} {path}: status {reply.status_code}: {_said(reply)}')
    if reply.status_code >= 300:
      raise ReplyError(f'{method} {path}: status {reply.status_code}: {_said(reply)}')
    if said:
      return reply.text
    try:
      return reply.json() if reply.content.strip() else None
    except ValueError as error:
      raise ReplyError(f'{method} {path}: no JSON: {_said(reply)}') from error

  def post(self, path: str, body: Any = None, **what) -> Any:
    return self.ask('POST', path, **({} if body is None else {'json': body}), **what)

  def healthy(self, timeout: float) -> bool:
    """Whether it answers."""
    try:
      self.ask('GET', '/health', timeout=timeout)
    except InferenceError:
      return False
    return True

  def weight_version(self) -> str:
    """The digest that it says its weights have."""
    found = self.ask('GET', '/weight_info')
    if not isinstance(found, dict) or not isinstance(found.get('weight_version'), str):
      raise ReplyError(
        f'GET /weight_info answered {str(found)[:200]}; the server needs '
        'VLLM_SERVER_DEV_MODE=1 and vLLM 0.32'
      )
    return found['weight_version']

  def vllm_version(self) -> str:
    """The version that it says it is."""
    found = self.ask('GET', '/version')
    if not isinstance(found, dict) or not isinstance(found.get('version'), str):
      raise ReplyError(f'GET /version answered {str(found)[:200]}; it is no vLLM 0.32')
    return found['version']

  def complete(
    self, request: Request, sampling: Sampling, source: Source, *, eos_ids: Sequence[int], salt: str
  ) -> Completion:
    """One completion. salt: the server's prefix cache gives only what was put there with the same
    one.

    Raises:
      ServerDownError, ReplyError: see `ask`; an answer is refused unless it is whole.
        WrongWeightsError: other weights made some of its tokens.
    """
    asked = {
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
    reply = self.post(
      '/inference/v1/generate',
      {
        'model': source.model,
        'token_ids': list(request.prompt),
        'sampling_params': asked,
        'cache_salt': salt,
        'return_token_ids': True,
      },
    )
    return _completion(reply, sampling, source, eos_ids)

  def score(self, continuation: Continuation, source: Source, *, salt: str) -> Scored:
    """Log-probabilities of given tokens, from the step that reads them and generates one more,
    whose weights the answer must name.

    Raises:
      ServerDownError, ReplyError: see `ask`; an answer is refused unless it is whole and about
        these tokens. WrongWeightsError: other weights made it.
    """
    asked = {
      'n': 1,
      'temperature': 0.0,
      'max_tokens': 1,
      'logprobs': 0,
      'prompt_logprobs': 1,
      'ignore_eos': True,
      'detokenize': False,
      'skip_special_tokens': False,
    }
    reply = self.post(
      '/inference/v1/generate',
      {
        'model': source.model,
        'token_ids': [*continuation.context, *continuation.tokens],
        'sampling_params': asked,
        'cache_salt': salt,
        'return_token_ids': True,
      },
    )
    return _scored(reply, continuation, source)


def _said(reply: httpx2.Response) -> str:
  return reply.text[:300].replace('\n', ' ')


def _completion(
  reply: Any, sampling: Sampling, source: Source, eos_ids: Sequence[int]
) -> Completion:
  """The completion in an answer, checked."""
  try:
    if reply.get('model') not in (None, source.model):
      raise ReplyError(
        f'the server answered for model {reply["model"]!r}, asked was {source.model!r}'
      )
    (choice,) = reply['choices']
    tokens, content, spans, finish = (
      tuple(choice['token_ids']),
      choice['logprobs']['content'],
      choice['weight_versions'],
      choice['finish_reason'],
    )
    said = tuple(float(c['logprob']) for c in content)
    ids = tuple(c['token_id'] for c in content)
    spans = [(s['version'], s['start'], s['end']) for s in spans]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ReplyError(
      f'the answer lacks what was asked for ({type(error).__name__}: {error}): {str(reply)[:300]}'
    ) from error
  if ids != tokens or not all(isinstance(t, int) and t >= 0 for t in tokens):
    raise ReplyError(
      f'the log-probabilities are not those of the tokens: {ids[:8]}... of {tokens[:8]}...'
    )
  if not 1 <= len(tokens) <= sampling.max_new_tokens:
    raise ReplyError(f'{len(tokens)} tokens came, 1 to {sampling.max_new_tokens} were asked for')
  if not all(math.isfinite(p) and -9999 < p <= 1e-6 for p in said):  # vLLM's -9999 stands for NaN
    raise ReplyError(f'a log-probability is {min(said, key=lambda p: (math.isfinite(p), p))}')
  if any(token in eos_ids for token in tokens[:-1]):
    raise ReplyError(f'the completion goes on after an end token: {tokens[:16]}')
  ended = finish == 'stop' and (tokens[-1] in eos_ids or bool(sampling.stop))
  if not (ended or (finish == 'length' and len(tokens) == sampling.max_new_tokens)):
    raise ReplyError(
      f'the completion broke off after {len(tokens)} of {sampling.max_new_tokens} tokens: '
      f'{finish!r}'
    )
  covered = 0
  for made_by, start, end in spans:
    if made_by != source.weights:
      raise WrongWeightsError(
        f'tokens {start} to {end} were made by weights {made_by}, asked for were {source.weights}'
      )
    if start != covered:
      raise ReplyError(f'whose weights made tokens {covered} to {start} is not said')
    covered = end
  if covered != len(tokens):
    raise ReplyError(f'whose weights made tokens {covered} to {len(tokens)} is not said')
  return Completion(
    tokens,
    said,
    'length' if not ended else 'end' if tokens[-1] in eos_ids else 'stop',
    source.version,
    source.digest,
  )


def _scored(reply: Any, continuation: Continuation, source: Source) -> Scored:
  """The log-probabilities in an answer, checked."""
  _completion(reply, Sampling(temperature=0.0, max_new_tokens=1), source, eos_ids=())
  tokens, start = [*continuation.context, *continuation.tokens], len(continuation.context)
  try:
    read, found = reply['prompt_token_ids'], reply['prompt_logprobs']
    if read != tokens or len(found) != len(tokens):
      raise ReplyError(
        f'{len(found)} log-probabilities came, of tokens {str(read)[:100]}; asked was for '
        f'{len(tokens)}, of {str(tokens)[:100]}'
      )
    places = [
      {int(token): (float(p['logprob']), p['rank']) for token, p in place.items()}
      for place in found[start:]
    ]
    logprobs = tuple(place[token][0] for place, token in zip(places, continuation.tokens))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ReplyError(
      f'the answer lacks what was asked for ({type(error).__name__}: {error}): {str(reply)[:300]}'
    ) from error
  if not all(math.isfinite(p) and -9999 < p <= 1e-6 for place in places for p, _ in place.values()):
    raise ReplyError(
      f'a log-probability of given tokens is {min(logprobs, key=lambda p: (math.isfinite(p), p))}'
    )
  if any(
    1 not in (rank for _, rank in place.values()) for place in places
  ):  # the most probable token stands beside the given one, unless they are the same
    raise ReplyError('the most probable token of a place is missing')
  return Scored(
    logprobs,
    tuple(p >= max(other for other, _ in place.values()) for p, place in zip(logprobs, places)),
    source.version,
    source.digest,
  )
