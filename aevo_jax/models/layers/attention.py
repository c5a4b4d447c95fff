"""Causal grouped-query attention: without positions as in Nemotron-H (the mamba blocks carry them),
or with normed and rotated heads as in Qwen3.

`__call__` sees whole rows, packed: a token attends to earlier tokens of its own segment only.
`prefill` is the same and returns the key/value cache; `step` extends it by one token.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.linear import Linear, RMSNorm
from aevo_jax.models.layers.rope import places, rotate
from aevo_jax.models.layers.shared_prefix import SharedPrefix


class KVCache(NamedTuple):
  """keys, values [b, k, t, h], the order in which `step` reads them; t is prompt length + room for
  generated tokens.
  """

  keys: jax.Array
  values: jax.Array


class GroupCache(NamedTuple):
  """Rows that continue prompts in groups of g: `prompt` [b / g, k, p, h], read once for a group,
  and each row's `own` [b, k, t, h]. Places 0..p-1 are the prompt's.
  """

  prompt: KVCache
  own: KVCache


def _attend(
  q_btnh: jax.Array, k_bskh: jax.Array, v_bskh: jax.Array, mask_bts: jax.Array
) -> jax.Array:
  """Softmax attention; each of the k key heads serves n / k query heads. Rows whose mask is empty
  give finite values that nobody reads.
  """
  b, t, n, h = q_btnh.shape
  k = k_bskh.shape[2]
  q = q_btnh.reshape(b, t, k, n // k, h) / math.sqrt(h)
  scores = jnp.einsum('btkqh,bskh->bkqts', q, k_bskh, preferred_element_type=jnp.float32)
  scores = jnp.where(mask_bts[:, None, None], scores, -1e30)
  probs = jax.nn.softmax(scores, axis=-1).astype(v_bskh.dtype)
  return jnp.einsum('bkqts,bskh->btkqh', probs, v_bskh).reshape(b, t, n * h)


class Attention(nnx.Module):
  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    d, h = config.hidden_size, config.head_dim
    self.heads, self.kv_heads, self.head_dim, self.window = (
      config.num_attention_heads,
      config.num_key_value_heads,
      h,
      config.sliding_window,
    )
    self.theta = config.rope_theta
    linear = lambda width, axis: Linear(
      d, width, ('embed', axis), rngs=rngs, bias=config.attention_bias
    )
    self.q_proj = linear(self.heads * h, 'heads')
    self.k_proj = linear(self.kv_heads * h, 'kv_heads')
    self.v_proj = linear(self.kv_heads * h, 'kv_heads')
    self.o_proj = Linear(
      self.heads * h,
      d,
      ('heads', 'embed'),
      rngs=rngs,
      scale=1 / math.sqrt(len(config.pattern)),
      bias=config.attention_bias,
    )
    self.q_norm = nnx.data(
      RMSNorm(h, config.layer_norm_epsilon, 'head_dim') if config.qk_norm else None
    )
    self.k_norm = nnx.data(
      RMSNorm(h, config.layer_norm_epsilon, 'head_dim') if config.qk_norm else None
    )

  def __call__(self, x_btd: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
    return self.prefill(x_btd, segment_ids_bt, room=0)[0]

  def prefill(
    self, x_btd: jax.Array, segment_ids_bt: jax.Array, room: int, queries: slice = slice(None)
  ) -> tuple[jax.Array, KVCache]:
    """Whole-row attention, and the cache with `room` empty places behind it; only the places that
    `queries` selects get an output.
    """
    b, t, _ = x_btd.shape
    split = lambda y, heads: y.reshape(b, -1, heads, self.head_dim)
    q, k, v = (
      split(self.q_proj(x_btd[:, queries]), self.heads),
      split(self.k_proj(x_btd), self.kv_heads),
      split(self.v_proj(x_btd), self.kv_heads),
    )
    place_bt = places(segment_ids_bt) if self.theta else None
    q, k = self._placed(q, self.q_norm, place_bt, queries), self._placed(k, self.k_norm, place_bt)
    mask = self._visible(t)[queries] & (
      segment_ids_bt[:, queries, None] == segment_ids_bt[:, None, :]
    )
    grow = lambda y: jnp.pad(jnp.swapaxes(y, 1, 2), ((0, 0), (0, 0), (0, room), (0, 0)))
    # Whole arrays in and out, as around the scan of mamba2: XLA's CPU compiler would fuse
    # neighbours in and compute them several times over.
    q, k, v, mask = jax.lax.optimization_barrier((q, k, v, mask))
    y = remat.context(jax.lax.optimization_barrier(_attend(q, k, v, mask)))
    return self.o_proj(y), KVCache(grow(k), grow(v))

  def shared(self, x_btd: jax.Array, rows: SharedPrefix) -> jax.Array:
    """Rows that share prefixes: a continuation attends to its prompt and to itself."""
    b, t, _ = x_btd.shape
    split = lambda y, heads: y.reshape(b, t, heads, self.head_dim)
    q, k, v = (
      split(self.q_proj(x_btd), self.heads),
      split(self.k_proj(x_btd), self.kv_heads),
      split(self.v_proj(x_btd), self.kv_heads),
    )
    place = None
    if self.theta:
      length = jnp.sum(rows.prompt_ids > 0, axis=1, keepdims=True)
      place = rows.join(
        places(rows.prompt_ids), rows.each(length) + jnp.arange(rows.own_ids.shape[1])
      )
    q, k = self._placed(q, self.q_norm, place), self._placed(k, self.k_norm, place)
    (q_prompt, q_own), (k_prompt, k_own), (v_prompt, v_own) = (
      rows.split(q),
      rows.split(k),
      rows.split(v),
    )
    prompt, own = rows.prompt_ids, rows.own_ids
    whole = rows.prompt + own.shape[1]
    visible = self._visible(whole)
    seen = jnp.concatenate([rows.each(prompt) > 0, own > 0], axis=1)
    mask_prompt = visible[: rows.prompt, : rows.prompt] & (prompt[:, :, None] == prompt[:, None, :])
    mask_own = visible[rows.prompt :] & seen[:, None, :]
    k_own, v_own = (
      jnp.concatenate([rows.each(x), y], axis=1) for x, y in ((k_prompt, k_own), (v_prompt, v_own))
    )
    given = jax.lax.optimization_barrier(
      (q_prompt, k_prompt, v_prompt, mask_prompt, q_own, k_own, v_own, mask_own)
    )  # as in `prefill`
    y = rows.join(_attend(*given[:4]), _attend(*given[4:]))
    return self.o_proj(remat.context(jax.lax.optimization_barrier(y)))

  def _placed(
    self,
    x_btnh: jax.Array,
    norm: RMSNorm | None,
    place_bt: jax.Array | None,
    selected: slice = slice(None),
  ) -> jax.Array:
    """Queries or keys [b, t, n, h] as scores see them: normed, and rotated to their place where
    there are places.
    """
    x_btnh = x_btnh if norm is None else norm(x_btnh)
    return x_btnh if place_bt is None else rotate(x_btnh, place_bt[:, selected], self.theta)

  def _visible(self, t: int) -> jax.Array:
    """[t, s] places that a place may look at: itself and those before it, within the window."""
    causal = jnp.tril(jnp.ones((t, t), bool))
    return causal & ~jnp.tril(causal, -self.window) if self.window else causal

  def step(
    self, x_bd: jax.Array, cache: KVCache | GroupCache, position: jax.Array, valid_bt: jax.Array
  ) -> tuple[jax.Array, KVCache | GroupCache]:
    """One token. `position` is the place to write; `valid_bt` marks places to attend to, the new
    one included.
    """
    b, k, h = x_bd.shape[0], self.kv_heads, self.head_dim
    place_b1 = jnp.sum(valid_bt, axis=1, keepdims=True) - 1 if self.theta else None
    q = self._placed(
      self.q_proj(x_bd).reshape(b, k, self.heads // k, h), self.q_norm, place_b1
    ) / math.sqrt(h)
    new_keys = self._placed(self.k_proj(x_bd).reshape(b, k, 1, h), self.k_norm, place_b1)
    prompt, own = cache if isinstance(cache, GroupCache) else (None, cache)
    first = 0 if prompt is None else prompt.keys.shape[2]
    write = lambda past, new: jax.lax.dynamic_update_slice_in_dim(
      past, new.reshape(b, k, 1, h), position - first, axis=2
    )
    own = KVCache(write(own.keys, new_keys), write(own.values, self.v_proj(x_bd)))
    if self.window:
      t = valid_bt.shape[1]
      valid_bt = valid_bt & (
        (position - jnp.arange(t)) % t < self.window
      )  # also where places go round
    score = lambda q, keys: jnp.einsum(
      'bkqh,bksh->bkqs', q, keys, preferred_element_type=jnp.float32
    )
    mix = lambda probs, values: jnp.einsum('bkqs,bksh->bkqh', probs.astype(values.dtype), values)
    probs = lambda scores: jax.nn.softmax(
      jnp.where(valid_bt[:, None, None], scores, -1e30), axis=-1
    )
    if prompt is None:
      return self.o_proj(mix(probs(score(q, own.keys)), own.values).reshape(b, -1)), own
    rows = prompt.keys.shape[0]
    together = lambda x: jnp.swapaxes(x.reshape(rows, b // rows, k, -1, x.shape[-1]), 1, 2).reshape(
      rows, k, -1, x.shape[-1]
    )  # a group's queries as those of one row
    apart = lambda x: jnp.swapaxes(x.reshape(rows, k, b // rows, -1, x.shape[-1]), 1, 2).reshape(
      b, k, -1, x.shape[-1]
    )
    p = probs(
      jnp.concatenate([apart(score(together(q), prompt.keys)), score(q, own.keys)], axis=-1)
    )
    y = apart(mix(together(p[..., :first]), prompt.values)) + mix(p[..., first:], own.values)
    return self.o_proj(y.reshape(b, -1)), GroupCache(prompt, own)
