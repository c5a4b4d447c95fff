"""The decoder: embedding, a residual stack of blocks by the pattern, final norm, output head.

Three entry points share the blocks: `__call__` on whole rows (packed, or with prefixes shared),
`prefill` on left-padded prompts, `step` for one more token.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.attention import Attention, GroupCache, KVCache
from aevo_jax.models.layers.linear import Kernel, Linear, multiply
from aevo_jax.models.layers.mamba2 import Mamba2, MambaCache
from aevo_jax.models.layers.mlp import MLP
from aevo_jax.models.layers.moe import MoE
from aevo_jax.models.layers.parameter import param
from aevo_jax.models.layers.rms_norm import RMSNorm
from aevo_jax.models.layers.shared_prefix import SharedPrefix
from aevo_jax.sharding.by_token import look_up
from aevo_jax.sharding.context import cast_weight, constrain, gather_weight, layout_in_use

_MIXERS = {'M': Mamba2, '*': Attention, '-': MLP, 'E': MoE}
STATEFUL = 'M*'  # blocks that look at other tokens, and keep a state

Cache = KVCache | GroupCache | MambaCache | None
# Which tokens of a row belong together: segment ids [b, t], or where prompts and continuations lie.
Segments = Int[Array, 'batch time'] | SharedPrefix


class DecodeState(NamedTuple):
  """What `step` continues from.

  Attributes:
    caches: one for each block, None for MLP and MoE; `scan_layers.Scanned` has one tuple a segment.
    valid: [b, t] bool, positions of the caches that hold tokens.
    position: the next position, a scalar.
  """

  caches: tuple
  valid: Array
  position: Array


class Block(nnx.Module):
  """x + mixer(norm(x))."""

  def __init__(self, kind: str, config: ModelConfig, *, rngs: nnx.Rngs):
    self.kind = kind
    self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.mixer: Mamba2 | Attention | MLP | MoE = _MIXERS[kind](config, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'batch time width'], segments: Segments
  ) -> tuple[Float[Array, 'batch time width'], Float[Array, ' experts'] | None]:
    """Runs the block on whole rows.

    Args:
      x: the residual stream.
      segments: packed rows, or rows that share prefixes.

    Returns:
      The residual stream behind the block, and of an E block how many tokens each expert got.
    """
    normed = self.norm(x)
    mixer = self.mixer
    if isinstance(mixer, MoE):
      y, load = mixer.with_load(normed, _segment_ids(segments) > 0)
      return x + y, load
    if isinstance(mixer, MLP):
      return x + mixer(normed), None
    if isinstance(segments, SharedPrefix):
      return x + mixer.shared(normed, segments), None
    return x + mixer(normed, segments), None

  def prefill(
    self,
    x: Float[Array, 'batch kept width'],
    segment_ids_bt: Int[Array, 'batch time'],
    room: int,
    wanted: slice = slice(None),
  ) -> tuple[Float[Array, 'batch wanted width'], Cache]:
    """Runs the block on prompts.

    Args:
      x: the residual stream; behind the last attention or mamba block, at the last position only.
      segment_ids_bt: 0 at padding.
      room: empty positions in the cache, for tokens that follow.
      wanted: the positions that go on to the next block.

    Returns:
      The residual stream at those positions, and the block's state.
    """
    x = constrain(x, 'batch', None, None)
    normed = self.norm(x)
    mixer = self.mixer
    cache = None
    if isinstance(mixer, Mamba2):
      y, cache = mixer.prefill(normed, segment_ids_bt)
      y = y[:, wanted]
    elif isinstance(mixer, Attention):
      y, cache = mixer.prefill(normed, segment_ids_bt, room, wanted)
    else:
      y = mixer(normed)
    return x[:, wanted] + y, cache

  def step(
    self,
    x: Float[Array, 'batch width'],
    cache: Cache,
    position: Int[Array, ''],
    valid_bt: Bool[Array, 'batch time'],
  ) -> tuple[Float[Array, 'batch width'], Cache]:
    """Runs the block on one token more.

    Args:
      x: the residual stream of the token.
      cache: the block's state before it.
      position: where in the cache to write it.
      valid_bt: the positions that hold tokens, the new one included.

    Returns:
      The residual stream behind the block, and its state.
    """
    x = constrain(x, 'batch', None)
    normed = self.norm(x)
    mixer = self.mixer
    if isinstance(mixer, Mamba2):
      assert isinstance(cache, MambaCache)
      y, cache = mixer.step(normed, cache)
    elif isinstance(mixer, Attention):
      assert isinstance(cache, KVCache | GroupCache)
      y, cache = mixer.step(normed, cache, position, valid_bt)
    else:
      y = mixer(normed)
    return x + y, cache


def _segment_ids(segments: Segments) -> Int[Array, 'batch time']:
  """Returns the segment ids of whole rows."""
  if isinstance(segments, SharedPrefix):
    return segments.segment_ids
  return segments


class Decoder(nnx.Module):
  """Every block is written out; `scan_layers.Scanned` runs the same blocks period by period."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    tied = config.tie_word_embeddings
    # A tied embedding is scaled as a head's, so that first logits are of order 1.
    scale = 1 / math.sqrt(config.hidden_size) if tied else 1.0
    shape = (config.vocab_size, config.hidden_size)
    normal = jax.random.normal(rngs.params(), shape, jnp.float32)
    self.embedding = param(scale * normal, 'vocab', 'embed')
    self.layers = nnx.List([Block(kind, config, rngs=rngs) for kind in config.pattern])
    self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.lm_head = nnx.data(None)
    if not tied:
      head = Linear(config.hidden_size, config.vocab_size, ('embed', 'vocab'), rngs=rngs)
      self.lm_head = nnx.data(head)

  def __call__(
    self, tokens_bt: Int[ArrayLike, 'batch time'], segment_ids_bt: Int[ArrayLike, 'batch time']
  ) -> Float[Array, 'batch time vocab']:
    """Computes the logits of packed rows.

    Args:
      tokens_bt: the rows.
      segment_ids_bt: the segment of each token; 0 is padding, whose logits mean nothing.

    Returns:
      The logits of each token's successor, float32.
    """
    return self.with_loads(tokens_bt, segment_ids_bt)[0]

  def with_loads(
    self, tokens_bt: Int[ArrayLike, 'batch time'], segment_ids_bt: Int[ArrayLike, 'batch time']
  ) -> tuple[Float[Array, 'batch time vocab'], Float[Array, 'blocks experts'] | None]:
    """Computes the logits of packed rows and the load of every expert.

    Args:
      tokens_bt: the rows.
      segment_ids_bt: the segment of each token; 0 is padding.

    Returns:
      The logits, and for each E block how many tokens each expert got, float32; None without such
      blocks.
    """
    x, loads = self.hidden(jnp.asarray(tokens_bt), jnp.asarray(segment_ids_bt))
    return self.logits(x), loads

  def hidden(
    self, tokens_bt: Int[Array, 'batch time'], segments: Segments
  ) -> tuple[Float[Array, 'batch time width'], Float[Array, 'blocks experts'] | None]:
    """Runs the blocks on whole rows; `logits` goes on from there.

    Args:
      tokens_bt: the rows.
      segments: packed rows, or rows that share prefixes.

    Returns:
      The residual stream behind the last block, and the loads of `with_loads`.
    """
    x = look_up(self.embedding[...], tokens_bt, jnp.dtype(self.config.compute_dtype))
    x, loads = self._blocks(x, segments)
    if not loads:
      return x, None
    return x, jnp.stack(loads)

  def head(self, dtype: jnp.dtype) -> Kernel:
    """Lays out the output head for `logits` of many parts of a row.

    Args:
      dtype: of the residual stream.

    Returns:
      The head's weights without an adapter, gathered once for all parts.
    """
    kernel = cast_weight(self._head_kernel(), dtype)
    gathered = gather_weight(kernel.astype(dtype), 'embed', 'vocab')
    if kernel.dtype == dtype:
      return Kernel(gathered)
    return Kernel(kernel, gathered)

  def _head_kernel(self) -> Float[Array, 'width vocab']:
    if self.lm_head is None:
      return self.embedding[...].T
    return self.lm_head.kernel[...]

  def logits(
    self, x: Float[Array, '*lead width'], head: Kernel | None = None
  ) -> Float[Array, '*lead vocab']:
    """Applies the final norm and the output head.

    Args:
      x: the residual stream behind the last block.
      head: its weights as `head` lays them out; None takes them as they lie.

    Returns:
      The logits of each token's successor, float32.
    """
    x = self.norm_f(x)
    if self.lm_head is not None:
      logits = self.lm_head(x, head)
    else:
      logits = multiply(x, *(head or Kernel(cast_weight(self._head_kernel(), x.dtype))))
    return logits.astype(jnp.float32)

  def prefill(
    self, tokens_bt: Int[Array, 'batch time'], valid_bt: Bool[Array, 'batch time'], room: int
  ) -> tuple[Float[Array, 'batch vocab'], DecodeState]:
    """Reads left-padded prompts.

    Args:
      tokens_bt: prompts, padding on the left.
      valid_bt: True where a prompt token is.
      room: how many tokens may be generated.

    Returns:
      The logits after the last prompt token, and the state to continue from.
    """
    x = look_up(self.embedding[...], tokens_bt, jnp.dtype(self.config.compute_dtype))
    x, caches = self._prefill_blocks(x, valid_bt.astype(jnp.int32), room)
    valid = jnp.pad(valid_bt, ((0, 0), (0, room)))
    logits = self.logits(x[:, -1])
    return logits, DecodeState(caches, valid, jnp.asarray(tokens_bt.shape[1], jnp.int32))

  def step(
    self, token_b: Int[Array, ' batch'], state: DecodeState
  ) -> tuple[Float[Array, 'batch vocab'], DecodeState]:
    """Appends one token to every sequence.

    Args:
      token_b: the tokens.
      state: of the sequences before them.

    Returns:
      The logits after the tokens, and the state with them.
    """
    valid = jax.lax.dynamic_update_slice_in_dim(
      state.valid, jnp.ones_like(state.valid[:, :1]), state.position, axis=1
    )
    x, caches = self._step_blocks(self._embed(token_b), state.caches, state.position, valid)
    return self.logits(x), DecodeState(caches, valid, state.position + 1)

  def _embed(self, tokens: Int[Array, '*lead']) -> Float[Array, '*lead width']:
    return self.embedding[...][tokens].astype(self.config.compute_dtype)

  def _blocks(
    self, x: Float[Array, 'batch time width'], rows: Segments
  ) -> tuple[Float[Array, 'batch time width'], list[Float[Array, ' experts']]]:
    """Runs the blocks on whole rows; returns the residual stream and the loads of E blocks."""
    loads = []
    for block in self.layers:
      x, load = run_block(self.config.remat_policy, block, x, rows)
      if load is not None:
        loads.append(load)
    return x, loads

  def _prefill_blocks(
    self,
    x: Float[Array, 'batch time width'],
    segment_ids_bt: Int[Array, 'batch time'],
    room: int,
  ) -> tuple[Float[Array, 'batch wanted width'], tuple]:
    """Runs the blocks on prompts; returns at least the last position, and the caches."""
    stateful = [i for i, kind in enumerate(self.config.pattern) if kind in STATEFUL]
    # From the last block that keeps a state on, only the last position is read.
    last_stateful = max(stateful, default=-1)
    caches = []
    for i, block in enumerate(self.layers):
      wanted = slice(-1, None) if i >= last_stateful else slice(None)
      block, x = _in_turn(block, x)
      x, cache = block.prefill(x, segment_ids_bt, room, wanted)
      caches.append(cache)
    return x, tuple(caches)

  def _step_blocks(
    self,
    x: Float[Array, 'batch width'],
    caches: tuple,
    position: Int[Array, ''],
    valid_bt: Bool[Array, 'batch time'],
  ) -> tuple[Float[Array, 'batch width'], tuple]:
    """Runs the blocks on one token more."""
    after = []
    for block, cache in zip(self.layers, caches, strict=True):
      block, x = _in_turn(block, x)
      x, cache = block.step(x, cache, position, valid_bt)
      after.append(cache)
    return x, tuple(after)


def _in_turn(
  block: Block, x: Float[Array, 'batch *lead width']
) -> tuple[Block, Float[Array, 'batch *lead width']]:
  """Has a block's weights gathered when the block before it has ended, where they are cut.

  Left alone, XLA gathers those of all blocks in front of the loop over tokens, and a whole model
  lies on every device.
  """
  if layout_in_use() is None:
    return block, x
  graphdef, state = nnx.split(block)
  state, x = jax.lax.optimization_barrier((state, x))
  return nnx.merge(graphdef, state), x


def run_block(
  policy: str,
  block: Block,
  x: Float[Array, 'batch time width'],
  segments: Segments,
  *,
  scanned: bool = False,
) -> tuple[Float[Array, 'batch time width'], Float[Array, ' experts'] | None]:
  """Runs a block on whole rows under a remat policy.

  Args:
    policy: of `remat`.
    block: the block.
    x: the residual stream.
    segments: packed rows, or rows that share prefixes.
    scanned: whether this is the body of a scan.

  Returns:
    See `Block.__call__`.
  """
  x = constrain(x, 'batch', 'length', None)
  if policy == 'none':
    return block(x, segments)
  graphdef, state = nnx.split(block)
  run = functools.partial(_run_state, graphdef, segments)
  return remat.apply(policy, run, scanned=scanned)(state, x)


def _run_state(
  graphdef: Any,
  segments: Segments,
  state: Any,
  x: Float[Array, 'batch time width'],
) -> tuple[Float[Array, 'batch time width'], Float[Array, ' experts'] | None]:
  """Runs a block that was split into graph and state."""
  return nnx.merge(graphdef, state)(x, segments)


def create(config: ModelConfig, seed: int) -> Decoder:
  """Makes a decoder with fresh float32 parameters.

  Args:
    config: its shape.
    seed: of the parameters.

  Returns:
    The decoder.
  """
  return Decoder(config, rngs=nnx.Rngs(params=seed))
