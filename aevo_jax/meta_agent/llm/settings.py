"""The operator's `llm` section: which language model is asked, how long and how often.

What it may spend is the constitution's (`llm_rules`).
"""

import dataclasses
import math
import urllib.parse
from typing import Annotated

from annotated_types import Ge, Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf

_Seconds = Annotated[float, Interval(gt=0, lt=math.inf)]
_AtLeast0 = Annotated[float, Interval(ge=0, lt=math.inf)]


@configurable('llm')
@dataclasses.dataclass(frozen=True)
class LlmSettings:
  """An endpoint that speaks OpenAI's chat completions, and the patience with it.

  Attributes:
    base_url: of the endpoint, with its /v1.
    model: its name there.
    key_variable: the environment variable that holds the key, never the key itself; '' for a server
      that needs none.
    temperature: None leaves it to the server, as some models demand.
    timeout_s: of one request, from connecting to the last byte.
    deadline_s: of one question, all its requests and the waits between them.
    wait_s: before a failed request is repeated, doubled each time; a longer Retry-After is obeyed.
    max_reply_tokens: of one reply.
    limit_name: under which a request holds that number, 'max_tokens' or 'max_completion_tokens'.
    attempts: requests for one question.
    price_in: money for a million tokens that are sent; 0 is unpriced.
    price_out: money for a million tokens that are received.
  """

  base_url: str = 'http://127.0.0.1:8000/v1'
  model: str = ''
  key_variable: str = 'OPENAI_API_KEY'
  temperature: float | None = None
  timeout_s: _Seconds = 120.0
  deadline_s: _Seconds = 600.0
  wait_s: _AtLeast0 = 2.0
  max_reply_tokens: Annotated[int, Ge(1)] = 4096
  limit_name: Annotated[str, OneOf(('max_tokens', 'max_completion_tokens'))] = 'max_tokens'
  attempts: Annotated[int, Ge(1)] = 3
  price_in: _AtLeast0 = 0.0
  price_out: _AtLeast0 = 0.0

  def __post_init__(self):
    url = urllib.parse.urlsplit(self.base_url)
    if url.scheme not in ('http', 'https') or not url.hostname:
      raise ValueError(
        f'base_url must be http://HOST/v1 or https://HOST/v1, got {_without_secrets(url)!r}'
      )
    if url.username is not None or url.password is not None or url.query or url.fragment:
      raise ValueError(
        'base_url must hold no user, password or query, since it is stored: '
        f'{_without_secrets(url)!r} is left; put the key into the environment '
        'variable that llm.key_variable names'
      )

  def money(self, tokens_in: int, tokens_out: int) -> float:
    """Computes a price.

    Args:
      tokens_in: tokens that are sent.
      tokens_out: tokens that are received.

    Returns:
      Money, 0 where nothing is priced.
    """
    return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def _without_secrets(url: urllib.parse.SplitResult) -> str:
  return f'{url.scheme}://{url.hostname or ""}{url.path}'
