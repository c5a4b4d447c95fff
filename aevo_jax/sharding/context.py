"""The layout in use: what models ask while they are traced. Without one, every function here does nothing."""

import contextlib
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh, PartitionSpec

from aevo_jax.sharding.rules import Layout

# Part of the key of every jitted function: other rules on the same mesh are another program.
_LAYOUT = jax.make_user_context(None)


@contextlib.contextmanager
def use(mesh: Mesh, layout: Layout) -> Iterator[None]:
  """Traces and runs on `mesh` by the layout's rules."""
  with jax.set_mesh(mesh), _LAYOUT(layout):
    yield


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
  """Lays x out by the logical axis of each of its dimensions."""
  layout = _LAYOUT.value
  return x if layout is None else jax.lax.with_sharding_constraint(x, layout.spec(*logical))


def over_experts(local: Callable[..., jax.Array], x_sd: jax.Array, experts_sk: jax.Array, weights_sk: jax.Array, up_edf: jax.Array,
                 down_efd: jax.Array) -> jax.Array:
  """Runs local(x, experts, weights, up, down), the weighted sum of each token's experts, on every device for the experts that it holds.

  XLA's partitioner cannot cut a sort and the loop over its groups, so this is written out. A device sees the tokens of all devices with which it
  shares a batch shard's experts, and its own part of the experts; what they make is summed. Nothing is dropped and shapes are static: there
  are as many rows as if all tokens chose this device's experts, but products of other devices' rows are skipped.

  Args:
    local: an expert's number may be that of no expert, `up.shape[0]`; then it contributes nothing.
    x_sd: s tokens. experts_sk, weights_sk: each token's experts.
  """
  layout = _LAYOUT.value
  if layout is None:
    return local(x_sd, experts_sk, weights_sk, up_edf, down_efd)
  tokens, own = layout.mesh_axes('batch') + layout.mesh_axes('length'), layout.mesh_axes('experts')
  # Where tokens lie along the experts' axes, those tokens are collected; along the width's axes, weights are.
  gathered = tuple(axis for axis in own if axis in tokens)
  width = tuple(axis for axis in layout.mesh_axes('mlp') if axis not in tokens)
  summed = tuple(axis for axis in own if axis not in tokens) + width

  def body(x, experts, weights, up, down):
    x, experts, weights = (jax.lax.all_gather(y, gathered, axis=0, tiled=True) if gathered else y for y in (x, experts, weights))
    here = experts - (jax.lax.axis_index(own) * up.shape[0] if own else 0)
    y = local(x, jax.numpy.where((here >= 0) & (here < up.shape[0]), here, up.shape[0]), weights, up, down)
    y = jax.lax.psum_scatter(y, gathered, scatter_dimension=0, tiled=True) if gathered else y
    return jax.lax.psum(y, summed) if summed else y

  rows = PartitionSpec(tokens or None)
  # Not checked for replication: a custom gradient and a loop's carry would each have to declare along which axes they vary.
  return jax.shard_map(body, in_specs=(rows, rows, rows, PartitionSpec(own or None, None, width or None), PartitionSpec(own or None, width or None)),
                       out_specs=rows, check_vma=False)(x_sd, experts_sk, weights_sk, up_edf, down_efd)
