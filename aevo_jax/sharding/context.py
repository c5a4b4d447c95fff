"""The layout in use: what models ask while they are traced. Without one, every function here does
nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jax.sharding import Mesh, PartitionSpec

from aevo_jax.sharding.rules import Layout


class _InUse(NamedTuple):
  layout: Layout
  axes: tuple[tuple[str, tuple[str, ...]], ...]


# Part of the key of every jitted function: other rules on the same mesh are another program.
_IN_USE = jax.make_user_context(None)


@contextlib.contextmanager
def use(mesh: Mesh, layout: Layout, axes: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
  """Traces and runs on `mesh` by the layout's rules; `axes` are the logical axes of every
  parameter.
  """
  with jax.set_mesh(mesh), _IN_USE(_InUse(layout, tuple(sorted(axes.items())))):
    yield


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
  """Lays x out by the logical axis of each of its dimensions."""
  in_use = _IN_USE.value
  return x if in_use is None else jax.lax.with_sharding_constraint(x, in_use.layout.spec(*logical))


def constrain_parameters(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Lays out by name what has the parameters' shapes, e.g. gradients: left alone, XLA keeps many of
  them whole until their norm is known.
  """
  in_use = _IN_USE.value
  if in_use is None:
    return values
  axes = dict(in_use.axes)
  return {name: constrain(value, *axes[name]) for name, value in values.items()}


def over_experts(
  local: Callable[..., jax.Array],
  x_sd: jax.Array,
  experts_sk: jax.Array,
  weights_sk: jax.Array,
  stacked: dict[str, jax.Array],
  axes: dict[str, tuple[str, ...]],
) -> jax.Array:
  """Runs local(x, experts, weights, stacked), the weighted sum of each token's experts, on every
  device for the experts that it holds.

  XLA's partitioner cannot cut a sort and the loop over its groups, so this is written out. A device
  sees the tokens of all devices with which it shares a batch shard's experts, and its own part of
  the experts; what they make is summed. Nothing is dropped and shapes are static: there are as many
  rows as if all tokens chose this device's experts, but products of other devices' rows are
  skipped.

  Args:
    local: linear in its result's parts, so that they may be summed. An expert's number may be that
      of no expert, their count; then it contributes nothing.
    x_sd: s tokens. experts_sk, weights_sk: each token's experts.
    stacked: the experts' arrays by name, [e, ...]. axes: the logical axes of each, 'experts' first.
  """
  if _IN_USE.value is None:
    return local(x_sd, experts_sk, weights_sk, stacked)
  layout = _IN_USE.value.layout
  tokens, own, mlp = (
    layout.mesh_axes('batch') + layout.mesh_axes('length'),
    layout.mesh_axes('experts'),
    layout.mesh_axes('mlp'),
  )
  # Where tokens lie along the experts' axes, those tokens are collected; along the width's axes,
  # weights are.
  collected = tuple(axis for axis in own if axis in tokens)
  summed = tuple(axis for axis in own + mlp if axis not in tokens)

  def gather(x, mesh_axes, dimension):
    return jax.lax.all_gather(x, mesh_axes, axis=dimension, tiled=True) if mesh_axes else x

  def whole(name, x):
    """A weight of this device's experts, but for the part of its width that is this device's alone."""
    for dimension, logical in enumerate(axes[name][1:], start=1):
      x = gather(
        x,
        tuple(axis for axis in layout.mesh_axes(logical) if logical != 'mlp' or axis in tokens),
        dimension,
      )
    return ad_checkpoint.checkpoint_name(x, 'gathered')

  def body(x, experts, weights, stacked):
    stacked = {name: whole(name, value) for name, value in stacked.items()}
    x, experts, weights = (gather(y, collected, 0) for y in (x, experts, weights))
    count = next(iter(stacked.values())).shape[0]
    here = experts - (jax.lax.axis_index(own) * count if own else 0)
    y = local(x, jnp.where((here >= 0) & (here < count), here, count), weights, stacked)
    y = jax.lax.psum_scatter(y, collected, scatter_dimension=0, tiled=True) if collected else y
    return jax.lax.psum(y, summed) if summed else y

  # Weights are gathered again for the backward pass: kept, those of all blocks would lie whole on
  # every device.
  body = jax.checkpoint(
    body, policy=jax.checkpoint_policies.save_anything_except_these_names('gathered')
  )
  rows = PartitionSpec(tokens or None)
  # Not checked for replication: a custom gradient and a loop's carry would each have to declare
  # along which axes they vary.
  return jax.shard_map(
    body,
    in_specs=(rows, rows, rows, {name: layout.spec(*axes[name]) for name in stacked}),
    out_specs=rows,
    check_vma=False,
  )(x_sd, experts_sk, weights_sk, stacked)
