"""Answers to lm-evaluation-harness: texts in, texts and numbers out, with an engine between them.

Requests go in our own tokens, split as its HFLM splits them, and answers pass a rollout's checks.

  log-likelihoods   of continuations, as its tasks of multiple choice ask for, and of whole texts,
                    window by window
  completions       until a text, greedy or at a temperature; where they end is decided here, of
                    tokens: the server may stop early at a text, and is not believed unless it is
                    found here too
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import tokenizers

from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.generation.protocol import Completion, Continuation, Request, Sampling, Scored

MAX_GEN_TOKS = 256  # of a task that says nothing: HFLM's
# lm-eval's names for one thing; the first that is given counts.
LENGTHS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
NEUTRAL = {'top_p': (1,), 'top_k': (0, -1), 'min_p': (0,), 'num_beams': (1,)}


class HarnessError(ValueError):
  """A task or option cannot be done here; the message names the fix."""


class Engine(Protocol):
  """What answers: `generation.vllm.engine.VllmEngine`."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Returns a completion of each request, in their order."""

  def score(self, continuations: Sequence[Continuation]) -> list[Scored]:
    """Returns log-probabilities of each continuation's tokens, in their order."""


class _Ended(NamedTuple):
  """A completion's text before its end, and whether a text or token of the task ended it."""

  text: str
  ended: bool


def _do_nothing() -> None:
  pass


class Answers:
  """Texts in, texts and numbers out: the tokens between them.

  Args:
    engine: answers requests in tokens.
    tokenizer: of the weights.
    chat: their chat format.
    max_model_len: the server's. One token of it is the one that a server must generate behind what
      it scores.
    start: gives the engine its weights, before the first question.
  """

  def __init__(
    self,
    engine: Engine,
    tokenizer: tokenizers.Tokenizer,
    chat: ChatFormat,
    *,
    max_model_len: int,
    start: Callable[[], None] = _do_nothing,
  ):
    self.chat = chat
    self.prefix = tokenizer.token_to_id(chat.bos or chat.eos)
    self._engine = engine
    self._tokenizer = tokenizer
    self._room = max_model_len
    self._start = start
    self._started = False
    self._specials = {}
    for id_, token in tokenizer.get_added_tokens_decoder().items():
      if token.special:
        self._specials[token.content] = id_

  @property
  def windows(self) -> int:
    """Tokens of a window of `rolling` that follow its first."""
    return self._room - 2

  @property
  def tokenizer_name(self) -> str:
    """A name that follows from the tokenizer's content, for lm-eval's caches."""
    digest = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
    return f'aevo_{digest[:16]}'

  def encode(self, text: str) -> list[int]:
    """Encodes a text.

    Args:
      text: any text.

    Returns:
      Token ids, with the special tokens that the tokenizer puts around a text that does not begin
      with one.
    """
    opened = text.startswith(self.chat.bos or self.chat.eos)
    return self._tokenizer.encode(text, add_special_tokens=not opened).ids

  def pair(self, context: str, continuation: str) -> Continuation:
    """Encodes a continuation of a context.

    Args:
      context: its trailing spaces move to the continuation.
      continuation: the text to score.

    Returns:
      Both in token ids, split where the context alone would end; without context, after the first
      token of every text.

    Raises:
      HarnessError: the continuation adds no token to its context.
    """
    kept = context.rstrip()
    if kept:
      before = tuple(self.encode(kept))
      ids = self.encode(context + continuation)[len(before) :]
    else:
      before = (self.prefix,)
      ids = self._tokenizer.encode(context + continuation, add_special_tokens=False).ids
      if ids[:1] == [self.prefix]:
        ids = ids[1:]
    if not ids:
      raise HarnessError(
        f'a task asks for the log-likelihood of {continuation!r} after '
        f'...{context[-40:]!r}, which adds no token; mend its doc_to_choice or '
        'target_delimiter'
      )
    return Continuation(before, tuple(ids))

  def cut(self, pair: Continuation) -> Continuation:
    """Cuts the beginning of a context that is too long for the server.

    Args:
      pair: a context with its continuation.

    Returns:
      The same with as much of the context as the server takes, the end of it.

    Raises:
      HarnessError: not one token of the context fits.
    """
    left = self._room - 1 - len(pair.tokens)
    if left < 1:
      raise HarnessError(
        f'a continuation of {len(pair.tokens)} tokens leaves no room for its context; '
        f'bind vllm.max_model_len to {len(pair.tokens) + 2} or more, now {self._room}'
      )
    return Continuation(pair.context[-left:], pair.tokens)

  def score(self, pairs: Sequence[Continuation]) -> list[tuple[float, bool]]:
    """Scores continuations.

    Args:
      pairs: contexts with their continuations.

    Returns:
      The log-likelihood of each, in nats, and whether it is the greedy one.
    """
    cut = [self.cut(pair) for pair in pairs]
    self._ready()
    return [(sum(scored.logprobs), all(scored.greedy)) for scored in self._engine.score(cut)]

  def complete(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Completes contexts.

    Args:
      requests: (context, generation_kwargs) of each.

    Returns:
      A completion of each, without the text that ended it.

    Raises:
      HarnessError: see `generation`, or the server stopped at a text that is not in its tokens.
    """
    together: dict[tuple[tuple[str, ...], Sampling], list[int]] = defaultdict(list)
    for i, (_, kwargs) in enumerate(requests):
      together[generation(kwargs, self._room)].append(i)
    self._ready()
    texts = [''] * len(requests)
    for (until, sampling), indices in together.items():
      room = self._room - sampling.max_new_tokens
      prompts = []
      for i in indices:
        prompt = tuple(self.encode(requests[i][0]) or [self.prefix])
        prompts.append(Request(prompt[-room:], i))
      completions = self._engine.generate(prompts, sampling)
      for i, completion in zip(indices, completions, strict=True):
        texts[i] = self._checked_text(completion, until)
    return texts

  def _checked_text(self, completion: Completion, until: Sequence[str]) -> str:
    text, ended = self._text(completion, until)
    if completion.finish == 'stop' and not ended:
      raise HarnessError(
        f'the server ended a completion at one of {list(until)}, and its tokens read '
        f'{text!r} here: it has another tokenizer; start it from the directory of '
        'these weights'
      )
    return text

  def _text(self, completion: Completion, until: Sequence[str]) -> _Ended:
    """The text before the first of the texts or special tokens that end it."""
    ids = list(completion.tokens)
    if completion.finish == 'end':
      ids = ids[:-1]
    ends = {self._specials[text] for text in until if text in self._specials}
    end = next((k for k, id_ in enumerate(ids) if id_ in ends), len(ids))
    decoded = self._tokenizer.decode(ids[:end], skip_special_tokens=True)
    text = decoded
    for stop in until:
      text = text.split(stop)[0]
    return _Ended(text, text != decoded or end < len(ids))

  def _ready(self) -> None:
    if not self._started:
      self._start()
      self._started = True


# -- generation_kwargs -----------------------------------------------------------------------------


def generation(kwargs: dict[str, Any], max_model_len: int) -> tuple[tuple[str, ...], Sampling]:
  """Reads a task's generation_kwargs.

  Args:
    kwargs: as the task has them.
    max_model_len: the server's.

  Returns:
    The texts that end a completion, and how its tokens are chosen.

  Raises:
    HarnessError: something that is not done here, or no room for a prompt.
  """
  rest = dict(kwargs)
  until = _until(rest.pop('until', None) or [])
  length = _length(rest, max_model_len)
  temperature = _temperature(rest)
  for name, neutral in NEUTRAL.items():
    if name in rest and _changes_nothing(name, rest[name], neutral, temperature):
      del rest[name]
  if rest:
    raise HarnessError(
      f'generation_kwargs {", ".join(sorted(rest))}: only until, {LENGTHS[0]}, do_sample '
      'and temperature are done here; leave the others out of a copy of the task '
      '(--include_path)'
    )
  return until, Sampling(temperature=temperature, max_new_tokens=length, stop=until)


def _until(texts: str | Sequence[str]) -> tuple[str, ...]:
  if isinstance(texts, str):
    texts = [texts]
  return tuple(dict.fromkeys(text for text in texts if text))


def _length(rest: dict[str, Any], max_model_len: int) -> int:
  """Takes all names of the length out of `rest`; returns the first that is given."""
  lengths = [rest.pop(name) for name in LENGTHS if name in rest]
  length = next((int(n) for n in lengths if n is not None), MAX_GEN_TOKS)
  if not 1 <= length < max_model_len:
    raise HarnessError(
      f'a task generates up to {length} tokens (max_gen_toks), and vllm.max_model_len = '
      f'{max_model_len} leaves no room for its prompt; bind it to more'
    )
  return length


def _temperature(rest: dict[str, Any]) -> float:
  """Takes do_sample and temperature out of `rest`; 0 is greedy."""
  sample = rest.pop('do_sample', None)
  temperature = float(rest.pop('temperature', None) or 0)
  if sample and not temperature:
    raise HarnessError(
      'a task says do_sample: true without a temperature; write one into its '
      'generation_kwargs, or do_sample: false'
    )
  if sample is False:
    return 0.0
  return temperature


def _changes_nothing(name: str, value: Any, neutral: Sequence, temperature: float) -> bool:
  """Whether an option is neutral; filters do not change the most probable token."""
  if value is None or value in neutral:
    return True
  return name != 'num_beams' and not temperature
