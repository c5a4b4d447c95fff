"""The protocol of engines: requests, completions, and how tokens are sampled.

The in-process engine and a server spoken to over HTTP share it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from annotated_types import Interval, doc

from aevo_jax.config.constraints import checked
from aevo_jax.models.params import Params


@checked('sampling')
@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen.

  Attributes:
    temperature: divides the logits; 0 is greedy. The filters below look at the distribution at this
      temperature.
    top_k: keeps that many of the most probable tokens; 0 keeps all.
    top_p: keeps the fewest most probable tokens that hold so much of the mass (nucleus,
      1904.09751).
    min_p: keeps tokens with at least so much of the most probable one's probability (2407.01082).
    max_new_tokens: limit of a completion; the end token is one of them.
    stop: a completion ends with the token that completes one of these texts.
  """

  temperature: Annotated[float, Interval(ge=0, le=100)] = 1.0
  top_k: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
  top_p: Annotated[float, Interval(gt=0, le=1), doc('1 is all tokens')] = 1.0
  min_p: Annotated[float, Interval(ge=0, le=1)] = 0.0
  max_new_tokens: Annotated[int, Interval(ge=1, le=2**20)] = 64
  stop: tuple[str, ...] = ()

  def __post_init__(self):
    if '' in self.stop:
      raise ValueError('sampling.stop holds an empty text, which is everywhere; leave it out')
    if not self.temperature and self.filters:
      raise ValueError(
        'sampling.temperature = 0 takes the most probable token, so top_k, top_p and '
        'min_p are read by nothing; leave them out'
      )

  @property
  def filters(self) -> bool:
    """Whether top_k, top_p or min_p leaves a token out."""
    return bool(self.top_k or self.top_p < 1 or self.min_p)


class Request(NamedTuple):
  """A prompt to continue.

  Attributes:
    prompt: token ids, at least one.
    seed: in [0, 2^32). With the prompt it decides the completion; no other request does.
  """

  prompt: tuple[int, ...]
  seed: int = 0


class Completion(NamedTuple):
  """What was generated.

  Attributes:
    tokens: ids, the end token included.
    logprobs: of each token, in nats, at the temperature it was sampled at (1 if greedy) and before
      top-k, top-p and min-p.
    finish: 'end' (token), 'stop' (text) or 'length'.
    version: of the weights.
    digest: of the file that brought the weights to a server; '' in process.
  """

  tokens: tuple[int, ...]
  logprobs: tuple[float, ...]
  finish: str
  version: int
  digest: str = ''


class Continuation(NamedTuple):
  """Token ids to score, and those before them: at least one of each."""

  context: tuple[int, ...]
  tokens: tuple[int, ...]


class Scored(NamedTuple):
  """The scores of a continuation.

  Attributes:
    logprobs: of each of its tokens, in nats, at temperature 1.
    greedy: whether each token was the most probable one at its position.
    version: of the weights.
    digest: of the file that brought the weights to a server.
  """

  logprobs: tuple[float, ...]
  greedy: tuple[bool, ...]
  version: int
  digest: str = ''


class InferenceError(RuntimeError):
  """A server that generates failed or cannot be believed.

  It says nothing about the weights, so it is never a reason for a score.
  """


@runtime_checkable
class GenerationEngine(Protocol):
  """An engine, which generates with the weights of the last `update`."""

  version: int

  def update(self, params: Params, version: int) -> None:
    """Takes weights, which all later completions are made with.

    Args:
      params: by name.
      version: the caller's number for them, which completions carry.
    """

  def close(self) -> None:
    """Ends every process that the engine started."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Generates a completion of each request.

    Args:
      requests: prompts with their seeds.
      sampling: the same for all of them.

    Returns:
      The completions, in the requests' order.
    """
    ...
