"""The decoder: embedding, a residual stack of blocks by the pattern, final norm, output head.

Three entry points share the blocks: `__call__` on whole (packed) rows, `prefill` on left-padded prompts, `step` for one more token.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models.attention import Attention, KVCache
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers import MLP, Linear, RMSNorm, matmul, param
from aevo_jax.models.mamba2 import Mamba2, MambaCache
from aevo_jax.models.moe import MoE

_MIXERS = {'M': Mamba2, '*': Attention, '-': MLP, 'E': MoE}
_STATEFUL = 'M*'  # blocks that look at other tokens, and keep a state


class DecodeState(NamedTuple):
  """caches: one per block (None for MLP and MoE); valid [b, t]: places that hold tokens; position: the next place, a scalar."""

  caches: tuple[KVCache | MambaCache | None, ...]
  valid: jax.Array
  position: jax.Array


class Block(nnx.Module):
  """x + mixer(norm(x))."""

  def __init__(self, kind: str, config: ModelConfig, *, rngs: nnx.Rngs):
    self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.mixer = _MIXERS[kind](config, rngs=rngs)


class Decoder(nnx.Module):

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    tied = config.tie_word_embeddings
    scale = 1 / math.sqrt(config.hidden_size) if tied else 1.0  # as a head's, so that first logits are of order 1
    self.embedding = param(scale * jax.random.normal(rngs.params(), (config.vocab_size, config.hidden_size), jnp.float32), 'vocab', 'embed')
    self.layers = nnx.List([Block(kind, config, rngs=rngs) for kind in config.pattern])
    self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
    self.lm_head = nnx.data(None if tied else Linear(config.hidden_size, config.vocab_size, ('embed', 'vocab'), rngs=rngs))

  def _embed(self, tokens: jax.Array) -> jax.Array:
    return self.embedding[...][tokens].astype(self.config.compute_dtype)

  def _logits(self, x: jax.Array) -> jax.Array:
    x = self.norm_f(x)
    return (matmul(x, self.embedding[...].T.astype(x.dtype)) if self.lm_head is None else self.lm_head(x)).astype(jnp.float32)

  def __call__(self, tokens_bt: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
    """Next-token logits [b, t, v] float32 of packed rows; segment id 0 is padding, whose logits mean nothing."""
    x = self._embed(tokens_bt)
    for kind, block in zip(self.config.pattern, self.layers):
      normed = block.norm(x)
      x = x + (block.mixer(normed, segment_ids_bt) if kind in _STATEFUL else block.mixer(normed))
    return self._logits(x)

  def prefill(self, tokens_bt: jax.Array, valid_bt: jax.Array, room: int) -> tuple[jax.Array, DecodeState]:
    """Reads left-padded prompts.

    Args:
      tokens_bt: prompts, padding on the left. valid_bt: True where a prompt token is.
      room: how many tokens may be generated.

    Returns:
      Logits [b, v] after the last prompt token, and the state to continue from.
    """
    segment_ids = valid_bt.astype(jnp.int32)
    x, caches = self._embed(tokens_bt), []
    # From the last block that keeps a state on, only the last place is read.
    last_stateful = max((i for i, kind in enumerate(self.config.pattern) if kind in _STATEFUL), default=-1)
    for i, (kind, block) in enumerate(zip(self.config.pattern, self.layers)):
      wanted = slice(-1, None) if i >= last_stateful else slice(None)
      normed, cache = block.norm(x), None
      if kind == 'M':
        y, cache = block.mixer.prefill(normed, segment_ids)
        y = y[:, wanted]
      elif kind == '*':
        y, cache = block.mixer.prefill(normed, segment_ids, room, wanted)
      else:
        y = block.mixer(normed)
      x = x[:, wanted] + y
      caches.append(cache)
    valid = jnp.pad(valid_bt, ((0, 0), (0, room)))
    return self._logits(x[:, -1]), DecodeState(tuple(caches), valid, jnp.asarray(tokens_bt.shape[1], jnp.int32))

  def step(self, token_b: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
    """Appends one token to every sequence; returns logits [b, v] after it."""
    x, caches = self._embed(token_b), []
    valid = jax.lax.dynamic_update_slice_in_dim(state.valid, jnp.ones_like(state.valid[:, :1]), state.position, axis=1)
    for kind, block, cache in zip(self.config.pattern, self.layers, state.caches):
      normed = block.norm(x)
      if kind == 'M':
        y, cache = block.mixer.step(normed, cache)
      elif kind == '*':
        y, cache = block.mixer.step(normed, cache, state.position, valid)
      else:
        y = block.mixer(normed)
      x = x + y
      caches.append(cache)
    return self._logits(x), DecodeState(tuple(caches), valid, state.position + 1)


def create(config: ModelConfig, seed: int) -> Decoder:
  """A decoder with fresh float32 parameters."""
  return Decoder(config, rngs=nnx.Rngs(params=seed))
