"""Mamba-2 (2405.21060) as Nemotron-H uses it.

in_proj -> causal depthwise convolution -> selective scan (`ssd`) -> gated RMSNorm -> out_proj.
Packed rows: at a segment boundary convolution and state start anew.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.causal_conv import causal_conv
from aevo_jax.models.layers.linear import Linear
from aevo_jax.models.layers.parameter import param
from aevo_jax.models.layers.rms_norm import RMSNorm
from aevo_jax.models.layers.shared_prefix import SharedPrefix
from aevo_jax.models.layers.ssd import ScanInputs, ssd
from aevo_jax.sharding import context
from aevo_jax.sharding.storage import take_apart

# dt starts log-uniform in this range, as in the reference.
_FIRST_DT = (1e-3, 1e-1)


class MambaCache(NamedTuple):
  """The state after a token.

  Attributes:
    conv: [b, kernel - 1, channels], the last inputs of the convolution.
    ssm: [b, n, p, r] float32.
  """

  conv: Array
  ssm: Array


class _Projected(NamedTuple):
  """gate [..., inner], channels [..., conv_width] before the convolution, dt [..., n] float32."""

  gate: Array
  channels: Array
  dt: Array


class _Heads(NamedTuple):
  """x [..., n, p], the input map b and the output map c [..., g, r]."""

  x: Array
  b: Array
  c: Array


def packed_widths(name: str, config: ModelConfig) -> tuple[int, ...]:
  """Lists the pieces that lie in the last dimension of a parameter.

  Args:
    name: ours, of any parameter.
    config: of the model.

  Returns:
    The widths of gate, x, B, C and dt in in_proj, of x, B and C in the convolution; nothing for any
    other parameter.
  """
  maps = config.n_groups * config.ssm_state_size
  channels = (config.mamba_inner, maps, maps)
  if name.endswith(('.in_proj.kernel', '.in_proj.bias', '.in_proj.lora_b')):
    return (config.mamba_inner, *channels, config.mamba_num_heads)
  if name.endswith(('.conv_kernel', '.conv_bias')):
    return channels
  return ()


class Mamba2(nnx.Module):
  """The mixer of an M block.

  Attributes:
    parts: in which the packed dimensions of in_proj and convolution are interleaved (`storage`).
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.parts = 1
    inner = config.mamba_inner
    channels = config.conv_width
    heads = config.mamba_num_heads
    self.in_proj = Linear(
      config.hidden_size,
      inner + channels + heads,
      ('embed', 'mamba_inner'),
      rngs=rngs,
      bias=config.use_bias,
    )
    self.out_proj = Linear(
      inner,
      config.hidden_size,
      ('mamba_inner', 'embed'),
      rngs=rngs,
      scale=1 / math.sqrt(len(config.pattern)),
      bias=config.use_bias,
    )
    self.norm = RMSNorm(inner, config.layer_norm_epsilon, 'mamba_inner', groups=config.n_groups)
    bound = 1 / math.sqrt(config.conv_kernel)
    kernel_shape = (config.conv_kernel, channels)
    kernel = jax.random.uniform(rngs.params(), kernel_shape, minval=-bound, maxval=bound)
    self.conv_kernel = param(kernel, 'conv', 'mamba_inner')
    self.conv_bias = nnx.data(None)
    if config.use_conv_bias:
      self.conv_bias = nnx.data(param(jnp.zeros(channels, jnp.float32), 'mamba_inner'))
    low, high = _FIRST_DT
    uniform = jax.random.uniform(rngs.params(), (heads,))
    dt = jnp.exp(uniform * (math.log(high) - math.log(low)) + math.log(low))
    # The inverse of softplus.
    self.dt_bias = param(dt + jnp.log(-jnp.expm1(-dt)), 'mamba_heads')
    self.A_log = param(jnp.log(jnp.arange(1, heads + 1, dtype=jnp.float32)), 'mamba_heads')
    self.D = param(jnp.ones(heads, jnp.float32), 'mamba_heads')

  def __call__(
    self, x_btd: Float[Array, 'batch time width'], segment_ids_bt: Int[Array, 'batch time']
  ) -> Float[Array, 'batch time width']:
    """Mixes packed rows.

    Args:
      x_btd: normed activations.
      segment_ids_bt: the segment of each token.

    Returns:
      What is added to the residual stream.
    """
    return self.prefill(x_btd, segment_ids_bt)[0]

  def prefill(
    self, x_btd: Float[Array, 'batch time width'], segment_ids_bt: Int[Array, 'batch time']
  ) -> tuple[Float[Array, 'batch time width'], MambaCache]:
    """Mixes whole rows.

    Args:
      x_btd: normed activations.
      segment_ids_bt: the segment of each token.

    Returns:
      What is added to the residual stream, and the state after the last token.
    """
    gate, channels, dt = self._project(x_btd)
    y, cache = self._mix(channels, dt, segment_ids_bt)
    return self._finish(y, gate), cache

  def shared(
    self, x_btd: Float[Array, 'batch time width'], rows: SharedPrefix
  ) -> Float[Array, 'batch time width']:
    """Mixes rows that share prefixes: a continuation goes on from the state after its prompt.

    Args:
      x_btd: normed activations.
      rows: where prompts and continuations lie.

    Returns:
      What is added to the residual stream.
    """
    gate, channels, dt = self._project(x_btd)
    prompt, continuation = rows.split(channels)
    prompt_dt, continuation_dt = rows.split(dt)
    y_prompt, cache = self._mix(prompt, prompt_dt, rows.prompt_ids)
    before = MambaCache(rows.each(cache.conv), rows.each(cache.ssm))
    y_continuation, _ = self._mix(continuation, continuation_dt, rows.continuation_ids, before)
    return self._finish(rows.join(y_prompt, y_continuation), gate)

  def step(
    self, x_bd: Float[Array, 'batch width'], cache: MambaCache
  ) -> tuple[Float[Array, 'batch width'], MambaCache]:
    """Advances the recurrence by one token.

    Args:
      x_bd: normed activations of the token.
      cache: the state before it.

    Returns:
      What is added to the residual stream, and the state after the token.
    """
    gate, channels, dt_bn = self._project(x_bd)
    window = jnp.concatenate([cache.conv, channels[:, None]], axis=1)
    kernel = self.conv_kernel[...].astype(window.dtype)
    bias = self._conv_bias(window.dtype).astype(window.dtype)
    mixed = jnp.einsum('bkc,kc->bc', window, kernel) + _leading(bias, 1)
    x_bnp, b_bgr, c_bgr = self._heads(jax.nn.silu(mixed))
    repeat = self.config.mamba_num_heads // self.config.n_groups
    b_bnr = jnp.repeat(b_bgr, repeat, axis=1)
    c_bnr = jnp.repeat(c_bgr, repeat, axis=1)
    keep_bn = jnp.exp(-dt_bn * _leading(jnp.exp(self.A_log[...]), 1))
    kept = keep_bn[..., None, None] * cache.ssm
    added = (dt_bn[..., None] * x_bnp.astype(jnp.float32))[..., None]
    state = kept + added * b_bnr[:, :, None].astype(jnp.float32)
    y = jnp.einsum('bnpr,bnr->bnp', state, c_bnr.astype(jnp.float32))
    y = y + x_bnp.astype(jnp.float32) * self.D[...][None, :, None]
    return self._finish(y, gate), MambaCache(window[:, 1:], state)

  def _project(self, x: Float[Array, '*lead width']) -> _Projected:
    """Applies in_proj and takes its output apart; dt is positive and within its limits."""
    c = self.config
    pieces = (c.mamba_inner, c.conv_width, c.mamba_num_heads)
    gate, channels, dt = self._apart(self.in_proj(x), pieces)
    dt = jax.nn.softplus(dt.astype(jnp.float32) + _leading(self.dt_bias[...], dt.ndim - 1))
    if (c.time_step_low, c.time_step_high) != (0.0, math.inf):
      dt = jnp.clip(dt, c.time_step_low, c.time_step_high)
    return _Projected(gate, channels, dt)

  def _apart(self, packed: Float[Array, '*lead packed'], pieces: tuple[int, ...]) -> list[Array]:
    """Splits a packed dimension into pieces of these widths."""
    if self.parts == 1:
      return jnp.split(packed, list(itertools.accumulate(pieces))[:-1], axis=-1)
    return take_apart(packed, pieces, self.parts)

  def _conv_bias(self, dtype: jnp.dtype) -> Float[Array, '*channels_or_none']:
    """Returns the convolution's bias [c], or a scalar 0."""
    if self.conv_bias is None:
      return jnp.zeros((), dtype)
    return context.cast_weight(self.conv_bias[...], dtype)

  def _heads(self, channels: Float[Array, '*lead channels']) -> _Heads:
    """Takes activated channels apart."""
    c = self.config
    lead = channels.shape[:-1]
    maps = c.n_groups * c.ssm_state_size
    x, b_in, c_out = self._apart(channels, (c.mamba_inner, maps, maps))
    return _Heads(
      x=x.reshape(*lead, c.mamba_num_heads, c.mamba_head_dim),
      b=b_in.reshape(*lead, c.n_groups, c.ssm_state_size),
      c=c_out.reshape(*lead, c.n_groups, c.ssm_state_size),
    )

  def _finish(
    self, y: Float[Array, '*lead heads head'], gate: Float[Array, '*lead inner']
  ) -> Float[Array, '*lead width']:
    """Gates, norms and projects; float32 up to the projection, as the reference."""
    gated = self.norm(y.reshape(gate.shape) * jax.nn.silu(gate.astype(jnp.float32)))
    return self.out_proj(gated.astype(gate.dtype))

  def _mix(
    self,
    channels: Float[Array, 'batch time channels'],
    dt: Float[Array, 'batch time heads'],
    segment_ids_bt: Int[Array, 'batch time'],
    before: MambaCache | None = None,
  ) -> tuple[Float[Array, 'batch time heads head'], MambaCache]:
    """Convolves and scans; returns y, float32, and the state after the last token.

    `before` is the state before the first token, in the first token's segment.
    """
    kept = self.config.conv_kernel - 1  # inputs
    kernel = context.cast_weight(self.conv_kernel[...], channels.dtype)
    bias = self._conv_bias(channels.dtype)
    initial = None
    if before is None:
      mixed = causal_conv(channels, kernel, bias, segment_ids_bt)
    else:
      initial = before.ssm
      longer = jnp.concatenate([before.conv, channels], axis=1)
      longer_ids = jnp.pad(segment_ids_bt, ((0, 0), (kept, 0)), mode='edge')
      mixed = causal_conv(longer, kernel, bias, longer_ids)[:, kept:]
    x, b, c = self._heads(jax.nn.silu(mixed))
    if self.config.n_groups % self.parts:
      # Devices share a group: they compute with all of it.
      b = context.constrain(b, 'batch', 'length', None, None)
      c = context.constrain(c, 'batch', 'length', None, None)
    # Arrays go in and out as wholes: fused with its neighbours, the scan makes XLA's CPU compiler
    # compute these several times over.
    x, dt, b, c = jax.lax.optimization_barrier((x, dt, b, c))
    inputs = ScanInputs(x, dt, b, c, segment_ids_bt)
    y, state = ssd(inputs, -jnp.exp(self.A_log[...]), self.config.chunk_size, initial)
    y = remat.context(jax.lax.optimization_barrier(y))
    y = y + x.astype(jnp.float32) * self.D[...][None, None, :, None]
    # The last kernel - 1 inputs of the last segment; zeros stand before a sequence shorter than
    # that.
    same = (segment_ids_bt == segment_ids_bt[:, -1:])[..., None]
    of_last_segment = jnp.where(same, channels, 0)
    conv = jnp.pad(of_last_segment, ((0, 0), (kept, 0), (0, 0)))[:, channels.shape[1] :]
    return y, MambaCache(conv, state)


def _leading(x: Float[Array, '*shape'], dimensions: int) -> Float[Array, '*more']:
  """Adds leading dimensions of size 1, but to a scalar none."""
  if x.ndim == 0:
    return x
  return jnp.expand_dims(x, range(dimensions))
