"""The in-process engine: continuous batching over a fixed number of slots.

The slots decode together, many tokens a dispatch (`slots`). Between dispatches, finished slots take
the next requests: their prompts are read together, once for a group of requests of the same prompt,
and put into the caches. Where all requests fit into the slots and come in groups of one prompt,
nothing is refilled, and a group shares one cache of its prompt. A completion depends on its prompt
and its seed, not on its slot or its neighbours.
"""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from aevo_jax.generation import slots as slots_lib
from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.generation.slots import Knobs, Places, Prompts, Slots
from aevo_jax.models.params import Params, Structure

RING = 32  # rings are as long as a multiple of it

DecodeText = Callable[[Sequence[int]], str]


class Timings(NamedTuple):
  """Where the time of one call went.

  Attributes:
    prefill_s: seconds reading prompts.
    decode_s: seconds decoding.
    prompt_tokens: tokens of prompts that were read.
    new_tokens: tokens that were generated.
    dispatches: runs of the decoding program.
  """

  prefill_s: float = 0.0
  decode_s: float = 0.0
  prompt_tokens: int = 0
  new_tokens: int = 0
  dispatches: int = 0


class Engine:
  """Generates with parameters that are handed over, not copied."""

  def __init__(
    self,
    structure: Structure,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    decode_text: DecodeText | None = None,
    slots: int = 32,
    dispatch: int = 16,
    bucket: int = 16,
    refill: float = 0.25,
  ):
    """Makes an engine without weights.

    Args:
      structure: of the model.
      eos_ids: a completion ends with any of them.
      pad_id: fills prompts on the left.
      decode_text: ids -> text, for stop texts.
      slots: requests that decode together.
      dispatch: tokens that a slot gets before the host looks at it.
      bucket: prompts are padded to a multiple of it.
      refill: finished slots wait until they are this share of all, or nothing else decodes.
    """
    self.structure = structure
    self.eos_ids = tuple(eos_ids)
    self.pad_id = pad_id
    self.decode_text = decode_text
    self.slots = slots
    self.dispatch = dispatch
    self.bucket = bucket
    self.refill = refill
    self._params: Params | None = None
    self.version = -1
    self.timings = Timings()

  def update(self, params: Params, version: int) -> None:
    """Takes weights, which all later completions are made with.

    Args:
      params: by name; they must not be donated while the engine has them.
      version: the caller's number for them.
    """
    self._params = params
    self.version = version

  def close(self) -> None:
    """Does nothing: no process was started."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Generates a completion of each request; `timings` are of this call.

    Args:
      requests: prompts with their seeds.
      sampling: the same for all of them.

    Returns:
      The completions, in the requests' order.

    Raises:
      ValueError: an empty prompt, or stop texts without `decode_text`.
      RuntimeError: no parameters were given yet.
    """
    if self._params is None:
      raise RuntimeError('the engine has no weights; call update(params, version) first')
    if sampling.stop and self.decode_text is None:
      raise ValueError('stop texts need decode_text, by which the engine reads what it generates')
    for i, request in enumerate(requests):
      if not len(request.prompt):
        raise ValueError(f'prompt {i} is empty; give it at least one token')
    run = _Run(self, self._params, requests, sampling)
    while run.pending():
      run.refill()
      run.decode()
    self.timings = run.timings
    return [run.completions[i] for i in range(len(requests))]


def group_size(requests: Sequence[Request], slots: int) -> int:
  """Returns how many slots share the cache of their prompt.

  Args:
    requests: of one call.
    slots: of the engine.

  Returns:
    The greatest common divisor of the numbers of requests with the same prompt, or 1 where the
    requests do not all fit into the slots.
  """
  if len(requests) > slots:
    return 1
  counts = collections.Counter([request.prompt for request in requests])
  return math.gcd(*counts.values())


@dataclasses.dataclass
class _Unfinished:
  """A request in a slot, with its new tokens and their log-probabilities."""

  request: int
  tokens: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)


class _Run:
  """One call of `Engine.generate`."""

  _state: Slots

  def __init__(
    self, engine: Engine, params: Params, requests: Sequence[Request], sampling: Sampling
  ):
    self._engine = engine
    self._params = params
    self._requests = requests
    self._sampling = sampling
    self.completions: dict[int, Completion] = {}
    self.timings = Timings()
    self._group = group_size(requests, engine.slots)
    self._waiting = collections.deque(range(len(requests)))
    self._in_slot: list[_Unfinished | None] = [None] * engine.slots
    if self._group > 1:
      # Requests of a group lie side by side.
      order = sorted(self._waiting, key=lambda i: requests[i].prompt)
      self._waiting = collections.deque(order)
      self._in_slot = [None] * len(requests)
      return
    longest = max([len(request.prompt) for request in requests], default=1)
    ring = _round_up(_round_up(longest, engine.bucket) + sampling.max_new_tokens, RING)
    self._state = slots_lib.empty(engine.structure, params, engine.slots, ring)

  def pending(self) -> bool:
    """Whether any request is unfinished."""
    return bool(self._waiting) or self._in_slot.count(None) < len(self._in_slot)

  def refill(self) -> None:
    """Gives free slots the next requests, if there are enough of both."""
    free = [slot for slot, unfinished in enumerate(self._in_slot) if unfinished is None]
    if not self._waiting or not free:
      return
    enough = min(len(self._in_slot) * self._engine.refill, len(self._waiting))
    if len(free) < enough and len(free) < len(self._in_slot):
      return
    started = time.perf_counter()
    chosen = []
    for slot in free[: len(self._waiting)]:
      request = self._waiting.popleft()
      self._in_slot[slot] = _Unfinished(request)
      chosen.append(self._requests[request])
    if self._group > 1:
      prompts = self._begin(chosen)
    else:
      prompts = self._insert(chosen, free[: len(chosen)])
    jax.block_until_ready(self._state.logits)
    self.timings = self.timings._replace(
      prefill_s=self.timings.prefill_s + time.perf_counter() - started,
      prompt_tokens=self.timings.prompt_tokens + sum([len(prompt) for prompt in prompts]),
    )

  def _begin(self, chosen: Sequence[Request]) -> list[tuple[int, ...]]:
    """Reads the prompt of every group once; returns these prompts."""
    prompts = [request.prompt for request in chosen[:: self._group]]
    seeds = np.array([request.seed for request in chosen], np.uint32)
    self._state = slots_lib.begin(
      self._engine.structure,
      self._params,
      self._padded(prompts, len(prompts)),
      seeds,
      room=self._sampling.max_new_tokens,
    )
    return prompts

  def _insert(self, chosen: Sequence[Request], free: Sequence[int]) -> list[tuple[int, ...]]:
    """Reads the different prompts of `chosen` into free slots; returns these prompts."""
    rows: dict[tuple[int, ...], int] = {}
    for request in chosen:
      rows.setdefault(request.prompt, len(rows))
    # Numbers of prompts and slots are powers of 2, so that few programs are compiled.
    fillers = [0] * (_power(len(chosen)) - len(chosen))
    nowhere = [len(self._in_slot)] * len(fillers)
    places = Places(
      slots=np.array([*free, *nowhere], np.int32),
      rows=np.array([*[rows[request.prompt] for request in chosen], *fillers], np.int32),
      seeds=np.array([*[request.seed for request in chosen], *fillers], np.uint32),
    )
    prompts = list(rows)
    self._state = slots_lib.insert(
      self._engine.structure,
      self._params,
      self._state,
      self._padded(prompts, _power(len(prompts))),
      places,
    )
    return prompts

  def _padded(self, prompts: Sequence[Sequence[int]], rows: int) -> Prompts:
    """Returns prompts padded on the left, and fillers up to `rows`."""
    longest = max([len(prompt) for prompt in prompts])
    length = _round_up(longest, self._engine.bucket)
    tokens = np.full((rows, length), self._engine.pad_id, np.int32)
    valid = np.zeros((rows, length), bool)
    for row, prompt in enumerate(prompts):
      tokens[row, length - len(prompt) :] = prompt
      valid[row, length - len(prompt) :] = True
    valid[len(prompts) :, -1] = True  # fillers: no row is empty
    return Prompts(tokens, valid)

  def decode(self) -> None:
    """Runs one dispatch and takes its tokens."""
    started = time.perf_counter()
    sampling = self._sampling
    dispatch = slots_lib.decode(
      self._engine.structure,
      self._params,
      self._state,
      knobs(sampling),
      eos_ids=self._engine.eos_ids,
      dispatch=self._engine.dispatch,
      greedy=not sampling.temperature,
      filters=sampling.filters,
    )
    self._state = dispatch.state
    tokens = np.asarray(dispatch.tokens)
    logprobs = np.asarray(dispatch.logprobs)
    counts = np.asarray(dispatch.counts)
    finished = []
    for slot, unfinished in enumerate(self._in_slot):
      if unfinished is None:
        continue
      unfinished.tokens += tokens[slot, : counts[slot]].tolist()
      unfinished.logprobs += logprobs[slot, : counts[slot]].tolist()
      if self._finish(unfinished):
        self._in_slot[slot] = None
        finished.append(slot)
    if sampling.stop and finished:
      # The device knows nothing of stop texts.
      active = self._state.active.at[np.array(finished)].set(False)
      self._state = self._state._replace(active=active)
    self.timings = self.timings._replace(
      decode_s=self.timings.decode_s + time.perf_counter() - started,
      new_tokens=self.timings.new_tokens + int(counts.sum()),
      dispatches=self.timings.dispatches + 1,
    )

  def _finish(self, unfinished: _Unfinished) -> bool:
    """Makes a completion of a request that has ended; returns whether it has."""
    tokens = unfinished.tokens
    reason = None
    if tokens[-1] in self._engine.eos_ids:
      reason = 'end'
    elif len(tokens) >= self._sampling.max_new_tokens:
      reason = 'length'
    cut = self._cut(tokens)
    # A stop text that is complete with the last token comes after an end or a limit there.
    if cut is not None and (reason is None or cut < len(tokens)):
      del tokens[cut:]
      del unfinished.logprobs[cut:]
      reason = 'stop'
    if reason is None:
      return False
    self.completions[unfinished.request] = Completion(
      tuple(tokens), tuple(unfinished.logprobs), reason, self._engine.version
    )
    return True

  def _cut(self, tokens: list[int]) -> int | None:
    """Returns how many tokens it takes to complete the first stop text, None if there is none."""
    if not self._stops(tokens):
      return None
    low = 1
    high = len(tokens)
    while low < high:  # text only grows
      middle = (low + high) // 2
      if self._stops(tokens[:middle]):
        high = middle
      else:
        low = middle + 1
    return low

  def _stops(self, tokens: list[int]) -> bool:
    """Whether the text of these tokens holds a stop text."""
    if not self._sampling.stop or self._engine.decode_text is None:
      return False
    text = self._engine.decode_text(tokens)
    return any(stop in text for stop in self._sampling.stop)


def knobs(sampling: Sampling) -> Knobs:
  """Returns the scalars that the decoding program takes."""
  return Knobs(
    temperature=np.float32(sampling.temperature or 1.0),
    top_k=np.int32(sampling.top_k),
    top_p=np.float32(sampling.top_p),
    min_p=np.float32(sampling.min_p),
    max_new_tokens=np.int32(sampling.max_new_tokens),
  )


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power(n: int) -> int:
  """Returns the smallest power of 2 that is at least n."""
  return 1 << max(n - 1, 0).bit_length()
