"""The selective scan of Mamba-2 in its chunked state-space-dual form (2405.21060), all products.

    state_t = exp(dt_t A) state_{t-1} + dt_t B_t x_t^T,    y_t = C_t state_t + D x_t

Inside a chunk, it is an attention-like product with a decay mask; between chunks, one state per
head. Packed rows: at a segment boundary the mask and the carried state start anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aevo_jax.sharding import context


class ScanInputs(NamedTuple):
  """What the scan reads at each token.

  Attributes:
    x_btnp: inputs; products have operands of their dtype and accumulate in float32.
    dt_btn: step sizes >= 0, float32.
    b_btgr, c_btgr: input and output maps, shared by the n / g heads of a group.
    segment_ids_bt: contiguous segments; the state starts at zero in each.
  """

  x_btnp: Float[Array, 'batch time heads head']
  dt_btn: Float[Array, 'batch time heads']
  b_btgr: Float[Array, 'batch time groups state']
  c_btgr: Float[Array, 'batch time groups state']
  segment_ids_bt: Int[Array, 'batch time']


class _Chunks(NamedTuple):
  """The same in z chunks of t tokens, heads as q = n / g of each of g groups.

  Attributes:
    xdt: x dt, [b, z, t, g, q, p].
    decay: log decay since the chunk's start, [b, z, t, g, q] float32.
    b_in, c_out: [b, z, t, g, r].
    segment: [b, z, t].
  """

  xdt: Array
  decay: Array
  b_in: Array
  c_out: Array
  segment: Array


def ssd(
  inputs: ScanInputs,
  a_n: Float[Array, ' heads'],
  chunk: int,
  initial: Float[Array, 'batch heads head state'] | None = None,
) -> tuple[Float[Array, 'batch time heads head'], Float[Array, 'batch heads head state']]:
  """Runs the chunked selective scan.

  Args:
    inputs: what it reads at each token.
    a_n: negative decay rates, float32.
    chunk: chunk length; the time is padded up to a multiple of it.
    initial: the state before the first token, in the first token's segment; None is zero.

  Returns:
    y_btnp without the D term and the state after the last token, both float32.
  """
  b, t, n, p = inputs.x_btnp.shape
  r = inputs.b_btgr.shape[3]
  dtype = inputs.x_btnp.dtype
  chunks = _cut(inputs, a_n, min(chunk, t))
  y = _within_chunks(chunks, dtype)
  added = _added(chunks, dtype)
  z, length = chunks.segment.shape[1:]
  if z == 1 and initial is None:
    return y.reshape(b, length, n, p)[:, :t], added[:, 0].reshape(b, n, p, r)

  # The carried state belongs to the segment of the previous chunk's last token.
  segment = chunks.segment
  before = jnp.concatenate([segment[:, :1, 0], segment[:, :-1, -1]], axis=1)
  same = (segment[..., -1] == before)[..., None, None]
  keeps = same.astype(jnp.float32) * jnp.exp(chunks.decay[:, :, -1])
  if initial is None:
    first = jnp.zeros_like(added[:, 0])
  else:
    first = initial.reshape(added[:, 0].shape)
  layout = context.layout_in_use()
  shards = 1 if layout is None else layout.shards('length')
  if shards == 1 or z % shards:
    entering, last = _between_chunks(first, keeps, added)
  else:
    entering, last = _between_shards(first, keeps, added, shards)
  reached = (segment == before[..., None])[..., None, None]
  from_start = jnp.where(reached, jnp.exp(chunks.decay), 0)
  entering = entering.astype(chunks.c_out.dtype)
  carried = _product('bztgr,bzgqpr->bztgqp', chunks.c_out, entering)
  y = y + carried * from_start[..., None]
  return y.reshape(b, z * length, n, p)[:, :t], last.reshape(b, n, p, r)


def _product(subscripts: str, *operands: Float[Array, '...']) -> Float[Array, '...']:
  """Computes an einsum that accumulates in float32."""
  return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)


def _cut(inputs: ScanInputs, a_n: Float[Array, ' heads'], chunk: int) -> _Chunks:
  """Cuts rows into chunks, padded up to a whole one."""
  b, t, n, p = inputs.x_btnp.shape
  g, r = inputs.b_btgr.shape[2:]
  extra = -t % chunk
  x, dt, b_in, c_out, segment = inputs
  if extra:
    # Padding keeps the last segment's id and dt = 0, so the state passes through it unchanged.
    x = _pad_time(x, extra)
    dt = _pad_time(dt, extra)
    b_in = _pad_time(b_in, extra)
    c_out = _pad_time(c_out, extra)
    segment = jnp.pad(segment, ((0, 0), (0, extra)), mode='edge')
  z = (t + extra) // chunk
  return _Chunks(
    xdt=(x.astype(jnp.float32) * dt[..., None]).reshape(b, z, chunk, g, n // g, p),
    decay=jnp.cumsum((dt * a_n[None, None]).reshape(b, z, chunk, g, n // g), axis=2),
    b_in=b_in.reshape(b, z, chunk, g, r),
    c_out=c_out.reshape(b, z, chunk, g, r),
    segment=segment.reshape(b, z, chunk),
  )


def _pad_time(
  y: Float[Array, 'batch time *rest'], extra: int
) -> Float[Array, 'batch padded_time *rest']:
  """Appends zeros to the second axis."""
  return jnp.pad(y, ((0, 0), (0, extra)) + ((0, 0),) * (y.ndim - 2))


def _within_chunks(
  chunks: _Chunks, dtype: jnp.dtype
) -> Float[Array, 'batch chunks time groups heads head']:
  """Computes what tokens of a chunk give each other; operands have `dtype`."""
  segment = chunks.segment
  length = segment.shape[2]
  causal: Bool[Array, 'time source'] = jnp.tril(jnp.ones((length, length), bool))
  mask = causal[None, None] & (segment[..., :, None] == segment[..., None, :])
  decay = jnp.moveaxis(chunks.decay, 2, -1)  # b z g q t
  difference = decay[..., :, None] - decay[..., None, :]
  # The mask is applied before exp: exp of a masked (positive) difference could overflow and poison
  # the gradient.
  weights = jnp.exp(jnp.where(mask[:, :, None, None], difference, -jnp.inf))
  scores = _product('bztgr,bzsgr->bzgts', chunks.c_out, chunks.b_in)
  weighted = (scores[:, :, :, None] * weights).astype(dtype)
  return _product('bzgqts,bzsgqp->bztgqp', weighted, chunks.xdt.astype(dtype))


def _added(
  chunks: _Chunks, dtype: jnp.dtype
) -> Float[Array, 'batch chunks groups heads head state']:
  """Computes what each chunk adds to the state at its end, from tokens of its last segment."""
  same = (chunks.segment == chunks.segment[..., -1:])[..., None, None]
  to_end = jnp.where(same, jnp.exp(chunks.decay[:, :, -1:] - chunks.decay), 0)
  xdt = (chunks.xdt * to_end[..., None]).astype(dtype)
  return _product('bzsgr,bzsgqp->bzgqpr', chunks.b_in, xdt)


def _between_chunks(
  first: Float[Array, 'batch groups heads head state'],
  keeps: Float[Array, 'batch chunks groups heads'],
  added: Float[Array, 'batch chunks groups heads head state'],
) -> tuple[
  Float[Array, 'batch chunks groups heads head state'],
  Float[Array, 'batch groups heads head state'],
]:
  """Carries the state from chunk to chunk; returns that before each, and that after the last."""
  last, entering = jax.lax.scan(
    _advance, first, (jnp.moveaxis(keeps, 1, 0), jnp.moveaxis(added, 1, 0))
  )
  return jnp.moveaxis(entering, 0, 1), last


def _between_shards(
  first: Float[Array, 'batch groups heads head state'],
  keeps: Float[Array, 'batch chunks groups heads'],
  added: Float[Array, 'batch chunks groups heads head state'],
  shards: int,
) -> tuple[
  Float[Array, 'batch chunks groups heads head state'],
  Float[Array, 'batch groups heads head state'],
]:
  """Does the same where a row's chunks lie on several devices.

  Each carries a state through its own chunks as if it began with none, and only those that come out
  are sent around: one for each device, where one scan over all chunks would send every chunk's.
  """
  b, z = keeps.shape[:2]

  def by_shard(x: jax.Array) -> jax.Array:
    cut = x.reshape(b, shards, z // shards, *x.shape[2:])
    return context.constrain(cut, 'batch', 'length', *[None] * (cut.ndim - 2))

  def advance(carry: tuple[Array, Array], chunk: tuple[Array, Array]):
    state, kept = carry
    return (_advance(state, chunk)[0], kept * chunk[0]), carry

  own_keeps = by_shard(keeps)
  own_added = by_shard(added)
  nothing = (jnp.zeros_like(own_added[:, :, 0]), jnp.ones_like(own_keeps[:, :, 0]))
  (out, kept), (entering, so_far) = jax.lax.scan(
    advance, nothing, (jnp.moveaxis(own_keeps, 2, 0), jnp.moveaxis(own_added, 2, 0))
  )
  from_before, last = _between_chunks(first, kept, out)
  reached = jnp.moveaxis(so_far, 0, 2)[..., None, None] * from_before[:, :, None]
  entering = jnp.moveaxis(entering, 0, 2) + reached
  return entering.reshape(added.shape), last


def _advance(
  state: Float[Array, '*batch groups heads head state'],
  chunk: tuple[Float[Array, '*batch groups heads'], Float[Array, '*batch groups heads head state']],
) -> tuple[Array, Array]:
  """Carries the state over one chunk; the second result is the state before it."""
  keep, add = chunk
  return keep[..., None, None] * state + add, state
