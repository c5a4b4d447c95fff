"""`sharding.gradient_reduction`, on a mesh of one device: which gradients are rounded.

test_equality.py reads from the partitioned program in which dtype several devices sum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aevo_jax.models.layers.causal_conv import causal_conv
from aevo_jax.models.layers.linear import Linear
from aevo_jax.sharding import context
from aevo_jax.sharding.mesh import MeshConfig, create
from aevo_jax.sharding.rules import Sharding


def use(reduction: str):
  mesh = create(MeshConfig({'fsdp': 1}), jax.devices()[:1])
  rules = Sharding({'batch': 'fsdp'}, gradient_reduction=reduction)
  return context.use(mesh, rules.bind({'fsdp': 1}), {})


def draw(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


def error(found, expected) -> float:
  expected = np.asarray(expected, np.float64)
  return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(('reduction', 'low', 'high'), [('compute', 1e-4, 1), ('float32', 0, 1e-6)])
def test_a_linear_maps_gradients(reduction, low, high):
  x, g = draw((4, 8, 16), (4, 8, 16))
  layer = Linear(16, 16, ('embed', 'mlp'), rngs=nnx.Rngs(params=0), bias=True)
  graph, params = nnx.split(layer)

  def loss(params, x):
    return jnp.sum((nnx.merge(graph, params)(x) * g).astype(jnp.float32))

  with use(reduction):
    # Not jitted: CPUs' compiler would leave roundings out.
    gradients, by_x = jax.grad(loss, (0, 1))(params, x)
  rows, outputs = (np.asarray(value, np.float64).reshape(-1, 16) for value in (x, g))
  assert low <= error(gradients['kernel'][...], rows.T @ outputs) <= high
  assert low <= error(gradients['bias'][...], outputs.sum(0)) <= high
  # Activations are rounded either way.
  kernel = np.asarray(jnp.asarray(layer.kernel[...], jnp.bfloat16), np.float64)
  assert 1e-4 < error(by_x.reshape(-1, 16), outputs @ kernel.T) < 1e-2


def test_a_convolutions_gradients():
  x, g, kernel = draw((2, 16, 4), (2, 16, 4), (3, 4))
  ids = jnp.ones((2, 16), jnp.int32)

  def loss(kernel, dtype):
    weights = context.cast_weight(kernel, dtype)
    y = causal_conv(x.astype(dtype), weights, context.cast_weight(kernel[0], dtype), ids)
    return jnp.sum((y * g.astype(dtype)).astype(jnp.float32))

  expected = jax.grad(loss)(kernel.astype(jnp.float32), jnp.float32)
  with use('float32'):
    found = jax.grad(loss)(kernel.astype(jnp.float32), jnp.bfloat16)
  assert found.dtype == jnp.float32
  # Products of bfloat16 are rounded before they are summed, each by 2^-9 of itself at most.
  assert error(found, expected) < 2**-9


def test_an_unknown_reduction_is_refused():
  with pytest.raises(ValueError, match='gradient_reduction'):
    Sharding({}, gradient_reduction='float16')
