"""Slots: the device side of continuous batching, with static shapes.

All slots decode together in one jitted loop whose caches are donated. Two layouts of caches exist.

- Groups: where all requests come in groups of one prompt, a group keeps one cache of its prompt,
  which each step reads once for all of them (`begin`; Hydragen, 2402.05099).
- Rings, otherwise. All slots write at the same position, which goes round. A slot's own tokens are
  the last of them up to that position, as `valid` says. A prompt is therefore put where it ends
  just before the next position, and no slot needs a position of its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key, UInt32

from aevo_jax.generation.token_sampling import sample
from aevo_jax.models.decoder import DecodeState
from aevo_jax.models.layers.attention import GroupCache, KVCache
from aevo_jax.models.layers.mamba2 import MambaCache
from aevo_jax.models.params import Params, Structure

RowCache = KVCache | MambaCache


class Slots(NamedTuple):
  """State of all slots.

  Attributes:
    logits: for the next token.
    active: whether a slot still generates.
    new: tokens that it has generated so far.
    seeds: of its request.
    decode: caches, ring [s, t] and position.
  """

  logits: Float[Array, 'slots vocab']
  active: Bool[Array, ' slots']
  new: Int32[Array, ' slots']
  seeds: UInt32[Array, ' slots']
  decode: DecodeState


class Knobs(NamedTuple):
  """`protocol.Sampling` as scalars on the device, so that no value compiles a program.

  Attributes:
    temperature: > 0, 1 where decoding is greedy.
    top_k: 0 is all.
    top_p: in (0, 1].
    min_p: in [0, 1].
    max_new_tokens: a slot ends there.
  """

  temperature: Float32[Any, '']
  top_k: Int32[Any, '']
  top_p: Float32[Any, '']
  min_p: Float32[Any, '']
  max_new_tokens: Int32[Any, '']


class Prompts(NamedTuple):
  """Prompts to read, padded on the left; a filler row has one valid token."""

  tokens: Int32[Any, 'prompts time']
  valid: Bool[Any, 'prompts time']


class Places(NamedTuple):
  """Where prompts are put: row `rows[i]` goes into slot `slots[i]` with seed `seeds[i]`.

  An entry of a slot that does not exist is left out, so their number can be rounded up.
  """

  slots: Int32[Any, ' places']
  rows: Int32[Any, ' places']
  seeds: UInt32[Any, ' places']


class Dispatch(NamedTuple):
  """The tokens of one dispatch; the first `counts` of a row are its slot's.

  Attributes:
    state: afterwards.
    tokens: ids.
    logprobs: in nats, at the temperature and before the filters.
    counts: how many tokens a slot got.
  """

  state: Slots
  tokens: Int32[Array, 'slots dispatch']
  logprobs: Float32[Array, 'slots dispatch']
  counts: Int32[Array, ' slots']


class _Progress(NamedTuple):
  """State of the decoding loop after `step` tokens."""

  step: Int32[Array, '']
  dispatch: Dispatch


class ArraySpec(NamedTuple):
  """Name, shape and dtype of a parameter, hashable."""

  name: str
  shape: tuple[int, ...]
  dtype: Any


def _is_cache(x: Any) -> bool:
  return isinstance(x, KVCache | MambaCache)


@functools.lru_cache(maxsize=32)
def _shapes(structure: Structure, slots: int, ring: int, params: tuple[ArraySpec, ...]) -> Any:
  """Returns shapes of (logits, decode state) of a prompt of one token read into every slot."""

  def prefill(params: Params) -> Any:
    tokens = jnp.zeros((slots, 1), jnp.int32)
    return structure.bind(params).prefill(tokens, jnp.ones((slots, 1), bool), ring - 1)

  structs = {spec.name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in params}
  return jax.eval_shape(prefill, structs)


def empty(structure: Structure, params: Params, slots: int, ring: int) -> Slots:
  """Makes slots without requests.

  Args:
    structure: the model's.
    params: only their shapes and dtypes are read.
    slots: how many.
    ring: tokens that a ring holds.

  Returns:
    Zeros everywhere; no slot is active.
  """
  specs = tuple([ArraySpec(name, x.shape, x.dtype) for name, x in params.items()])
  shapes = _shapes(structure, slots, ring, specs)
  logits, decode = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return Slots(
    logits=logits,
    active=jnp.zeros(slots, bool),
    new=jnp.zeros(slots, jnp.int32),
    seeds=jnp.zeros(slots, jnp.uint32),
    decode=decode,
  )


@functools.partial(jax.jit, static_argnames=('structure',), donate_argnames=('state',))
def insert(
  structure: Structure, params: Params, state: Slots, prompts: Prompts, places: Places
) -> Slots:
  """Reads prompts and puts them into slots of rings.

  Args:
    structure: the model's.
    params: by name.
    state: is donated.
    prompts: each is read once, however many slots continue it.
    places: which slots do.

  Returns:
    The state in which these slots are active and have generated nothing.
  """
  logits, read = structure.bind(params).prefill(prompts.tokens, prompts.valid, 0)
  ring = state.decode.valid.shape[1]
  length = prompts.tokens.shape[1]
  positions = (state.decode.position - length + jnp.arange(length)) % ring

  def put(into: Any, new: Any) -> RowCache:
    if isinstance(into, MambaCache):
      return MambaCache(
        conv=_put_rows(into.conv, new.conv, places, 3),
        ssm=_put_rows(into.ssm, new.ssm, places, 4),
      )
    return KVCache(
      keys=_put_tokens(into.keys, new.keys, places, positions),
      values=_put_tokens(into.values, new.values, places, positions),
    )

  def set_slots(array: Array, values: Any) -> Array:
    return array.at[places.slots].set(values, mode='drop')

  caches = jax.tree.map(put, state.decode.caches, read.caches, is_leaf=_is_cache)
  valid = jnp.zeros((len(places.slots), ring), bool)
  valid = valid.at[:, positions].set(prompts.valid[places.rows])
  return Slots(
    logits=set_slots(state.logits, logits[places.rows]),
    active=set_slots(state.active, True),
    new=set_slots(state.new, 0),
    seeds=set_slots(state.seeds, places.seeds),
    decode=DecodeState(caches, set_slots(state.decode.valid, valid), state.decode.position),
  )


def _put_rows(into: Array, new: Array, places: Places, rank: int) -> Array:
  """Returns into[slots] = new[rows] along the axis of slots.

  It is the first axis of an array of `rank`, and the second of one that a scan over layers stacked.
  """
  if into.ndim == rank:
    return into.at[places.slots].set(new[places.rows], mode='drop')
  return into.at[:, places.slots].set(new[:, places.rows], mode='drop')


def _put_tokens(into: Array, new: Array, places: Places, positions: Int[Array, ' time']) -> Array:
  """Returns keys or values [s, k, ring, h], stacked or not, with new rows at `positions`."""

  def put(into: Array, new: Array) -> Array:
    values = jnp.swapaxes(new[places.rows], 1, 2)
    return into.at[places.slots[:, None], :, positions].set(values, mode='drop')

  if into.ndim == 4:
    return put(into, new)
  return jax.vmap(put)(into, new)


@functools.partial(jax.jit, static_argnames=('structure', 'room'))
def begin(
  structure: Structure,
  params: Params,
  prompts: Prompts,
  seeds_s: UInt32[Array, ' slots'],
  *,
  room: int,
) -> Slots:
  """Reads prompts into slots that share their caches group by group.

  Args:
    structure: the model's.
    params: by name.
    prompts: r rows, each of which the next s / r slots continue.
    seeds_s: one a slot.
    room: tokens that each slot may generate.

  Returns:
    The state in which all slots are active.
  """
  logits, read = structure.bind(params).prefill(prompts.tokens, prompts.valid, 0)
  group = len(seeds_s) // len(prompts.tokens)

  def of_group(cache: RowCache) -> GroupCache | MambaCache:
    if isinstance(cache, MambaCache):
      return MambaCache(
        conv=jnp.repeat(cache.conv, group, axis=cache.conv.ndim - 3),
        ssm=jnp.repeat(cache.ssm, group, axis=cache.ssm.ndim - 4),
      )
    return GroupCache(
      cache, KVCache(_room(cache.keys, group, room), _room(cache.values, group, room))
    )

  caches = jax.tree.map(of_group, read.caches, is_leaf=_is_cache)
  valid = jnp.pad(jnp.repeat(prompts.valid, group, axis=0), ((0, 0), (0, room)))
  return Slots(
    logits=jnp.repeat(logits, group, axis=0),
    active=jnp.ones_like(seeds_s, bool),
    new=jnp.zeros_like(seeds_s, jnp.int32),
    seeds=seeds_s,
    decode=DecodeState(caches, valid, read.position),
  )


def _room(x: Array, group: int, room: int) -> Array:
  """Returns empty keys or values of `room` tokens for `group` rows to each row of x."""
  *stacked, rows, heads, _, width = x.shape
  return jnp.zeros((*stacked, rows * group, heads, room, width), x.dtype)


@functools.partial(
  jax.jit,
  static_argnames=('structure', 'eos_ids', 'dispatch', 'greedy', 'filters'),
  donate_argnames=('state',),
)
def decode(
  structure: Structure,
  params: Params,
  state: Slots,
  knobs: Knobs,
  *,
  eos_ids: tuple[int, ...],
  dispatch: int,
  greedy: bool,
  filters: bool,
) -> Dispatch:
  """Generates up to `dispatch` tokens of every active slot.

  Args:
    structure: the model's.
    params: by name.
    state: is donated.
    knobs: temperature, filters and limit.
    eos_ids: a slot ends with any of them.
    dispatch: d; fewer where every slot has ended.
    greedy: takes the most probable token.
    filters: whether any of top_k, top_p and min_p leaves a token out.

  Returns:
    The tokens, and the state after them.
  """
  ring = state.decode.valid.shape[1]
  keys_s = jax.vmap(jax.random.key)(state.seeds)
  choose = functools.partial(_choose, keys_s, knobs, greedy=greedy, filters=filters)

  def unfinished(progress: _Progress) -> Bool[Array, '']:
    return (progress.step < dispatch) & jnp.any(progress.dispatch.state.active)

  def advance(progress: _Progress) -> _Progress:
    step, (state, tokens, logprobs, counts) = progress
    logits = state.logits / knobs.temperature
    token = choose(logits, state.new)
    logprob = _logprob(logits, token)
    active = state.active.astype(jnp.int32)
    new = state.new + active
    ended = (new >= knobs.max_new_tokens) | _is_end(token, eos_ids)
    next_logits, next_decode = structure.bind(params).step(token, state.decode)
    after = Slots(
      logits=next_logits,
      active=state.active & ~ended,
      new=new,
      seeds=state.seeds,
      decode=next_decode._replace(position=next_decode.position % ring),
    )
    written = Dispatch(
      state=after,
      tokens=_write_column(tokens, token, step),
      logprobs=_write_column(logprobs, logprob, step),
      counts=counts + active,
    )
    return _Progress(step + 1, written)

  # A slot that ended stays so during a dispatch, so that its tokens are the first `counts` of its
  # row.
  start = _Progress(jnp.int32(0), _no_tokens(state, dispatch))
  return jax.lax.while_loop(unfinished, advance, start).dispatch


def _logprob(logits: Float[Array, 's v'], token: Int[Array, ' s']) -> Float[Array, ' s']:
  """Returns the log-probability of each slot's token."""
  chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def _no_tokens(state: Slots, dispatch: int) -> Dispatch:
  """Returns a dispatch that has not begun."""
  slots = len(state.active)
  return Dispatch(
    state=state,
    tokens=jnp.zeros((slots, dispatch), jnp.int32),
    logprobs=jnp.zeros((slots, dispatch), jnp.float32),
    counts=jnp.zeros(slots, jnp.int32),
  )


def _is_end(token_s: Int32[Array, ' slots'], eos_ids: tuple[int, ...]) -> Bool[Array, ' slots']:
  """Whether each slot's token is an end token."""
  none = jnp.zeros(len(token_s), bool)
  return functools.reduce(jnp.logical_or, [token_s == eos_id for eos_id in eos_ids], none)


def _choose(
  keys_s: Key[Array, ' slots'],
  knobs: Knobs,
  logits: Float[Array, 'slots vocab'],
  new: Int32[Array, ' slots'],
  *,
  greedy: bool,
  filters: bool,
) -> Int32[Array, ' slots']:
  """Chooses token number `new` of every slot."""
  if greedy:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  if filters:
    logits = filtered(logits, knobs)
  return sample(keys_s, new, logits)


def _write_column(out: Array, column: Array, index: Int32[Array, '']) -> Array:
  return jax.lax.dynamic_update_slice_in_dim(out, column[:, None], index, axis=1)


def filtered(logits_sv: Float[Array, 'slots vocab'], knobs: Knobs) -> Float[Array, 'slots vocab']:
  """Leaves out tokens by top-k, top-p (1904.09751) and min-p (2407.01082).

  Args:
    logits_sv: at the temperature.
    knobs: the three thresholds.

  Returns:
    The logits, with -inf where a token is left out; the most probable token stays.
  """
  ordered = jnp.sort(logits_sv, axis=-1)[:, ::-1]
  probs = jax.nn.softmax(ordered)
  rank = jnp.arange(logits_sv.shape[-1])[None]
  kept = (
    ((knobs.top_k == 0) | (rank < knobs.top_k))
    & (jnp.cumsum(probs, axis=-1) - probs < knobs.top_p)
    & (probs >= knobs.min_p * probs[:, :1])
  )
  kept = kept.at[:, 0].set(True)
  least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits_sv >= least, logits_sv, -jnp.inf)
