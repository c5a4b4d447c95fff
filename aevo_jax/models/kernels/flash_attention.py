"""Attention that never holds the scores of all pairs of tokens (FlashAttention-2, 2307.08691).

The kernel is tokamax's for NVIDIA GPUs. A query sees the keys of a span: from the first one of its
segment or window, to itself. So packed rows, sliding windows and continuations of shared prompts
are one case. A partitioner cannot cut a kernel, so that is written out here: rows and heads stay
where they lie, and where the tokens of a row lie on several devices, its keys and values are
collected.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from aevo_jax.models.kernels.platform import target_platform
from aevo_jax.sharding import context

# Stands for the kernel where nothing but shapes is traced. Nobody can bind it.
SHAPES = 'shapes'


class Heads(NamedTuple):
  """queries [b, t, n, h], keys and values [b, s, k, h]."""

  queries: Array
  keys: Array
  values: Array


def chosen(implementation: str, dtype: str, platform: str = '') -> str:
  """Resolves `model.attention_implementation`.

  Args:
    implementation: 'einsum' holds all scores; 'mosaic' is the kernel; 'auto' is the kernel on a GPU
      in bfloat16, for which there is one in both directions, and 'einsum' otherwise.
    dtype: of the computation.
    platform: 'cpu', 'gpu' or 'tpu'; '' is the one that is traced for.

  Returns:
    'einsum', 'mosaic' or `SHAPES`.
  """
  if implementation != 'auto':
    return implementation
  if (platform or target_platform()) == 'gpu' and dtype == 'bfloat16':
    return 'mosaic'
  return 'einsum'


def attend(
  heads: Heads, first_bt: Int[Array, 'batch time'], *, behind: int = 0, implementation: str
) -> Float[Array, 'batch time width']:
  """Computes softmax attention over spans of keys.

  Args:
    heads: each of the k key heads serves n / k query heads.
    first_bt: the first key that each query sees; the last is its own position.
    behind: keys before the first query's own.
    implementation: 'mosaic', or `SHAPES`.

  Returns:
    The mixed values of all heads, side by side.

  Raises:
    ImportError: 'mosaic' without tokamax.
    NotImplementedError: the kernel has not this dtype, these sizes or this device.
  """
  kernel = {'mosaic': _mosaic, SHAPES: _shapes}[implementation]
  b, t, n, h = heads.queries.shape
  layout = context.layout_in_use()
  if layout is None:
    last_bt = jnp.broadcast_to(jnp.arange(t)[None] + behind, first_bt.shape)
    return kernel(heads, first_bt, last_bt).reshape(b, t, n * h)
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
    functools.partial(_of_this_device, kernel, length, behind),
    in_specs=(
      jax.tree.unflatten(jax.tree.structure(repeated), [of_queries, of_keys, of_keys]),
      spans,
    ),
    out_specs=of_queries,
    check_vma=False,  # a kernel does not say along which axes its results vary
  )
  return run(repeated, jnp.broadcast_to(first_bt, (b, t))).reshape(b, t, n * h)


def _of_this_device(kernel, length, behind, heads: Heads, first_bt: jax.Array) -> jax.Array:
  """Attends with the queries that a device holds; keys are all of its rows'."""
  t = first_bt.shape[1]
  start = behind
  if length:
    start = behind + jax.lax.axis_index(length) * t
  last_bt = jnp.broadcast_to(jnp.arange(t)[None] + start, first_bt.shape)
  return kernel(heads, first_bt, last_bt)


def _mosaic(
  heads: Heads, first_bt: Int[Array, 'batch time'], last_bt: Int[Array, 'batch time']
) -> Float[Array, 'batch time heads head']:
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
  mask = base.Mask(k_start=first_bt[:, None], k_end=last_bt[:, None] + 1)
  kernel = api.IMPLEMENTATIONS['mosaic_gpu']
  return kernel(heads.queries, heads.keys, heads.values, mask=mask)


class _Saved(NamedTuple):
  """What a kernel keeps for its gradient: its arguments, its result, and two numbers a query."""

  heads: Heads
  mixed: Array
  normalizers: Array


@jax.custom_vjp
def _shapes(heads: Heads, first_bt: jax.Array, last_bt: jax.Array) -> jax.Array:
  del first_bt, last_bt
  return heads.queries + jnp.sum(heads.keys) + jnp.sum(heads.values)


def _shapes_forward(heads: Heads, first_bt: jax.Array, last_bt: jax.Array):
  mixed = _shapes(heads, first_bt, last_bt)
  normalizers = jnp.stack([mixed[..., 0], mixed[..., 0]]).astype(jnp.float32)
  return mixed, _Saved(heads, mixed, normalizers)


def _shapes_backward(saved: _Saved, g: jax.Array):
  zero = jnp.sum(g + saved.mixed) + jnp.sum(saved.normalizers).astype(g.dtype)
  return jax.tree.map(lambda x: x + zero, saved.heads), None, None


_shapes.defvjp(_shapes_forward, _shapes_backward)
