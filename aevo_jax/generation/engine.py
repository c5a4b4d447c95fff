"""The in-process engine: continuous batching with static shapes.

A fixed number of slots decodes together, many tokens a dispatch, in one jitted loop whose caches
are donated. Finished slots are given the next requests between dispatches: their prompts are read
together, once for a group of requests of the same prompt, and put into the caches.

Where all requests fit into the slots and come in groups of one prompt, nothing is refilled, and a
group keeps one cache of its prompt, which each step reads once for all of them (`_begin`; Hydragen,
2402.05099). Otherwise caches are rings. All slots write at the same place, which goes round; a
slot's own tokens are the last of them up to that place, as `valid` says, so that a prompt is put
where it ends just before the next place, and no slot needs a place of its own. What a request is
given depends on its prompt and its seed, not on its slot or its neighbours.
"""

import collections
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.generation.token_sampling import draw
from aevo_jax.models.decoder import DecodeState
from aevo_jax.models.layers.attention import GroupCache, KVCache
from aevo_jax.models.layers.mamba2 import MambaCache
from aevo_jax.models.params import Params, Structure

RING = 32  # rings are as long as a multiple of it
_CACHES = (KVCache, MambaCache)


class Slots(NamedTuple):
  """State of all slots, s of them. logits [s, v]: for the next token. active [s]; drawn [s]: tokens
  so far; seeds [s] uint32; decode: caches, ring [s, t] and place.
  """

  logits: jax.Array
  active: jax.Array
  drawn: jax.Array
  seeds: jax.Array
  decode: DecodeState


class Timings(NamedTuple):
  """Of a call: seconds reading prompts and decoding; tokens of prompts read, and generated;
  dispatches.
  """

  prefill_s: float = 0.0
  decode_s: float = 0.0
  prompt_tokens: int = 0
  new_tokens: int = 0
  dispatches: int = 0


class Engine:
  """Generates with parameters that are handed over, not copied.

  Args:
    structure: of the model. eos_ids: a completion ends with any of them. pad_id: fills prompts on
      the left.
    decode_text: ids -> text, for stop texts. slots: requests that decode together. dispatch: tokens
      a slot gets before the host looks at it. bucket: prompts are padded to a
      multiple of it. refill: finished slots wait until they are this share of all, or nothing else
        decodes.
  """

  def __init__(
    self,
    structure: Structure,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    decode_text: Callable[[Sequence[int]], str] | None = None,
    slots: int = 32,
    dispatch: int = 16,
    bucket: int = 16,
    refill: float = 0.25,
  ):
    self._structure, self._eos, self._pad, self._text = (
      structure,
      tuple(eos_ids),
      pad_id,
      decode_text,
    )
    self._slots, self._dispatch, self._bucket, self._refill = slots, dispatch, bucket, refill
    self._params: Params | None = None
    self.version = -1
    self.timings = Timings()

  def update(self, params: Params, version: int) -> None:
    """Generate with these from now on. They must not be donated while the engine has them."""
    self._params, self.version = params, version

  def close(self) -> None:
    """Nothing was started."""

  def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """A completion of each request, in their order; `timings` are of this call.

    Raises:
      ValueError: an empty prompt, or stop texts without `decode_text`.
      RuntimeError: no parameters were given yet.
    """
    if self._params is None:
      raise RuntimeError('the engine has no weights; call update(params, version) first')
    if sampling.stop and self._text is None:
      raise ValueError('stop texts need decode_text, by which the engine reads what it generates')
    for i, request in enumerate(requests):
      if not len(request.prompt):
        raise ValueError(f'prompt {i} is empty; give it at least one token')
    run = _Run(self, requests, sampling)
    while run.pending():
      run.refill()
      run.decode()
    self.timings = run.timings
    return run.completions


class _Run:
  """One call of `Engine.generate`."""

  def __init__(self, engine: Engine, requests: Sequence[Request], sampling: Sampling):
    self._e, self._requests, self._sampling = engine, requests, sampling
    self._waiting = collections.deque(range(len(requests)))
    self._in_slot: list[int | None] = [None] * engine._slots
    self._tokens: dict[int, list[int]] = {}
    self._logprobs: dict[int, list[float]] = {}
    self.completions: list[Completion] = [None] * len(requests)
    self.timings = Timings()
    self._group = (
      math.gcd(*collections.Counter(r.prompt for r in requests).values())
      if len(requests) <= engine._slots
      else 1
    )
    if self._group > 1:
      self._waiting = collections.deque(
        sorted(self._waiting, key=lambda r: requests[r].prompt)
      )  # groups lie together
      self._in_slot = [None] * len(requests)
      return
    longest = max((len(r.prompt) for r in requests), default=1)
    self._state = _empty(
      engine._structure,
      engine._params,
      engine._slots,
      _up(_up(longest, engine._bucket) + sampling.max_new_tokens, RING),
    )

  def pending(self) -> bool:
    return bool(self._waiting) or any(r is not None for r in self._in_slot)

  def refill(self) -> None:
    """Gives free slots the next requests, if there are enough of both."""
    free = [s for s, r in enumerate(self._in_slot) if r is None]
    if (
      not self._waiting
      or not free
      or (
        len(free) < min(len(self._in_slot) * self._e._refill, len(self._waiting))
        and len(free) < len(self._in_slot)
      )
    ):
      return
    started = time.perf_counter()
    chosen = [self._waiting.popleft() for _ in range(min(len(free), len(self._waiting)))]
    for slot, r in zip(free, chosen):
      self._in_slot[slot], self._tokens[r], self._logprobs[r] = r, [], []
    seeds = [self._requests[r].seed for r in chosen]
    if self._group > 1:
      prompts = [self._requests[r].prompt for r in chosen[:: self._group]]
      self._state = _begin(
        self._e._structure,
        self._e._params,
        *self._padded(prompts, len(prompts)),
        np.array(seeds, np.uint32),
        room=self._sampling.max_new_tokens,
      )
    else:
      prompts = list(dict.fromkeys(self._requests[r].prompt for r in chosen))
      empty = [0] * (_power(len(chosen)) - len(chosen))
      rows = [prompts.index(self._requests[r].prompt) for r in chosen]
      self._state = _insert(
        self._e._structure,
        self._e._params,
        self._state,
        *self._padded(prompts, _power(len(prompts))),
        np.array(free[: len(chosen)] + [len(self._in_slot)] * len(empty), np.int32),
        np.array(rows + empty, np.int32),
        np.array(seeds + empty, np.uint32),
      )
    jax.block_until_ready(self._state.logits)
    self.timings = self.timings._replace(
      prefill_s=self.timings.prefill_s + time.perf_counter() - started,
      prompt_tokens=self.timings.prompt_tokens + sum(map(len, prompts)),
    )

  def _padded(self, prompts: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and where there are any, [rows, t], padded on the left."""
    length = _up(max(map(len, prompts)), self._e._bucket)
    tokens, valid = np.full((rows, length), self._e._pad, np.int32), np.zeros((rows, length), bool)
    for row, prompt in enumerate(prompts):
      tokens[row, length - len(prompt) :], valid[row, length - len(prompt) :] = prompt, True
    valid[len(prompts) :, -1] = True  # fillers: no row is empty
    return tokens, valid

  def decode(self) -> None:
    """One dispatch, and what came of it."""
    started, s = time.perf_counter(), self._sampling
    self._state, tokens, logprobs, counts = _decode(
      self._e._structure,
      self._e._params,
      self._state,
      np.float32(s.temperature or 1.0),
      np.int32(s.top_k),
      np.float32(s.top_p),
      np.float32(s.min_p),
      np.int32(s.max_new_tokens),
      eos_ids=self._e._eos,
      dispatch=self._e._dispatch,
      greedy=not s.temperature,
      filters=s.filters,
    )
    tokens, logprobs, counts = map(np.asarray, (tokens, logprobs, counts))
    stopped = []
    for slot, r in enumerate(self._in_slot):
      if r is None:
        continue
      own = self._tokens[r]
      own += tokens[slot, : counts[slot]].tolist()
      self._logprobs[r] += logprobs[slot, : counts[slot]].tolist()
      finish = (
        'end' if own[-1] in self._e._eos else 'length' if len(own) >= s.max_new_tokens else None
      )
      if s.stop and (cut := self._cut(own)) is not None and cut < len(own) + (finish is None):
        del own[cut:], self._logprobs[r][cut:]
        finish = 'stop'
      if finish is not None:
        self.completions[r] = Completion(
          tuple(own), tuple(self._logprobs.pop(r)), finish, self._e.version
        )
        del self._tokens[r]
        self._in_slot[slot] = None
        stopped.append(slot)
    if s.stop and stopped:
      self._state = self._state._replace(active=self._state.active.at[np.array(stopped)].set(False))
    self.timings = self.timings._replace(
      decode_s=self.timings.decode_s + time.perf_counter() - started,
      new_tokens=self.timings.new_tokens + int(counts.sum()),
      dispatches=self.timings.dispatches + 1,
    )

  def _cut(self, tokens: list[int]) -> int | None:
    """How many tokens it takes to complete the first stop text; None if there is none."""
    has = lambda n: any(text in self._e._text(tokens[:n]) for text in self._sampling.stop)
    if not has(len(tokens)):
      return None
    low, high = 1, len(tokens)
    while low < high:  # text only grows
      middle = (low + high) // 2
      low, high = (low, middle) if has(middle) else (middle + 1, high)
    return low


def _up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power(n: int) -> int:
  return 1 << max(n - 1, 0).bit_length()


@functools.lru_cache(maxsize=32)
def _shapes(
  structure: Structure, slots: int, ring: int, params: tuple
) -> tuple[jax.ShapeDtypeStruct, DecodeState]:
  """Of the logits and the state of a prompt read into every slot."""
  read = lambda p: structure.bind(p).prefill(
    jnp.zeros((slots, 1), jnp.int32), jnp.ones((slots, 1), bool), ring - 1
  )
  return jax.eval_shape(
    read, {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in params}
  )


def _empty(structure: Structure, params: Params, slots: int, ring: int) -> Slots:
  logits, decode = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    _shapes(structure, slots, ring, tuple((name, x.shape, x.dtype) for name, x in params.items())),
  )
  count = lambda dtype: jnp.zeros(slots, dtype)
  return Slots(logits, count(bool), count(jnp.int32), count(jnp.uint32), decode)


@functools.partial(jax.jit, static_argnames=('structure',), donate_argnames=('state',))
def _insert(
  structure: Structure,
  params: Params,
  state: Slots,
  tokens_rt: jax.Array,
  valid_rt: jax.Array,
  slots_n: jax.Array,
  rows_n: jax.Array,
  seeds_n: jax.Array,
) -> Slots:
  """Reads prompts and puts row rows_n[i] into slot slots_n[i]; a slot that does not exist is left
  out.
  """
  logits, read = structure.bind(params).prefill(tokens_rt, valid_rt, 0)
  ring, length = state.decode.valid.shape[1], tokens_rt.shape[1]
  places = (state.decode.position - length + jnp.arange(length)) % ring

  def put(into: KVCache | MambaCache, new: KVCache | MambaCache) -> KVCache | MambaCache:
    if isinstance(into, MambaCache):
      return MambaCache(
        *(_rows(a, b, slots_n, rows_n, 3 + i) for i, (a, b) in enumerate(zip(into, new)))
      )
    write = lambda a, b: a.at[slots_n[:, None], :, places].set(
      jnp.swapaxes(b[rows_n], 1, 2), mode='drop'
    )
    return KVCache(*((write if a.ndim == 4 else jax.vmap(write))(a, b) for a, b in zip(into, new)))

  caches = jax.tree.map(
    lambda a, b: put(a, b),
    state.decode.caches,
    read.caches,
    is_leaf=lambda x: isinstance(x, _CACHES),
  )
  valid = jnp.zeros((len(slots_n), ring), bool).at[:, places].set(valid_rt[rows_n])
  set_ = lambda a, b: a.at[slots_n].set(b, mode='drop')
  return Slots(
    set_(state.logits, logits[rows_n]),
    set_(state.active, True),
    set_(state.drawn, 0),
    set_(state.seeds, seeds_n),
    DecodeState(caches, set_(state.decode.valid, valid), state.decode.position),
  )


@functools.partial(jax.jit, static_argnames=('structure', 'room'))
def _begin(
  structure: Structure,
  params: Params,
  tokens_rt: jax.Array,
  valid_rt: jax.Array,
  seeds_s: jax.Array,
  *,
  room: int,
) -> Slots:
  """Reads prompts, each of which the next s / r slots continue by up to `room` tokens."""
  logits, read = structure.bind(params).prefill(tokens_rt, valid_rt, 0)
  group = len(seeds_s) // len(tokens_rt)

  def of_group(cache: KVCache | MambaCache) -> GroupCache | MambaCache:
    if isinstance(cache, MambaCache):
      return MambaCache(*(jnp.repeat(x, group, axis=x.ndim - 3 - i) for i, x in enumerate(cache)))
    empty = lambda x: jnp.zeros(
      (*x.shape[:-4], x.shape[-4] * group, x.shape[-3], room, x.shape[-1]), x.dtype
    )
    return GroupCache(cache, KVCache(*map(empty, cache)))

  caches = jax.tree.map(of_group, read.caches, is_leaf=lambda x: isinstance(x, _CACHES))
  valid = jnp.pad(jnp.repeat(valid_rt, group, axis=0), ((0, 0), (0, room)))
  return Slots(
    jnp.repeat(logits, group, axis=0),
    jnp.ones_like(seeds_s, bool),
    jnp.zeros_like(seeds_s, jnp.int32),
    seeds_s,
    DecodeState(caches, valid, read.position),
  )


def _rows(
  into: jax.Array, new: jax.Array, slots_n: jax.Array, rows_n: jax.Array, rank: int
) -> jax.Array:
  """into[slots] = new[rows] along the axis of slots, the first, or the second of what a scan
  stacked.
  """
  if into.ndim == rank:
    return into.at[slots_n].set(new[rows_n], mode='drop')
  return into.at[:, slots_n].set(new[:, rows_n], mode='drop')


@functools.partial(
  jax.jit,
  static_argnames=('structure', 'eos_ids', 'dispatch', 'greedy', 'filters'),
  donate_argnames=('state',),
)
def _decode(
  structure: Structure,
  params: Params,
  state: Slots,
  temperature: jax.Array,
  top_k: jax.Array,
  top_p: jax.Array,
  min_p: jax.Array,
  limit: jax.Array,
  *,
  eos_ids: tuple[int, ...],
  dispatch: int,
  greedy: bool,
  filters: bool,
) -> tuple[Slots, jax.Array, jax.Array, jax.Array]:
  """Up to `dispatch` tokens of every active slot: state, tokens [s, dispatch], log-probabilities
  [s, dispatch], and how many of them are a slot's.
  """
  slots, ring = state.decode.valid.shape
  keys = jax.vmap(jax.random.key)(state.seeds)

  def choose(logits: jax.Array, drawn: jax.Array) -> jax.Array:
    if greedy:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    kept = _filtered(logits, top_k, top_p, min_p) if filters else logits
    return draw(keys, drawn, kept)

  def going(carry):
    i, state, *_ = carry
    return (i < dispatch) & jnp.any(state.active)

  def advance(carry):
    i, state, tokens, logprobs, counts = carry
    logits = state.logits / temperature
    token = choose(logits, state.drawn)
    logprob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(
      logits, axis=-1
    )
    write = lambda out, new: jax.lax.dynamic_update_slice_in_dim(out, new[:, None], i, axis=1)
    drawn = state.drawn + state.active
    ended = (drawn >= limit) | functools.reduce(
      jnp.logical_or, [token == e for e in eos_ids], jnp.zeros(slots, bool)
    )
    next_logits, decode = structure.bind(params).step(token, state.decode)
    after = Slots(
      next_logits,
      state.active & ~ended,
      drawn,
      state.seeds,
      decode._replace(position=decode.position % ring),
    )
    return i + 1, after, write(tokens, token), write(logprobs, logprob), counts + state.active

  # A slot that ended stays so during a dispatch, so that its tokens are the first `counts` of its
  # row.
  out = (
    jnp.int32(0),
    state,
    jnp.zeros((slots, dispatch), jnp.int32),
    jnp.zeros((slots, dispatch), jnp.float32),
    jnp.zeros(slots, jnp.int32),
  )
  _, state, tokens, logprobs, counts = jax.lax.while_loop(going, advance, out)
  return state, tokens, logprobs, counts


def _filtered(
  logits_sv: jax.Array, top_k: jax.Array, top_p: jax.Array, min_p: jax.Array
) -> jax.Array:
  """Logits with -inf where top-k, top-p or min-p leave a token out; the most probable token stays."""
  ordered = jnp.sort(logits_sv, axis=-1)[:, ::-1]
  probs = jax.nn.softmax(ordered)
  rank = jnp.arange(logits_sv.shape[-1])
  kept = (
    ((top_k == 0) | (rank < top_k))
    & (jnp.cumsum(probs, axis=-1) - probs < top_p)
    & (probs >= min_p * probs[:, :1])
  )
  kept = kept.at[:, 0].set(True)
  least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits_sv >= least, logits_sv, -jnp.inf)
