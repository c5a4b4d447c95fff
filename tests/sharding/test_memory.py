"""Bytes per device and bytes kept for the backward pass, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from aevo_jax.models import remat
from aevo_jax.sharding.memory import device_bytes, kept_bytes

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = {
  'up': jax.ShapeDtypeStruct((8, 16), jnp.float32),
  'down': jax.ShapeDtypeStruct((16, 8), jnp.float32),
}


def test_device_bytes():
  shapes = {
    'a': jax.ShapeDtypeStruct((8, 12), jnp.bfloat16),
    'b': jax.ShapeDtypeStruct((6,), jnp.float32),
    'c': jax.ShapeDtypeStruct((), jnp.int32),
  }
  specs = {'a': P('fsdp', ('x', 'y')), 'b': P(None), 'c': P()}
  assert device_bytes(shapes, specs, {'fsdp': 4, 'x': 3, 'y': 2}) == 8 * 12 * 2 // 24 + 6 * 4 + 4


@pytest.mark.parametrize(
  ('policy', 'kept'),
  [
    ('none', 2 * 4 * 16 * 4),  # sin's argument or cosine, and what down is multiplied with
    ('dots', 4 * 16 * 4 + 4 * 8 * 4),  # the two products' outputs
    ('block', 0),
  ],
)
def test_what_a_policy_keeps(policy, kept):
  """sin(x up) down: neither x nor weights count."""
  found = kept_bytes(
    remat.apply(policy, lambda frozen, w, x: jnp.sin(x @ w['up']) @ w['down']), {}, W, X
  )
  # The last product's output is no one's residual, and whether it is listed is JAX's choice.
  assert found in (kept, kept - 4 * 8 * 4) if policy == 'dots' else found == kept


def test_copies_of_weights_do_not_count():
  def cast(frozen, w, x):
    return (x.astype(jnp.bfloat16) @ w['up'].astype(jnp.bfloat16)).astype(jnp.float32)

  assert (
    kept_bytes(cast, {}, W, X) == 4 * 8 * 2
  )  # x in bfloat16; not the copy of the weight, 8 x 16 x 2
