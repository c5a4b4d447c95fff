"""What any engine that generates is asked for and gives back: the in-process one, and a server
spoken to over HTTP.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

from annotated_types import Interval, doc

from aevo_jax.config.constraints import checked
from aevo_jax.models.params import Params


@checked('sampling')
@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen.

  Attributes:
    temperature: divides the logits; 0 is greedy. top_k: of the most probable tokens only, 0 is all.
      top_p: of the fewest most probable ones that hold so much of the mass (nucleus, 1904.09751).
        min_p: of those with at least so much of the most probable one's probability (2407.01082).
        All of them look at the distribution at this temperature.
    max_new_tokens: the end token is one of them. stop: a completion ends with the token that
      completes one of these texts.
  """

  temperature: Annotated[float, Interval(ge=0, le=100)] = 1.0
  top_k: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
  top_p: Annotated[float, Interval(gt=0, le=1), doc('1 is all tokens')] = 1.0
  min_p: Annotated[float, Interval(ge=0, le=1)] = 0.0
  max_new_tokens: Annotated[int, Interval(ge=1, le=2**20)] = 64
  stop: tuple[str, ...] = ()

  def __post_init__(self):
    if any(not text for text in self.stop):
      raise ValueError('sampling.stop holds an empty text, which is everywhere; leave it out')
    if not self.temperature and (self.top_k or self.top_p < 1 or self.min_p):
      raise ValueError(
        'sampling.temperature = 0 takes the most probable token, so top_k, top_p and '
        'min_p are read by nothing; leave them out'
      )

  @property
  def filters(self) -> bool:
    return bool(self.top_k or self.top_p < 1 or self.min_p)


class Request(NamedTuple):
  """A prompt's token ids, and a seed in [0, 2^32) of its own: what is drawn depends on no other
  request.
  """

  prompt: tuple[int, ...]
  seed: int = 0


class Completion(NamedTuple):
  """What was generated.

  tokens: ids, the end token included. logprobs: of each, in nats, at the temperature it was drawn
  at (1 if greedy) and before top-k, top-p and min-p. finish: 'end' (token), 'stop' (text) or
  'length'. version: of the weights. digest: of the file that brought them to a server; '' in
  process.
  """

  tokens: tuple[int, ...]
  logprobs: tuple[float, ...]
  finish: str
  version: int
  digest: str = ''


class Continuation(NamedTuple):
  """Token ids that are given, and those before them: at least one of each."""

  context: tuple[int, ...]
  tokens: tuple[int, ...]


class Scored(NamedTuple):
  """What a continuation is worth.

  logprobs: of each of its tokens, in nats, at temperature 1. greedy: whether each was the most
  probable one there. version, digest: as a `Completion` has them.
  """

  logprobs: tuple[float, ...]
  greedy: tuple[bool, ...]
  version: int
  digest: str = ''


class InferenceError(RuntimeError):
  """A server that generates failed or cannot be believed. Says nothing about the weights: never a
  reason for a score.
  """


class GenerationEngine(Protocol):
  """Generates with the weights it was given last."""

  version: int

  def update(self, params: Params, version: int) -> None:
    """Generate with these from now on."""

  def close(self) -> None:
    """Ends what it started."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """A completion of each request, in their order."""
