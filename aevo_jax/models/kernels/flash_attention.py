"""Attention that never holds the scores of all pairs of tokens (FlashAttention-2, 2307.08691).

The kernels are tokamax's for NVIDIA GPUs and JAX's splash attention for TPUs. A query sees the keys
of a span: from the first one of its segment or window, to itself. So packed rows, sliding windows
and continuations of shared prompts are one case. A partitioner cannot cut a kernel, so that is
written out here: rows and heads stay where they lie, and where the tokens of a row lie on several
devices, its keys and values are collected.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from aevo_jax.models.kernels.platform import target_platform
from aevo_jax.sharding import context

_LANES = 128  # of a TPU: a tile's width
_LARGEST_TILE = 512

# Stands for the kernel where nothing but shapes is traced. Nobody can bind it.
SHAPES = 'shapes'


class Heads(NamedTuple):
  """queries [b, t, n, h], keys and values [b, s, k, h]."""

  queries: Array
  keys: Array
  values: Array


class Spans(NamedTuple):
  """Which keys queries see: from the later of begin and own - window + 1, to their own.

  Attributes:
    begin_bt: the first key of each query's segment. Where there are keys behind, one for a row.
    window: keys that a query sees at most; 0 is all.
    behind: keys before the first query's own, [] int32 where it depends on the device.
  """

  begin_bt: Int[Array, 'batch time']
  window: int
  behind: int | Int[Array, '']


def chosen(
  implementation: str,
  dtype: str,
  *,
  head_dim: int,
  length: int,
  whole: bool,
  platform: str = '',
) -> str:
  """Resolves `model.attention_implementation`.

  Args:
    implementation: 'einsum' holds all scores; 'mosaic' is the kernel for GPUs; 'splash' that for
      TPUs. 'auto' is 'mosaic' on a GPU in bfloat16, for which there is one in both directions, and
      'splash' on a TPU for whole rows in tiles of 128; otherwise 'einsum'.
    dtype: of the computation.
    head_dim: width of a head.
    length: tokens of a row.
    whole: whether a row's tokens lie on one device.
    platform: 'cpu', 'gpu' or 'tpu'; '' is the one that is traced for.

  Returns:
    'einsum', 'mosaic', 'splash' or `SHAPES`.
  """
  if implementation != 'auto':
    return implementation
  platform = platform or target_platform()
  if platform == 'gpu' and dtype == 'bfloat16':
    return 'mosaic'
  if platform == 'tpu' and whole and head_dim % _LANES == 0 and length % _LANES == 0:
    return 'splash'
  return 'einsum'


def attend(
  heads: Heads,
  begin_bt: Int[Array, '#batch time'],
  *,
  window: int = 0,
  behind: int = 0,
  implementation: str,
) -> Float[Array, 'batch time width']:
  """Computes softmax attention over spans of keys.

  Args:
    heads: each of the k key heads serves n / k query heads.
    begin_bt: the first key of each query's segment; the last that it sees is its own position.
      With keys behind, all queries of a row have the same.
    window: keys that a query sees at most; 0 is all of its segment's.
    behind: keys before the first query's own.
    implementation: 'mosaic', 'splash', or `SHAPES`.

  Returns:
    The mixed values of all heads, side by side.

  Raises:
    ImportError: 'mosaic' without tokamax.
    NotImplementedError: the kernel has not this dtype, these sizes or this device.
  """
  kernel = {'mosaic': _mosaic, 'splash': _splash, SHAPES: _shapes}[implementation]
  b, t, n, h = heads.queries.shape
  begin_bt = jnp.broadcast_to(begin_bt, (b, t))
  layout = context.layout_in_use()
  if layout is None:
    return kernel(heads, Spans(begin_bt, window, behind)).reshape(b, t, n * h)
  rows = layout.mesh_axes('batch')
  length = layout.mesh_axes('length')
  cut = tuple(axis for axis in layout.mesh_axes('heads') if axis not in rows + length)
  sizes = dict(layout.sizes)
  parts = math.prod(sizes[axis] for axis in cut)
  k = heads.keys.shape[2]
  # Every device needs whole key heads for its query heads.
  repeats = math.lcm(k, parts) // k
  repeated = Heads(
    heads.queries,
    jnp.repeat(heads.keys, repeats, axis=2),
    jnp.repeat(heads.values, repeats, axis=2),
  )
  of_queries = PartitionSpec(rows or None, length or None, cut or None, None)
  of_keys = PartitionSpec(rows or None, None, cut or None, None)
  spans = PartitionSpec(rows or None, length or None)
  run = jax.shard_map(
    functools.partial(_of_this_device, kernel, length, window, behind),
    in_specs=(
      jax.tree.unflatten(jax.tree.structure(repeated), [of_queries, of_keys, of_keys]),
      spans,
    ),
    out_specs=of_queries,
    check_vma=False,  # a kernel does not say along which axes its results vary
  )
  return run(repeated, begin_bt).reshape(b, t, n * h)


def _of_this_device(kernel, length, window, behind, heads: Heads, begin_bt: jax.Array) -> jax.Array:
  """Attends with the queries that a device holds; keys are all of its rows'."""
  if length:
    behind = behind + jax.lax.axis_index(length) * begin_bt.shape[1]
  return kernel(heads, Spans(begin_bt, window, behind))


def _mosaic(heads: Heads, spans: Spans) -> Float[Array, 'batch time heads head']:
  own = jnp.arange(spans.begin_bt.shape[1])[None] + spans.behind
  first_bt = spans.begin_bt
  if spans.window:
    first_bt = jnp.maximum(first_bt, own - spans.window + 1)
  try:
    # The public function takes a mask of all pairs alone.
    from tokamax._src.ops.attention import (  # pyrefly: ignore[missing-import]  # noqa: PLC0415
      api,
      base,
    )
  except ImportError as error:
    raise ImportError(
      "model.attention_implementation = 'mosaic' (what 'auto' is on a GPU in bfloat16) needs "
      f"tokamax: install aevo-jax[kernels], or bind 'einsum' ({error})"
    ) from error
  end_bt = jnp.broadcast_to(own + 1, first_bt.shape)
  return _by_kernel(api.IMPLEMENTATIONS['mosaic_gpu'], base.Mask, heads, first_bt, end_bt)


# Traced and lowered once for all blocks with the same sizes.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _by_kernel(
  kernel: Callable[..., jax.Array],
  mask: Callable[..., Any],
  heads: Heads,
  first_bt: Int[Array, 'batch time'],
  end_bt: Int[Array, 'batch time'],
) -> Float[Array, 'batch time heads head']:
  """Calls a kernel of tokamax with its class of masks."""
  spans = mask(k_start=first_bt[:, None], k_end=end_bt[:, None])
  return kernel(heads.queries, heads.keys, heads.values, mask=spans)


def _splash(heads: Heads, spans: Spans) -> Float[Array, 'batch time heads head']:
  """Attends by JAX's kernel for TPUs, whose segments have numbers: here, where they begin."""
  _, t, n, h = heads.queries.shape
  s = heads.keys.shape[1]
  if h % _LANES or t % _LANES or s % _LANES or not isinstance(spans.behind, int):
    raise NotImplementedError(
      f"model.attention_implementation = 'splash' has no kernel for heads of {h}, {t} queries and "
      f'{s} keys: it takes multiples of {_LANES}, and rows that lie whole on a device; bind '
      "'einsum'"
    )
  # A second to import.
  from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: PLC0415
    splash_attention_kernel,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: PLC0415
    splash_attention_mask as masks,
  )

  of_one = (
    masks.LocalMask((t, s), (spans.window - 1, 0), spans.behind)
    if spans.window
    else masks.CausalMask((t, s), spans.behind)
  )
  q_tile = math.gcd(t, _LARGEST_TILE)
  k_tile = math.gcd(s, _LARGEST_TILE)
  kernel = splash_attention_kernel.make_splash_mha(
    masks.MultiHeadMask([of_one] * n),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=splash_attention_kernel.BlockSizes(
      block_q=q_tile,
      block_kv=k_tile,
      block_q_dkv=q_tile,
      block_kv_dkv=k_tile,
      block_q_dq=q_tile,
      block_kv_dq=k_tile,
    ),
    interpret=target_platform() == 'cpu',
  )
  of_queries = spans.begin_bt
  of_keys = of_queries
  if spans.behind:
    of_queries = jnp.ones_like(spans.begin_bt)
    of_keys = (jnp.arange(s)[None] >= spans.begin_bt[:, :1]).astype(jnp.int32)
  segments = splash_attention_kernel.SegmentIds(of_queries, of_keys)
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in heads)
  mixed: Any = jax.vmap(kernel)(q / math.sqrt(h), k, v, segments)
  return jnp.swapaxes(mixed, 1, 2)


class _Saved(NamedTuple):
  """What a kernel keeps for its gradient: its arguments, its result, and two numbers a query."""

  heads: Heads
  mixed: Array
  normalizers: Array


def _shapes(heads: Heads, spans: Spans) -> jax.Array:
  del spans
  return _shapes_of(heads)


@jax.custom_vjp
def _shapes_of(heads: Heads) -> jax.Array:
  return heads.queries + jnp.sum(heads.keys) + jnp.sum(heads.values)


def _shapes_forward(heads: Heads):
  mixed = _shapes_of(heads)
  normalizers = jnp.stack([mixed[..., 0], mixed[..., 0]]).astype(jnp.float32)
  return mixed, _Saved(heads, mixed, normalizers)


def _shapes_backward(saved: _Saved, g: jax.Array):
  zero = jnp.sum(g + saved.mixed) + jnp.sum(saved.normalizers).astype(g.dtype)
  return (jax.tree.map(lambda x: x + zero, saved.heads),)


_shapes_of.defvjp(_shapes_forward, _shapes_backward)
