"""Mamba-2 (2405.21060) as Nemotron-H uses it: in_proj -> causal depthwise convolution -> selective
scan -> gated RMSNorm -> out_proj.

The scan is the chunked state-space-dual form, all matrix products: inside a chunk, an
attention-like product with a decay mask; between chunks, one state per head. Packed rows: at a
segment boundary the convolution, the mask and the carried state all start anew.

    state_t = exp(dt_t A) state_{t-1} + dt_t B_t x_t^T,    y_t = C_t state_t + D x_t
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models import remat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.linear import Linear, RMSNorm, param
from aevo_jax.models.layers.shared_prefix import SharedPrefix


class MambaCache(NamedTuple):
  """conv [b, kernel - 1, channels], the last inputs of the convolution; ssm [b, n, p, r], float32."""

  conv: jax.Array
  ssm: jax.Array


def causal_conv(
  x_btc: jax.Array, kernel_kc: jax.Array, bias_c: jax.Array, segment_ids_bt: jax.Array
) -> jax.Array:
  """Depthwise causal convolution that does not look across segments, as shifted multiply-adds
  (XLA's grouped convolution is slow on CPUs).
  """
  width = kernel_kc.shape[0]
  y = x_btc * kernel_kc[-1]
  for lag in range(1, min(width, x_btc.shape[1])):
    same = segment_ids_bt[:, lag:] == segment_ids_bt[:, :-lag]
    past = jnp.where(same[..., None], x_btc[:, :-lag], 0)
    y = y + jnp.pad(past, ((0, 0), (lag, 0), (0, 0))) * kernel_kc[width - 1 - lag]
  return y + bias_c


def ssd(
  x_btnp: jax.Array,
  dt_btn: jax.Array,
  a_n: jax.Array,
  b_btgr: jax.Array,
  c_btgr: jax.Array,
  segment_ids_bt: jax.Array,
  chunk: int,
  initial: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Chunked selective scan.

  Args:
    x_btnp: inputs; products have operands of their dtype and accumulate in float32. dt_btn: step
      sizes >= 0, float32. a_n: negative decay rates, float32.
    b_btgr, c_btgr: input and output maps, shared by the n / g heads of a group.
    segment_ids_bt: contiguous segments; the state starts at zero in each.
    chunk: chunk length; t is padded up to a multiple of it.
    initial: the state [b, n, p, r] before the first token, in the first token's segment; zero if
      not given.

  Returns:
    y_btnp without the D term, float32, and the state after the last token, [b, n, p, r] float32.
  """
  b, t, n, p = x_btnp.shape
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  g, r = b_btgr.shape[2:]
  chunk = min(chunk, t)
  extra = -t % chunk
  if extra:
    # Padding keeps the last segment's id and dt = 0, so the state passes through it unchanged.
    pad = lambda y, **kw: jnp.pad(y, ((0, 0), (0, extra)) + ((0, 0),) * (y.ndim - 2), **kw)
    x_btnp, dt_btn, b_btgr, c_btgr = (pad(y) for y in (x_btnp, dt_btn, b_btgr, c_btgr))
    segment_ids_bt = pad(segment_ids_bt, mode='edge')
  z = (t + extra) // chunk
  xdt = (x_btnp * dt_btn[..., None]).reshape(b, z, chunk, g, n // g, p)
  decay = jnp.cumsum(
    (dt_btn * a_n).reshape(b, z, chunk, g, n // g), axis=2
  )  # log decay since the chunk's start
  b_in, c_out = b_btgr.reshape(b, z, chunk, g, r), c_btgr.reshape(b, z, chunk, g, r)
  segment = segment_ids_bt.reshape(b, z, chunk)

  # Within a chunk. The mask is applied before exp: exp of a masked (positive) difference could
  # overflow and poison the gradient.
  mask = jnp.tril(jnp.ones((chunk, chunk), bool)) & (segment[..., :, None] == segment[..., None, :])
  decay_last = jnp.moveaxis(decay, 2, -1)  # b z g q t
  difference = decay_last[..., :, None] - decay_last[..., None, :]
  weights = jnp.exp(jnp.where(mask[:, :, None, None], difference, -jnp.inf))
  scores = product('bztgr,bzsgr->bzgts', c_out, b_in)
  y = product(
    'bzgqts,bzsgqp->bztgqp',
    (scores[:, :, :, None] * weights).astype(x_btnp.dtype),
    xdt.astype(x_btnp.dtype),
  )

  # What each chunk adds to the state at its end, from tokens of its last segment.
  to_end = jnp.where(
    (segment == segment[..., -1:])[..., None, None], jnp.exp(decay[:, :, -1:] - decay), 0
  )
  added = product('bzsgr,bzsgqp->bzgqpr', b_in, (xdt * to_end[..., None]).astype(x_btnp.dtype))
  if z == 1 and initial is None:
    return y.reshape(b, z * chunk, n, p)[:, :t], added[:, 0].reshape(b, n, p, r)

  # Between chunks: the carried state belongs to the segment of the previous chunk's last token.
  before = jnp.concatenate([segment[:, :1, 0], segment[:, :-1, -1]], axis=1)
  keeps = (segment[..., -1] == before)[..., None, None] * jnp.exp(decay[:, :, -1])

  def advance(state, inputs):
    keep, add = inputs
    return keep[..., None, None] * state + add, state

  first = jnp.zeros_like(added[:, 0]) if initial is None else initial.reshape(added[:, 0].shape)
  last, entering = jax.lax.scan(
    advance, first, (jnp.moveaxis(keeps, 1, 0), jnp.moveaxis(added, 1, 0))
  )
  from_start = jnp.where((segment == before[..., None])[..., None, None], jnp.exp(decay), 0)
  carried = product('bztgr,bzgqpr->bztgqp', c_out, jnp.moveaxis(entering, 0, 1).astype(c_out.dtype))
  y = y + carried * from_start[..., None]
  return y.reshape(b, z * chunk, n, p)[:, :t], last.reshape(b, n, p, r)


class Mamba2(nnx.Module):
  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    inner, channels, n = config.mamba_inner, config.conv_width, config.mamba_num_heads
    self.in_proj = Linear(
      config.hidden_size,
      inner + channels + n,
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
    self.conv_kernel = param(
      jax.random.uniform(
        rngs.params(), (config.conv_kernel, channels), minval=-bound, maxval=bound
      ),
      'conv',
      'mamba_inner',
    )
    self.conv_bias = nnx.data(
      param(jnp.zeros(channels, jnp.float32), 'mamba_inner') if config.use_conv_bias else None
    )
    # dt starts log-uniform in [1e-3, 1e-1], through the inverse of softplus, as in the reference.
    dt = jnp.exp(
      jax.random.uniform(rngs.params(), (n,)) * (math.log(1e-1) - math.log(1e-3)) + math.log(1e-3)
    )
    self.dt_bias = param(dt + jnp.log(-jnp.expm1(-dt)), 'mamba_heads')
    self.A_log = param(jnp.log(jnp.arange(1, n + 1, dtype=jnp.float32)), 'mamba_heads')
    self.D = param(jnp.ones(n, jnp.float32), 'mamba_heads')

  def _split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    c = self.config
    gate, channels, dt = jnp.split(
      self.in_proj(x), (c.mamba_inner, c.mamba_inner + c.conv_width), axis=-1
    )
    dt = jax.nn.softplus(dt.astype(jnp.float32) + self.dt_bias[...])
    if (c.time_step_low, c.time_step_high) != (0.0, math.inf):
      dt = jnp.clip(dt, c.time_step_low, c.time_step_high)
    return gate, channels, dt

  def _conv_parameters(self, dtype) -> tuple[jax.Array, jax.Array]:
    """Kernel [k, c] and bias [c] or 0."""
    return self.conv_kernel[...].astype(dtype), jnp.zeros(
      (), dtype
    ) if self.conv_bias is None else self.conv_bias[...].astype(dtype)

  def _heads(self, channels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits activated channels into x [..., n, p], B and C [..., g, r]."""
    c, lead = self.config, channels.shape[:-1]
    x, b, out = jnp.split(
      channels, (c.mamba_inner, c.mamba_inner + c.n_groups * c.ssm_state_size), axis=-1
    )
    return (
      x.reshape(*lead, c.mamba_num_heads, c.mamba_head_dim),
      b.reshape(*lead, c.n_groups, c.ssm_state_size),
      out.reshape(*lead, c.n_groups, c.ssm_state_size),
    )

  def _finish(self, y: jax.Array, gate: jax.Array) -> jax.Array:
    gated = self.norm(
      y.reshape(gate.shape) * jax.nn.silu(gate.astype(jnp.float32))
    )  # float32 up to here, as the reference
    return self.out_proj(gated.astype(gate.dtype))

  def __call__(self, x_btd: jax.Array, segment_ids_bt: jax.Array) -> jax.Array:
    return self.prefill(x_btd, segment_ids_bt)[0]

  def prefill(self, x_btd: jax.Array, segment_ids_bt: jax.Array) -> tuple[jax.Array, MambaCache]:
    """Whole rows, and the state after the last token."""
    gate, channels, dt = self._split(x_btd)
    y, cache = self._mix(channels, dt, segment_ids_bt)
    return self._finish(y, gate), cache

  def shared(self, x_btd: jax.Array, rows: SharedPrefix) -> jax.Array:
    """Rows that share prefixes: each continuation goes on from the state after its prompt."""
    gate, channels, dt = self._split(x_btd)
    (prompt, own), (prompt_dt, own_dt) = rows.split(channels), rows.split(dt)
    y, cache = self._mix(prompt, prompt_dt, rows.prompt_ids)
    y_own, _ = self._mix(own, own_dt, rows.own_ids, MambaCache(*map(rows.each, cache)))
    return self._finish(rows.join(y, y_own), gate)

  def _mix(
    self,
    channels: jax.Array,
    dt: jax.Array,
    segment_ids_bt: jax.Array,
    before: MambaCache | None = None,
  ) -> tuple[jax.Array, MambaCache]:
    """Convolution and scan, [b, t, n, p] float32, and the state after the last token; `before`: the
    state of the first token's segment before it.
    """
    kept = self.config.conv_kernel - 1  # inputs
    parameters = self._conv_parameters(channels.dtype)
    if before is None:
      mixed = causal_conv(channels, *parameters, segment_ids_bt)
    else:
      longer = jnp.concatenate([before.conv, channels], axis=1)
      mixed = causal_conv(
        longer, *parameters, jnp.pad(segment_ids_bt, ((0, 0), (kept, 0)), mode='edge')
      )[:, kept:]
    x, b, c = self._heads(jax.nn.silu(mixed))
    # Whole arrays in and out: fused with its neighbours, the scan makes XLA's CPU compiler compute
    # these several times over.
    x, dt, b, c = jax.lax.optimization_barrier((x, dt, b, c))
    y, state = ssd(
      x,
      dt,
      -jnp.exp(self.A_log[...]),
      b,
      c,
      segment_ids_bt,
      self.config.chunk_size,
      None if before is None else before.ssm,
    )
    y = remat.context(jax.lax.optimization_barrier(y))
    y = y + x.astype(jnp.float32) * self.D[...][:, None]
    # The last kernel - 1 inputs of the last segment; zeros stand before a sequence shorter than
    # that.
    own = jnp.where((segment_ids_bt == segment_ids_bt[:, -1:])[..., None], channels, 0)
    conv = jnp.pad(own, ((0, 0), (kept, 0), (0, 0)))[:, channels.shape[1] :]
    return y, MambaCache(conv, state)

  def step(self, x_bd: jax.Array, cache: MambaCache) -> tuple[jax.Array, MambaCache]:
    """One token of the recurrence."""
    gate, channels, dt_bn = self._split(x_bd)
    window = jnp.concatenate([cache.conv, channels[:, None]], axis=1)
    kernel, bias = self._conv_parameters(window.dtype)
    mixed = jnp.einsum('bkc,kc->bc', window, kernel) + bias
    x_bnp, b_bgr, c_bgr = self._heads(jax.nn.silu(mixed))
    repeat = self.config.mamba_num_heads // self.config.n_groups
    b_bnr, c_bnr = jnp.repeat(b_bgr, repeat, axis=1), jnp.repeat(c_bgr, repeat, axis=1)
    keep_bn = jnp.exp(-dt_bn * jnp.exp(self.A_log[...]))
    state = (
      keep_bn[..., None, None] * cache.ssm
      + (dt_bn[..., None] * x_bnp)[..., None] * b_bnr[:, :, None]
    )
    y = (
      jnp.einsum('bnpr,bnr->bnp', state, c_bnr.astype(jnp.float32))
      + x_bnp.astype(jnp.float32) * self.D[...][:, None]
    )
    return self._finish(y, gate), MambaCache(window[:, 1:], state)
