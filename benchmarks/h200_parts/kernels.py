"""Parts a to c: the device, experts' grouped product, attention."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from h200_parts.timing import attempt, seconds

from aevo_jax.models.kernels import flash_attention
from aevo_jax.models.kernels.flash_attention import Heads
from aevo_jax.models.kernels.grouped_matmul import grouped_matmul
from aevo_jax.models.layers import attention as attention_lib

# Nemotron 3 Nano: 4,096 tokens, each to 6 of 128 experts.
GROUPED = {
  'h200': {'rows': 24576, 'inputs': 2688, 'outputs': 1856, 'groups': 128, 'rank': 32},
  'toy': {'rows': 256, 'inputs': 64, 'outputs': 32, 'groups': 4, 'rank': 8},
}
ATTENTION = {
  'h200': {'batch': 4, 'time': 4096, 'heads': 32, 'kv_heads': 8, 'head': 128},
  'toy': {'batch': 1, 'time': 64, 'heads': 4, 'kv_heads': 2, 'head': 16},
}


def normal(seed: int, shape: tuple[int, ...], dtype: str = 'bfloat16') -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def device(size: str) -> Iterator[dict]:
  """Names the device and measures its two ceilings."""
  one = jax.devices()[0]
  yield {
    'case': 'device',
    'device': one.device_kind,
    'devices': jax.device_count(),
    'jax': jax.__version__,
    'backend': jax.extend.backend.get_backend().platform_version.splitlines()[0],
  }
  side = 8192 if size == 'h200' else 256
  yield from attempt(f'bf16 product of {side}', lambda: product(side))
  count = 2**32 if size == 'h200' else 2**20
  yield from attempt(f'copy of {count * 2 / 2**30:.3g} GiB', lambda: _copy(count))


def product(side: int) -> dict:
  """Speed of a bf16 product of two square matrices."""
  a = normal(0, (side, side))
  b = normal(1, (side, side))
  multiply = jax.jit(jnp.matmul)
  return {'tflops': 2 * side**3 / seconds(lambda: multiply(a, b), calls=20) / 1e12}


def _copy(count: int) -> dict:
  x = jnp.zeros(count, 'bfloat16')
  add = jax.jit(lambda x: x + 1)
  return {'terabytes_per_second': 2 * x.nbytes / seconds(lambda: add(x)) / 1e12}


def grouped(size: str) -> Iterator[dict]:
  """Times the grouped product and its gradient under every implementation."""
  for implementation in ('mosaic', 'tiled', 'ragged_dot'):
    for what in ('forward', 'backward', 'lora'):
      yield from attempt(
        f'{implementation}, {what}',
        lambda i=implementation, w=what: _grouped(i, w, **GROUPED[size]),
      )


def _grouped(
  implementation: str, what: str, rows: int, inputs: int, outputs: int, groups: int, rank: int
) -> dict:
  x = normal(0, (rows, inputs))
  w = normal(1, (groups, inputs, outputs))
  a = normal(2, (groups, inputs, rank))
  # Uneven, as routers are, and not all rows have a group.
  shares = jax.random.dirichlet(jax.random.key(3), jnp.full(groups, 4.0))
  sizes = jnp.floor(shares * (rows - groups)).astype(jnp.int32)

  def forward(x, w):
    return grouped_matmul(x, w, sizes, implementation)

  def loss(x, w):
    return jnp.sum(forward(x, w).astype(jnp.float32))

  products = 1
  weight = w
  run = jax.jit(forward)
  if what == 'backward':
    products = 2
    run = jax.jit(jax.grad(loss, argnums=(0, 1)))
  if what == 'lora':
    weight = a
    products = 3
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  flops = 2 * products * float(sizes.sum()) * weight.shape[1] * weight.shape[2]
  compiled = run.lower(x, weight).compile()
  elapsed = seconds(lambda: compiled(x, weight))
  return {
    'ms': elapsed * 1e3,
    'tflops': flops / elapsed / 1e12,
    'temporary_gib': compiled.memory_analysis().temp_size_in_bytes / 2**30,
  }


def attention(size: str) -> Iterator[dict]:
  """Times causal attention, forward and gradient: all scores, our kernel by spans, cuDNN."""
  for what in ('forward', 'backward'):
    for name, attend in (('einsum', _einsum), ('mosaic', _mosaic), ('cudnn', _cudnn)):
      yield from attempt(
        f'{name}, {what}', lambda a=attend, w=what: _attention(a, w, **ATTENTION[size])
      )


def _einsum(q, k, v):
  visible = attention_lib._visible(q.shape[1], 0)
  return attention_lib._attend(Heads(q, k, v), visible[None])


def _mosaic(q, k, v):
  # Packed: every row has two segments.
  half = q.shape[1] // 2
  first = jnp.broadcast_to(jnp.repeat(jnp.array([0, half]), half), q.shape[:2])
  return flash_attention.attend(Heads(q, k, v), first, implementation='mosaic')


def _cudnn(q, k, v):
  y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation='cudnn')
  return y.reshape(*y.shape[:2], -1)


def _attention(
  attend, what: str, batch: int, time: int, heads: int, kv_heads: int, head: int
) -> dict:
  q = normal(0, (batch, time, heads, head))
  k = normal(1, (batch, time, kv_heads, head))
  v = normal(2, (batch, time, kv_heads, head))
  run = jax.jit(attend)
  products = 2
  if what == 'backward':
    products = 6  # the forward pass too: the gradient of a sum
    gradient = jax.value_and_grad(
      lambda q, k, v: jnp.sum(attend(q, k, v).astype(jnp.float32)), argnums=(0, 1, 2)
    )
    run = jax.jit(gradient)
  compiled = run.lower(q, k, v).compile()
  elapsed = seconds(lambda: compiled(q, k, v))
  flops = products * 2 * batch * heads * head * time * (time + 1) / 2
  return {
    'ms': elapsed * 1e3,
    'tflops': flops / elapsed / 1e12,
    'temporary_gib': compiled.memory_analysis().temp_size_in_bytes / 2**30,
  }
