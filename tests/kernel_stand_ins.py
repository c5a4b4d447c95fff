"""What tokamax's kernels compute on a GPU, in JAX and for any device, so that what surrounds them
can be seen on a CPU. `install` puts it in the package's place.
"""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp


def ragged_dot(x, w, *, group_sizes, implementation):
  """Leaves rows behind the last group as memory was, in the products and in the gradient. Widths
  beyond a tile are whole tiles.
  """
  assert implementation == 'mosaic'
  assert all(width < 64 or width % 64 == 0 for width in w.shape[1:]), w.shape
  return _multiply(x, w, group_sizes)


def _spoilt(y, sizes):
  return jnp.where((jnp.arange(len(y)) < sizes.sum())[:, None], y, jnp.nan)


@jax.custom_vjp
def _multiply(x, w, sizes):
  return _spoilt(jax.lax.ragged_dot(x, w, sizes), sizes)


def _backward(saved, g):
  x, w, sizes = saved
  dx, dw = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w)[1](g)
  return _spoilt(dx, sizes), dw, None


_multiply.defvjp(lambda x, w, sizes: (_multiply(x, w, sizes), (x, w, sizes)), _backward)


@dataclasses.dataclass
class Mask:
  """Query i of head n sees the keys from k_start to k_end - 1; [b, heads or 1, t] both."""

  k_start: jax.Array
  k_end: jax.Array


def attention(q, k, v, *, mask):
  """Attends to spans of keys."""
  keys = jnp.arange(k.shape[1])[None, None, None]
  seen = (keys >= mask.k_start[..., None]) & (keys < mask.k_end[..., None])
  group = q.shape[2] // k.shape[2]
  scores = jnp.einsum('btnh,bsnh->bnts', q, jnp.repeat(k, group, axis=2)) / q.shape[-1] ** 0.5
  probs = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
  return jnp.einsum('bnts,bsnh->btnh', probs, jnp.repeat(v, group, axis=2))


def modules() -> dict[str, types.SimpleNamespace]:
  """The modules of tokamax that the package imports, by name."""
  api = types.SimpleNamespace(IMPLEMENTATIONS={'mosaic_gpu': attention})
  inner = types.SimpleNamespace(api=api, base=types.SimpleNamespace(Mask=Mask))
  return {
    'tokamax': types.SimpleNamespace(ragged_dot=ragged_dot),
    'tokamax._src': types.SimpleNamespace(),
    'tokamax._src.ops': types.SimpleNamespace(attention=inner),
    'tokamax._src.ops.attention': inner,
  }


def install() -> None:
  """Puts the stand-ins in tokamax's place, in this process."""
  sys.modules.update(modules())
