"""The decoder: embedding, a residual stack of blocks by the pattern, final norm, output head.

Three entry points share the blocks: `__call__` on whole rows (packed, or with prefixes shared),
`prefill` on left-padded prompts, `step` for one more token.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.attention import Attention, GroupCache, KVCache
from aevo_jax.models.layers.linear import MLP, Linear, RMSNorm, matmul, param
from aevo_jax.models.layers.mamba2 import Mamba2, MambaCache
from aevo_jax.models.layers.moe import MoE
from aevo_jax.models.layers.shared_prefix import SharedPrefix
from aevo_jax.sharding.context import constrain

_MIXERS = {'M': Mamba2, '*': Attention, '-': MLP, 'E': MoE}
STATEFUL = 'M*'  # blocks that look at other tokens, and keep a state

Cache = KVCache | GroupCache | MambaCache | None


class DecodeState(NamedTuple):
  """caches: one per block (None for MLP and MoE); valid [b, t]: places that hold tokens; position:
  the next place, a scalar.
  """

  caches: tuple
  valid: jax.Array
  position: jax.Array


class Block(nnx.Module):
  """x + mixer(norm(x))."""

  def __init__(self, kind: str, config: ModelConfig, *, rngs: nnx.Rngs):
    self.kind = kind
    self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.mixer = _MIXERS[kind](config, rngs=rngs)

  def __call__(
    self, x: jax.Array, segments: jax.Array | SharedPrefix
  ) -> tuple[jax.Array, jax.Array | None]:
    """Packed rows, given their segment ids [b, t], or rows that share prefixes; and of an E block,
    how many of their tokens each expert got, [e] float32.
    """
    normed, shared = self.norm(x), isinstance(segments, SharedPrefix)
    if self.kind == 'E':
      y, load = self.mixer.with_load(normed, (segments.segment_ids if shared else segments) > 0)
      return x + y, load
    if self.kind in STATEFUL:
      return x + (
        self.mixer.shared(normed, segments) if shared else self.mixer(normed, segments)
      ), None
    return x + self.mixer(normed), None

  def prefill(
    self, x: jax.Array, segment_ids_bt: jax.Array, room: int, wanted: slice = slice(None)
  ) -> tuple[jax.Array, Cache]:
    """Prompts; only the places in `wanted` go on to the next block."""
    normed, cache = self.norm(x), None
    if self.kind == 'M':
      y, cache = self.mixer.prefill(normed, segment_ids_bt)
      y = y[:, wanted]
    elif self.kind == '*':
      y, cache = self.mixer.prefill(normed, segment_ids_bt, room, wanted)
    else:
      y = self.mixer(normed)
    return x[:, wanted] + y, cache

  def step(
    self, x: jax.Array, cache: Cache, position: jax.Array, valid_bt: jax.Array
  ) -> tuple[jax.Array, Cache]:
    """One token more."""
    normed = self.norm(x)
    if self.kind == 'M':
      y, cache = self.mixer.step(normed, cache)
    elif self.kind == '*':
      y, cache = self.mixer.step(normed, cache, position, valid_bt)
    else:
      y = self.mixer(normed)
    return x + y, cache


class Decoder(nnx.Module):
  """Every block is written out; `scan_layers.Scanned` runs the same blocks period by period."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    tied = config.tie_word_embeddings
    scale = (
      1 / math.sqrt(config.hidden_size) if tied else 1.0
    )  # as a head's, so that first logits are of order 1
    self.embedding = param(
      scale
      * jax.random.normal(rngs.params(), (config.vocab_size, config.hidden_size), jnp.float32),
      'vocab',
      'embed',
    )
    self.layers = nnx.List([Block(kind, config, rngs=rngs) for kind in config.pattern])
    self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.lm_head = nnx.data(
      None if tied else Linear(config.hidden_size, config.vocab_size, ('embed', 'vocab'), rngs=rngs)
    )

  def _embed(self, tokens: jax.Array) -> jax.Array:
    return self.embedding[...][tokens].astype(self.config.compute_dtype)

  def logits(self, x: jax.Array) -> jax.Array:
    """Next-token logits [..., v] float32 of what the blocks made of tokens, [..., d]."""
    x = self.norm_f(x)
    return (
      matmul(x, self.embedding[...].T.astype(x.dtype)) if self.lm_head is None else self.lm_head(x)
    ).astype(jnp.float32)

  def __call__(self, tokens_bt: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
    """Next-token logits [b, t, v] float32 of packed rows; segment id 0 is padding, whose logits
    mean nothing.
    """
    return self.with_loads(tokens_bt, segment_ids_bt)[0]

  def with_loads(
    self, tokens_bt: jax.Array, segment_ids_bt: jax.Array
  ) -> tuple[jax.Array, jax.Array | None]:
    """The logits, and [E blocks, experts] float32: how many tokens each expert got; None without
    such blocks.
    """
    x, loads = self.hidden(tokens_bt, segment_ids_bt)
    return self.logits(x), loads

  def hidden(
    self, tokens_bt: jax.Array, segments: jax.Array | SharedPrefix
  ) -> tuple[jax.Array, jax.Array | None]:
    """What the blocks make of packed rows (`segments`: their ids [b, t]) or of rows that share
    prefixes, [b, t, d], to which `logits` has not been applied yet; and the loads of
    `with_loads`."""
    x, loads = self._blocks(self._embed(tokens_bt), segments)
    return x, jnp.stack(loads) if loads else None

  def _blocks(
    self, x: jax.Array, segments: jax.Array | SharedPrefix
  ) -> tuple[jax.Array, list[jax.Array]]:
    loads = []
    for block in self.layers:
      x, load = run_block(self.config.remat_policy, block, x, segments)
      loads += [] if load is None else [load]
    return x, loads

  def prefill(
    self, tokens_bt: jax.Array, valid_bt: jax.Array, room: int
  ) -> tuple[jax.Array, DecodeState]:
    """Reads left-padded prompts.

    Args:
      tokens_bt: prompts, padding on the left. valid_bt: True where a prompt token is.
      room: how many tokens may be generated.

    Returns:
      Logits [b, v] after the last prompt token, and the state to continue from.
    """
    x, caches = self._prefill_blocks(self._embed(tokens_bt), valid_bt.astype(jnp.int32), room)
    valid = jnp.pad(valid_bt, ((0, 0), (0, room)))
    return self.logits(x[:, -1]), DecodeState(
      caches, valid, jnp.asarray(tokens_bt.shape[1], jnp.int32)
    )

  def _prefill_blocks(
    self, x: jax.Array, segment_ids_bt: jax.Array, room: int
  ) -> tuple[jax.Array, tuple]:
    caches = []
    # From the last block that keeps a state on, only the last place is read.
    last_stateful = max(
      (i for i, kind in enumerate(self.config.pattern) if kind in STATEFUL), default=-1
    )
    for i, block in enumerate(self.layers):
      x, cache = block.prefill(
        x, segment_ids_bt, room, slice(-1, None) if i >= last_stateful else slice(None)
      )
      caches.append(cache)
    return x, tuple(caches)

  def step(self, token_b: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
    """Appends one token to every sequence; returns logits [b, v] after it."""
    valid = jax.lax.dynamic_update_slice_in_dim(
      state.valid, jnp.ones_like(state.valid[:, :1]), state.position, axis=1
    )
    x, caches = self._step_blocks(self._embed(token_b), state.caches, state.position, valid)
    return self.logits(x), DecodeState(caches, valid, state.position + 1)

  def _step_blocks(
    self, x: jax.Array, caches: tuple, position: jax.Array, valid_bt: jax.Array
  ) -> tuple[jax.Array, tuple]:
    after = []
    for block, cache in zip(self.layers, caches):
      x, cache = block.step(x, cache, position, valid_bt)
      after.append(cache)
    return x, tuple(after)


def run_block(
  policy: str,
  block: Block,
  x: jax.Array,
  segments: jax.Array | SharedPrefix,
  *,
  scanned: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
  """A block on whole rows under a remat policy."""
  x = constrain(x, 'batch', 'length', None)
  if policy == 'none':
    return block(x, segments)
  graphdef, state = nnx.split(block)
  return remat.apply(
    policy, lambda state, x: nnx.merge(graphdef, state)(x, segments), scanned=scanned
  )(state, x)


def create(config: ModelConfig, seed: int) -> Decoder:
  """A decoder with fresh float32 parameters."""
  return Decoder(config, rngs=nnx.Rngs(params=seed))
