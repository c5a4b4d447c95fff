"""The layout in use, which models ask for while they are traced.

Without one, every function here does nothing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from aevo_jax.sharding.rules import Layout

Axes = Mapping[str, tuple[str, ...]]  # the logical axes of arrays, by name


class _InUse(NamedTuple):
  """A layout, and the logical axes of every parameter as sorted items, since it is hashed."""

  layout: Layout
  axes: tuple[tuple[str, tuple[str, ...]], ...]


# Part of the key of every jitted function: other rules on the same mesh are another program.
_IN_USE = jax.make_user_context(None)


@contextlib.contextmanager
def use(mesh: Mesh, layout: Layout, axes: Axes) -> Iterator[None]:
  """Traces and runs on a mesh by a layout's rules.

  Args:
    mesh: with the mesh axes of the layout.
    layout: rules that are bound to the mesh's sizes.
    axes: the logical axes of every parameter.

  Yields:
    Nothing; the layout is in use inside the block.
  """
  with jax.set_mesh(mesh), _IN_USE(_InUse(layout, tuple(sorted(axes.items())))):
    yield


def layout_in_use() -> Layout | None:
  """Returns the layout by which arrays lie, or None without a mesh."""
  in_use = _IN_USE.value
  return None if in_use is None else in_use.layout


def reduces_in_float32() -> bool:
  """Tells whether devices sum their parts of a weight's gradient in float32."""
  layout = layout_in_use()
  return layout is not None and layout.gradient_reduction == 'float32'


def cast_weight(x: Shaped[Array, '...'], dtype: jnp.dtype) -> Shaped[Array, '...']:
  """Casts a weight to the dtype of the computation, unless its gradient is to be float32's.

  Args:
    x: the weight.
    dtype: of the activations.

  Returns:
    The weight in that dtype; or as it is, where its gradients are summed in float32. Layers then
    cast it where they use it, and give it a gradient of its own dtype.
  """
  return x if reduces_in_float32() else x.astype(dtype)


def constrain(x: Shaped[Array, '...'], *logical: str | None) -> Shaped[Array, '...']:
  """Lays an array out by the layout in use.

  Args:
    x: the array.
    *logical: the logical axis of each of its dimensions; None is replicated.

  Returns:
    The same numbers.
  """
  in_use = _IN_USE.value
  if in_use is None:
    return x
  return jax.lax.with_sharding_constraint(x, in_use.layout.spec(*logical))


def constrain_parameters(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Lays out by name what has the parameters' shapes, such as gradients.

  Left alone, XLA keeps many gradients whole on every device until their norm is known.

  Args:
    values: one array for each of some parameters.

  Returns:
    The same numbers.
  """
  in_use = _IN_USE.value
  if in_use is None:
    return values
  axes = dict(in_use.axes)
  constrained = {}
  for name, value in values.items():
    constrained[name] = constrain(value, *axes[name])
  return constrained


def gather_weight(x: Shaped[Array, '...'], *logical: str) -> Shaped[Array, '...']:
  """Lays a weight out as rows are multiplied with it: cut only along mesh axes without rows.

  A loop whose body multiplies with the result gathers nothing, where one that multiplies with the
  weight itself gathers it in every turn. The gradient lies as the weight does.

  Args:
    x: the weight.
    *logical: the logical axis of each of its dimensions.

  Returns:
    The same numbers.
  """
  in_use = _IN_USE.value
  if in_use is None:
    return x
  return _gathered(in_use.layout, logical, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(layout: Layout, logical: tuple[str, ...], x: jax.Array) -> jax.Array:
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  entries = []
  for name in logical:
    axes = tuple(axis for axis in layout.mesh_axes(name) if axis not in token_axes)
    entries.append(axes or None)
  # Both: a cast before it would otherwise be of the gathered weight, and the gather of more bytes.
  x = jax.lax.with_sharding_constraint(x, layout.spec(*logical))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def _gathered_forward(
  layout: Layout, logical: tuple[str, ...], x: jax.Array
) -> tuple[jax.Array, None]:
  return _gathered(layout, logical, x), None


def _gathered_backward(
  layout: Layout, logical: tuple[str, ...], _: None, gradient: jax.Array
) -> tuple[jax.Array]:
  return (jax.lax.with_sharding_constraint(gradient, layout.spec(*logical)),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


class ExpertTokens(NamedTuple):
  """s tokens and the k experts of each.

  Attributes:
    x_sd: activations.
    experts_sk: experts by number; their count stands for no expert.
    weights_sk: the weights of the experts' outputs.
  """

  x_sd: Float[Array, 'tokens width']
  experts_sk: Int[Array, 'tokens chosen']
  weights_sk: Float[Array, 'tokens chosen']


# The weighted sum of each token's experts, from the tokens and the experts' arrays by name.
ExpertSum = Callable[[ExpertTokens, dict[str, jax.Array]], jax.Array]


def over_experts(
  local: ExpertSum, tokens: ExpertTokens, stacked: dict[str, jax.Array], axes: Axes
) -> Float[Array, 'tokens width']:
  """Runs `local` on every device for the experts that it holds, and sums the results.

  XLA's partitioner cannot cut a sort and the loop over its groups, so this is written out. A device
  sees the tokens of all devices with which it shares a batch shard's experts, and its part of the
  experts; what they make is summed. Nothing is dropped and shapes are static: there are as many
  rows as if all tokens chose this device's experts, but products of other devices' rows are
  skipped.

  Args:
    local: linear in its result's parts, so that they may be summed. An expert's number may be that
      of no expert, their count; then it contributes nothing.
    tokens: the tokens of all devices.
    stacked: the experts' arrays by name, [e, ...].
    axes: the logical axes of each, 'experts' first.

  Returns:
    The weighted sum of each token's experts.
  """
  if _IN_USE.value is None:
    return local(tokens, stacked)
  layout = _IN_USE.value.layout
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  body = functools.partial(_of_this_device, local, layout, token_axes, axes)
  # Weights are gathered again for the backward pass: kept, those of all blocks would lie whole on
  # every device.
  body = jax.checkpoint(
    body, policy=jax.checkpoint_policies.save_anything_except_these_names('gathered')
  )
  rows = PartitionSpec(token_axes or None)
  specs = {name: layout.spec(*axes[name]) for name in stacked}
  # Not checked for replication: a custom gradient and a loop's carry would each have to declare
  # along which axes they vary.
  run = jax.shard_map(
    body,
    in_specs=(ExpertTokens(rows, rows, rows), specs),
    out_specs=rows,
    check_vma=False,
  )
  return run(tokens, stacked)


def _of_this_device(
  local: ExpertSum,
  layout: Layout,
  token_axes: tuple[str, ...],
  axes: Axes,
  tokens: ExpertTokens,
  stacked: dict[str, jax.Array],
) -> jax.Array:
  """Computes one device's part of `over_experts`; arrays are this device's."""
  expert_axes = layout.mesh_axes('experts')
  mlp_axes = layout.mesh_axes('mlp')
  # Where tokens lie along the experts' axes, those tokens are collected; along the width's axes,
  # weights are.
  collected = _among(expert_axes, token_axes)
  summed = tuple(axis for axis in expert_axes + mlp_axes if axis not in token_axes)
  gathered = {}
  for name, value in stacked.items():
    gathered[name] = _gathered_weight(value, axes[name], layout, tokens.x_sd.dtype)
  x = _gather(tokens.x_sd, collected, 0)
  experts = _gather(tokens.experts_sk, collected, 0)
  weights = _gather(tokens.weights_sk, collected, 0)
  count = next(iter(gathered.values())).shape[0]
  first = 0
  if expert_axes:
    first = jax.lax.axis_index(expert_axes) * count
  local_experts = experts - first
  is_local = (local_experts >= 0) & (local_experts < count)
  local_tokens = ExpertTokens(x, jnp.where(is_local, local_experts, count), weights)
  y = local(local_tokens, gathered)
  if collected:
    y = jax.lax.psum_scatter(y, collected, scatter_dimension=0, tiled=True)
  if summed:
    y = jax.lax.psum(y, summed)
  return y


def _among(axes: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
  """Returns those axes that are among the others."""
  return tuple(axis for axis in axes if axis in others)


def _gather(x: jax.Array, mesh_axes: tuple[str, ...], dimension: int) -> jax.Array:
  """Collects the parts of `dimension` that lie along some mesh axes."""
  if not mesh_axes:
    return x
  if dimension == 0:
    return jax.lax.all_gather(x, mesh_axes, tiled=True)
  # Parts one behind the other in memory, then put in order. Collected in order, XLA's GPU compiler
  # first transposes, and where layers are scanned it keeps such a copy of all of them.
  parts = jnp.moveaxis(jax.lax.all_gather(x, mesh_axes), 0, dimension)
  return parts.reshape(*x.shape[:dimension], -1, *x.shape[dimension + 1 :])


def _gathered_weight(
  x: jax.Array, logical_axes: tuple[str, ...], layout: Layout, dtype: jnp.dtype
) -> jax.Array:
  """Collects a weight of this device's experts, in the dtype of the activations.

  Only the part of its width that belongs to this device alone is left out.
  """
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  parts = []
  for dimension, logical in enumerate(logical_axes[1:], start=1):
    mesh_axes = layout.mesh_axes(logical)
    if logical == 'mlp':
      mesh_axes = _among(mesh_axes, token_axes)
    if mesh_axes:
      parts.append((dimension, mesh_axes))
  if x.dtype == dtype:
    x = _collect(x, parts)
  else:
    x = _cast_and_collected(tuple(parts), jax.ShapeDtypeStruct(x.shape, x.dtype), dtype, x)
  return ad_checkpoint.checkpoint_name(x, 'gathered')


_Parts = Sequence[tuple[int, tuple[str, ...]]]  # dimensions, and along which mesh axes they are cut


def _collect(x: jax.Array, parts: _Parts) -> jax.Array:
  for dimension, mesh_axes in parts:
    x = _gather(x, mesh_axes, dimension)
  return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _cast_and_collected(
  parts: _Parts, stored: jax.ShapeDtypeStruct, dtype: jnp.dtype, x: jax.Array
) -> jax.Array:
  """Sends a weight in one dtype, and its gradient back in the one that it is stored in."""
  del stored
  return _collect(x.astype(dtype), parts)


def _cast_and_collected_forward(
  parts: _Parts, stored: jax.ShapeDtypeStruct, dtype: jnp.dtype, x: jax.Array
) -> tuple[jax.Array, None]:
  return _cast_and_collected(parts, stored, dtype, x), None


def _cast_and_collected_backward(
  parts: _Parts, stored: jax.ShapeDtypeStruct, dtype: jnp.dtype, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
  del dtype
  transposed = jax.linear_transpose(functools.partial(_collect, parts=parts), stored)
  return transposed(gradient.astype(stored.dtype))


_cast_and_collected.defvjp(_cast_and_collected_forward, _cast_and_collected_backward)
