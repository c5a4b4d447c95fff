"""What a training step must send by its layout, from shapes and rules alone.

Every mesh of as many devices does the same useful products on each, so what orders meshes that fit
is what they send. Compilers send more than this (they gather a head again, or move what a rule
leaves open); it chooses what to compile, and the compiler's own count stands in the table.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from aevo_jax.analysis.hardware import Hardware
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.placement import ModelShapes
from aevo_jax.training.recipe.recipe import Recipe

# The logical axis along which a tensor mesh cuts the products of a block, by its kind.
_WIDTHS = {'*': 'heads', '-': 'mlp', 'M': 'mamba_inner', 'E': 'mlp'}
_GRADIENT_BYTES = 4


class Sent(NamedTuple):
  """What a device sends in a step, by the ring algorithm.

  Attributes:
    what: is sent.
    axes: of the mesh, along which devices exchange it.
    size: in bytes.
  """

  what: str
  axes: tuple[str, ...]
  size: float


def sent(config: ModelConfig, recipe: Recipe, model: ModelShapes, layout: Layout) -> list[Sent]:
  """Lists what a device sends in a step.

  Args:
    config: of the model.
    recipe: rows, row length and microbatches.
    model: shapes of its parameters.
    layout: rules on a mesh.

  Returns:
    Weights that are gathered for the forward and the backward pass, gradients, and activations that
    devices exchange within blocks.
  """
  found = _weights(config, recipe, model, layout) + _activations(config, recipe, layout)
  return [one for one in found if one.size]


def seconds(listed: Sequence[Sent], hardware: Hardware, mesh: Mapping[str, int]) -> float:
  """Adds up how long sending takes at least.

  Args:
    listed: of `sent`.
    hardware: its links; between hosts they are slower.
    mesh: {axis: size}.

  Returns:
    Seconds of a step.
  """
  total = 0.0
  for one in listed:
    speed = hardware.network_gb_s
    if hardware.is_within_host(one.axes, mesh):
      speed = hardware.link_gb_s
    total += one.size / (speed * 1e9)
  return total


def _parts(sizes: Mapping[str, int], axes: Sequence[str]) -> int:
  return math.prod(sizes[axis] for axis in axes)


def _ring(parts: int) -> float:
  """Returns the share of a whole array that a device sends to gather or to scatter it."""
  return 1 - 1 / parts


def _weights(config: ModelConfig, recipe: Recipe, model: ModelShapes, layout: Layout) -> list[Sent]:
  """Lists gathered weights and reduced gradients.

  A weight is gathered along the axes that cut rows or positions, except that experts stay where
  they are.
  """
  sizes = dict(layout.sizes)
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  itemsize = jnp.dtype(config.compute_dtype).itemsize
  found: dict[tuple[str, tuple[str, ...]], float] = {}
  for name, shape in (model.trained | model.frozen).items():
    numbers = math.prod(shape.shape)
    gathered: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    for logical in model.axes[name]:
      axes = layout.mesh_axes(logical)
      cut += axes
      if logical == 'experts':
        numbers //= _parts(sizes, axes)
        continue
      gathered += tuple(axis for axis in axes if axis in token_axes)
      numbers //= _parts(sizes, [axis for axis in axes if axis not in token_axes])
    share = _ring(_parts(sizes, gathered))
    passes = 2 * recipe.train.microbatches
    _add(found, 'weights', gathered, numbers * itemsize * share * passes)
    if name in model.trained:
      _add(found, 'gradients', gathered, numbers * _GRADIENT_BYTES * share)
      copies = tuple(axis for axis in token_axes if axis not in cut)
      held = numbers / _parts(sizes, gathered) * _GRADIENT_BYTES
      _add(found, 'gradients', copies, 2 * held * _ring(_parts(sizes, copies)))
  return [Sent(what, axes, size) for (what, axes), size in found.items()]


def _add(
  found: dict[tuple[str, tuple[str, ...]], float], what: str, axes: tuple[str, ...], size: float
) -> None:
  found[what, axes] = found.get((what, axes), 0.0) + size


def _activations(config: ModelConfig, recipe: Recipe, layout: Layout) -> list[Sent]:
  """Lists what blocks exchange: sums of a tensor mesh, keys and values, tokens of experts."""
  sizes = dict(layout.sizes)
  rows = recipe.train.batch_rows / layout.shards('batch')
  positions = recipe.train.row_length / layout.shards('length')
  itemsize = jnp.dtype(config.compute_dtype).itemsize
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  stream = rows * positions * config.hidden_size * itemsize
  found: dict[tuple[str, tuple[str, ...]], float] = {}
  for kind in config.pattern:
    width = tuple(axis for axis in layout.mesh_axes(_WIDTHS[kind]) if axis not in token_axes)
    # An output is summed in the forward pass, the gradient of an input in the backward pass, each
    # as one scatter and one gather.
    _add(found, 'sums', width, 4 * stream * _ring(_parts(sizes, width)))
    if kind == '*':
      along = layout.mesh_axes('length')
      keys = rows * recipe.train.row_length * config.num_key_value_heads * config.head_dim
      both = 2 * keys * itemsize / max(1, _parts(sizes, width))
      # Gathered twice, for the forward pass and again when the block is computed again; their
      # gradients are scattered.
      _add(found, 'keys and values', along, 3 * both * _ring(_parts(sizes, along)))
    if kind == 'E':
      experts = tuple(axis for axis in layout.mesh_axes('experts') if axis in token_axes)
      parts = _parts(sizes, experts)
      # Tokens come and results go back, in the forward pass, computed again, and backward.
      _add(found, 'tokens of experts', experts, 6 * stream * parts * _ring(parts))
  return [Sent(what, axes, size) for (what, axes), size in found.items()]
