"""Causal grouped-query attention.

It has no positions in Nemotron-H (the mamba blocks carry them), normed and rotated heads in Qwen3,
and rotated ones in Llama. `__call__` sees whole rows, packed: a token attends to earlier tokens of
its segment only. `prefill` is the same and returns the key/value cache; `step` extends it by one
token.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.kernels import flash_attention
from aevo_jax.models.kernels.flash_attention import Heads
from aevo_jax.models.layers.linear import Linear
from aevo_jax.models.layers.rms_norm import RMSNorm
from aevo_jax.models.layers.rope import positions, rotate
from aevo_jax.models.layers.shared_prefix import SharedPrefix
from aevo_jax.sharding import context

_MASKED = -1e30  # the score of a position that is not attended to


class KVCache(NamedTuple):
  """Keys and values in the order in which `step` reads them.

  Attributes:
    keys, values: [b, k, t, h]; t is prompt length + room for generated tokens.
  """

  keys: Array
  values: Array


class GroupCache(NamedTuple):
  """The cache of rows that continue prompts, g rows to a prompt.

  Attributes:
    prompt: [b / g, k, p, h], read once for a group; positions 0 to p - 1.
    continuation: [b, k, t, h], one for each row.
  """

  prompt: KVCache
  continuation: KVCache


def _attend(
  heads: Heads, mask_bts: Bool[Array, '#batch time source']
) -> Float[Array, 'batch time width']:
  """Computes softmax attention; each of the k key heads serves n / k query heads.

  A row whose mask is empty has finite values that nobody reads.
  """
  b, t, n, h = heads.queries.shape
  k = heads.keys.shape[2]
  q = heads.queries.reshape(b, t, k, n // k, h) / math.sqrt(h)
  scores = jnp.einsum('btkqh,bskh->bkqts', q, heads.keys, preferred_element_type=jnp.float32)
  scores = jnp.where(mask_bts[:, None, None], scores, _MASKED)
  probs = jax.nn.softmax(scores, axis=-1).astype(heads.values.dtype)
  return jnp.einsum('bkqts,bskh->btkqh', probs, heads.values).reshape(b, t, n * h)


def _visible(time: int, window: int) -> Bool[Array, 'time source']:
  """Marks the positions that each may attend to: itself and those before it, within the window."""
  causal = jnp.tril(jnp.ones((time, time), bool))
  if window:
    return causal & ~jnp.tril(causal, -window)
  return causal


class Attention(nnx.Module):
  """Grouped-query attention; `qk_norm`, `rope_theta` and `sliding_window` are the config's."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width = config.hidden_size
    self.heads = config.num_attention_heads
    self.kv_heads = config.num_key_value_heads
    self.head_dim = config.head_dim
    self.window = config.sliding_window
    self.theta = config.rope_theta
    self.implementation = config.attention_implementation
    self.dtype = config.compute_dtype
    bias = config.attention_bias
    q_width = self.heads * self.head_dim
    kv_width = self.kv_heads * self.head_dim
    self.q_proj = Linear(width, q_width, ('embed', 'heads'), rngs=rngs, bias=bias)
    self.k_proj = Linear(width, kv_width, ('embed', 'kv_heads'), rngs=rngs, bias=bias)
    self.v_proj = Linear(width, kv_width, ('embed', 'kv_heads'), rngs=rngs, bias=bias)
    scale = 1 / math.sqrt(len(config.pattern))
    self.o_proj = Linear(q_width, width, ('heads', 'embed'), rngs=rngs, scale=scale, bias=bias)
    self.q_norm = nnx.data(None)
    self.k_norm = nnx.data(None)
    if config.qk_norm:
      self.q_norm = nnx.data(RMSNorm(self.head_dim, config.layer_norm_epsilon, 'head_dim'))
      self.k_norm = nnx.data(RMSNorm(self.head_dim, config.layer_norm_epsilon, 'head_dim'))

  def __call__(
    self, x_btd: Float[Array, 'batch time width'], segment_ids_bt: Int[Array, 'batch time']
  ) -> Float[Array, 'batch time width']:
    """Attends within packed rows.

    Args:
      x_btd: normed activations.
      segment_ids_bt: the segment of each token.

    Returns:
      What is added to the residual stream.
    """
    return self.prefill(x_btd, segment_ids_bt, room=0)[0]

  def prefill(
    self,
    x_btd: Float[Array, 'batch time width'],
    segment_ids_bt: Int[Array, 'batch time'],
    room: int,
    queries: slice = slice(None),
  ) -> tuple[Float[Array, 'batch queries width'], KVCache]:
    """Attends within whole rows and keeps the keys and values.

    Args:
      x_btd: normed activations.
      segment_ids_bt: the segment of each token.
      room: empty positions in the cache, for tokens that follow.
      queries: selects the positions that get an output.

    Returns:
      The outputs, and the cache.
    """
    q = self._split(self.q_proj(x_btd[:, queries]))
    k = self._split(self.k_proj(x_btd))
    v = self._split(self.v_proj(x_btd))
    positions_bt = None
    selected_bt = None
    if self.theta:
      positions_bt = positions(segment_ids_bt)
      selected_bt = positions_bt[:, queries]
    q = self._positioned(q, self.q_norm, selected_bt)
    k = self._positioned(k, self.k_norm, positions_bt)
    heads = Heads(q, k, v)
    implementation = self._implementation(k.shape[1])
    if implementation == 'einsum' or q.shape[1] < k.shape[1]:
      visible = _visible(x_btd.shape[1], self.window)[queries]
      mask = visible[None] & (segment_ids_bt[:, queries, None] == segment_ids_bt[:, None, :])
      # Arrays go in and out as wholes, as around the scan of mamba2: XLA's CPU compiler would fuse
      # neighbours in and compute them several times over.
      heads, mask = jax.lax.optimization_barrier((heads, mask))
      y = jax.lax.optimization_barrier(_attend(heads, mask))
    else:
      begin = jnp.arange(q.shape[1])[None] - positions(segment_ids_bt)
      y = flash_attention.attend(heads, begin, window=self.window, implementation=implementation)
    output = self.o_proj(remat.context(y))
    return output, KVCache(_cached(heads.keys, room), _cached(heads.values, room))

  def shared(
    self, x_btd: Float[Array, 'batch time width'], rows: SharedPrefix
  ) -> Float[Array, 'batch time width']:
    """Attends within rows that share prefixes: a continuation sees its prompt and itself.

    Args:
      x_btd: normed activations.
      rows: where prompts and continuations lie.

    Returns:
      What is added to the residual stream.
    """
    q = self._split(self.q_proj(x_btd))
    k = self._split(self.k_proj(x_btd))
    v = self._split(self.v_proj(x_btd))
    positions_bt = None
    if self.theta:
      length = jnp.sum(rows.prompt_ids > 0, axis=1, keepdims=True)
      behind = rows.each(length) + jnp.arange(rows.continuation_ids.shape[1])[None]
      positions_bt = rows.join(positions(rows.prompt_ids), behind)
    q = self._positioned(q, self.q_norm, positions_bt)
    k = self._positioned(k, self.k_norm, positions_bt)
    q_prompt, q_continuation = rows.split(q)
    k_prompt, k_continuation = rows.split(k)
    v_prompt, v_continuation = rows.split(v)
    k_both = jnp.concatenate([rows.each(k_prompt), k_continuation], axis=1)
    v_both = jnp.concatenate([rows.each(v_prompt), v_continuation], axis=1)
    prompt = Heads(q_prompt, k_prompt, v_prompt)
    continuation = Heads(q_continuation, k_both, v_both)
    implementation = self._implementation(math.gcd(rows.prompt, q_continuation.shape[1]))
    if implementation == 'einsum':
      y = self._shared_by_einsum(prompt, continuation, rows)
    else:
      y = self._shared_by_kernel(prompt, continuation, rows, implementation)
    return self.o_proj(remat.context(y))

  def _shared_by_einsum(
    self, prompt: Heads, continuation: Heads, rows: SharedPrefix
  ) -> Float[Array, 'prompts time all']:
    prompt_ids = rows.prompt_ids
    continuation_ids = rows.continuation_ids
    length = rows.prompt
    visible = _visible(length + continuation_ids.shape[1], self.window)
    is_token = jnp.concatenate([rows.each(prompt_ids) > 0, continuation_ids > 0], axis=1)
    same = prompt_ids[:, :, None] == prompt_ids[:, None, :]
    prompt_mask = visible[None, :length, :length] & same
    continuation_mask = visible[None, length:] & is_token[:, None, :]
    # Wholes, as in `prefill`.
    prompt, prompt_mask, continuation, continuation_mask = jax.lax.optimization_barrier(
      (prompt, prompt_mask, continuation, continuation_mask)
    )
    y = rows.join(_attend(prompt, prompt_mask), _attend(continuation, continuation_mask))
    return jax.lax.optimization_barrier(y)

  def _shared_by_kernel(
    self, prompt: Heads, continuation: Heads, rows: SharedPrefix, implementation: str
  ) -> Float[Array, 'prompts time all']:
    """Attends to spans: prompts are padded on the left, continuations on the right."""
    length = rows.prompt
    of_prompt = jnp.arange(length)[None] - positions(rows.prompt_ids)
    y_prompt = flash_attention.attend(
      prompt, of_prompt, window=self.window, implementation=implementation
    )
    begin = jnp.sum(rows.prompt_ids == 0, axis=1, keepdims=True)
    y_continuation = flash_attention.attend(
      continuation,
      jnp.broadcast_to(rows.each(begin), rows.continuation_ids.shape),
      window=self.window,
      behind=length,
      implementation=implementation,
    )
    return rows.join(y_prompt, y_continuation)

  def _implementation(self, length: int) -> str:
    """Chooses how rows of multiples of `length` tokens attend."""
    layout = context.layout_in_use()
    return flash_attention.chosen(
      self.implementation,
      self.dtype,
      head_dim=self.head_dim,
      length=length,
      whole=layout is None or not layout.mesh_axes('length'),
    )

  def step(
    self,
    x_bd: Float[Array, 'batch width'],
    cache: KVCache | GroupCache,
    position: Int[Array, ''],
    valid_bt: Bool[Array, 'batch time'],
  ) -> tuple[Float[Array, 'batch width'], KVCache | GroupCache]:
    """Attends with one token and adds it to the cache.

    Args:
      x_bd: normed activations of the token.
      cache: keys and values of the tokens before it.
      position: where in the cache to write the token.
      valid_bt: the positions of the cache to attend to, the new one included.

    Returns:
      What is added to the residual stream, and the cache with the token.
    """
    b = x_bd.shape[0]
    k = self.kv_heads
    h = self.head_dim
    positions_b1 = None
    if self.theta:
      positions_b1 = jnp.sum(valid_bt, axis=1, keepdims=True) - 1
    q = self.q_proj(x_bd).reshape(b, k, self.heads // k, h)
    q = self._positioned(q, self.q_norm, positions_b1) / math.sqrt(h)
    new_keys = self.k_proj(x_bd).reshape(b, k, 1, h)
    new_keys = self._positioned(new_keys, self.k_norm, positions_b1)
    prompt = None
    first = 0
    if isinstance(cache, GroupCache):
      prompt = cache.prompt
      first = prompt.keys.shape[2]
      written = cache.continuation
    else:
      written = cache
    keys = _write(written.keys, new_keys, position - first)
    new_values = self.v_proj(x_bd).reshape(b, k, 1, h)
    written = KVCache(keys, _write(written.values, new_values, position - first))
    if self.window:
      # The remainder, because positions of a cache may go round.
      distance = (position - jnp.arange(valid_bt.shape[1])) % valid_bt.shape[1]
      valid_bt = valid_bt & (distance < self.window)[None]
    if prompt is None:
      probs = _probabilities(_scores(q, written.keys), valid_bt)
      return self.o_proj(_mix(probs, written.values).reshape(b, -1)), written
    prompts = prompt.keys.shape[0]
    prompt_scores = _by_row(_scores(_by_prompt(q, prompts), prompt.keys), b)
    scores = jnp.concatenate([prompt_scores, _scores(q, written.keys)], axis=-1)
    probs = _probabilities(scores, valid_bt)
    from_prompt = _by_row(_mix(_by_prompt(probs[..., :first], prompts), prompt.values), b)
    y = from_prompt + _mix(probs[..., first:], written.values)
    return self.o_proj(y.reshape(b, -1)), GroupCache(prompt, written)

  def _split(self, y_btw: Float[Array, 'batch time all']) -> Float[Array, 'batch time heads head']:
    """Cuts a projection into heads."""
    return y_btw.reshape(y_btw.shape[0], -1, y_btw.shape[-1] // self.head_dim, self.head_dim)

  def _positioned(
    self,
    x_btnh: Float[Array, 'batch time heads head'],
    norm: RMSNorm | None,
    positions_bt: Int[Array, ' batch #time'] | None,
  ) -> Float[Array, 'batch time heads head']:
    """Norms queries or keys, and rotates them where there are positions."""
    if norm is not None:
      x_btnh = norm(x_btnh)
    if positions_bt is None:
      return x_btnh
    return rotate(x_btnh, positions_bt, self.theta)


def _cached(
  y_bskh: Float[Array, 'batch source kv_heads head'], room: int
) -> Float[Array, 'batch kv_heads positions head']:
  """Lays keys or values out for `step`, with room behind them."""
  return jnp.pad(jnp.swapaxes(y_bskh, 1, 2), ((0, 0), (0, 0), (0, room), (0, 0)))


def _write(
  past_bksh: Float[Array, 'batch kv_heads source head'],
  new_bk1h: Float[Array, 'batch kv_heads 1 head'],
  position: Int[Array, ''],
) -> Float[Array, 'batch kv_heads source head']:
  """Writes one token's keys or values at a position."""
  return jax.lax.dynamic_update_slice_in_dim(past_bksh, new_bk1h, position, axis=2)


def _scores(
  q_bkqh: Float[Array, 'batch kv_heads queries head'],
  keys_bksh: Float[Array, 'batch kv_heads source head'],
) -> Float[Array, 'batch kv_heads queries source']:
  """Multiplies queries with keys, in float32."""
  return jnp.einsum('bkqh,bksh->bkqs', q_bkqh, keys_bksh, preferred_element_type=jnp.float32)


def _probabilities(
  scores_bkqs: Float[Array, 'batch kv_heads queries source'],
  valid_bs: Bool[Array, 'batch source'],
) -> Float[Array, 'batch kv_heads queries source']:
  """Computes the softmax over the positions to attend to."""
  masked = jnp.where(valid_bs[:, None, None], scores_bkqs, _MASKED)
  return jax.nn.softmax(masked, axis=-1)


def _mix(
  probs_bkqs: Float[Array, 'batch kv_heads queries source'],
  values_bksh: Float[Array, 'batch kv_heads source head'],
) -> Float[Array, 'batch kv_heads queries head']:
  """Averages values by probabilities."""
  return jnp.einsum('bkqs,bksh->bkqh', probs_bkqs.astype(values_bksh.dtype), values_bksh)


def _by_prompt(
  x_bkqs: Float[Array, 'batch kv_heads queries last'], prompts: int
) -> Float[Array, 'prompts kv_heads queries_of_group last']:
  """Lays the queries of a group's rows out as those of one row."""
  b, k, _, last = x_bkqs.shape
  grouped = x_bkqs.reshape(prompts, b // prompts, k, -1, last)
  return jnp.swapaxes(grouped, 1, 2).reshape(prompts, k, -1, last)


def _by_row(
  x_pkqs: Float[Array, 'prompts kv_heads queries_of_group last'], rows: int
) -> Float[Array, 'batch kv_heads queries last']:
  """Inverts `_by_prompt`."""
  p, k, _, last = x_pkqs.shape
  grouped = x_pkqs.reshape(p, k, rows // p, -1, last)
  return jnp.swapaxes(grouped, 1, 2).reshape(rows, k, -1, last)
