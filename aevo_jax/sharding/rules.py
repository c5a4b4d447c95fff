"""Rules from logical axes to mesh axes, checked before anything is allocated.

The dimensions of every parameter carry logical axes.

    sharding.rules = {'embed': 'fsdp', 'heads': 'tensor', 'batch': ('data', 'fsdp')}

A logical axis without a rule is replicated. `bind` puts rules on a mesh; the result says how each
parameter and batch is laid out.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
from jax.sharding import PartitionSpec

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, other_than
from aevo_jax.config.nearest import suggestion

PARAMETER_AXES = (
  'vocab',
  'embed',
  'heads',
  'kv_heads',
  'mlp',
  'experts',
  'mamba_inner',
  'mamba_heads',
  'moe_latent',
  'conv',
  'lora_rank',
  'head_dim',
)
ACTIVATION_AXES = ('batch', 'length')
# The dtype in which devices sum their parts of a gradient: the computation's, or float32.
REDUCTIONS = ('compute', 'float32')
UNSHARDED_AXES = ('layers',)  # of stacked parameters: a scan reads one layer after the other


class IndivisibleError(ValueError):
  """A dimension or a batch that its rule does not divide."""


@configurable('sharding', ReadWhen(other_than('mesh.axes', {})))
@dataclasses.dataclass(frozen=True)
class Sharding:
  """Where logical axes go.

  Attributes:
    rules: {logical axis: mesh axis, or several}.
    replicated_limit_mib: a parameter that no rule shards may take so many MiB of bfloat16 on every
      device of a mesh of several.
    gradient_reduction: the dtype in which devices sum their parts of a weight's gradient:
      'compute', that of the computation, or 'float32', which sends twice the bytes of bfloat16.
    pad_vocab: a vocabulary that its rule does not divide is padded on the mesh, see `storage`; if
      not, it is refused.
  """

  rules: dict[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
  replicated_limit_mib: float = 64.0
  gradient_reduction: Annotated[str, OneOf(REDUCTIONS)] = 'compute'
  pad_vocab: bool = True

  def __post_init__(self):
    known = PARAMETER_AXES + ACTIVATION_AXES
    for logical, axes in self.rules.items():
      if logical in UNSHARDED_AXES:
        raise ValueError(f'rules: {logical!r} is never sharded; remove its rule')
      if logical not in known:
        raise ValueError(f'rules: no logical axis {logical!r}{suggestion(logical, known)}')
      if not isinstance(axes, str) and len(set(axes)) != len(axes):
        raise ValueError(f'rules: {logical!r} names a mesh axis twice in {axes}')
    doubled = sorted(set(self._axes('batch')) & set(self._axes('length')))
    if doubled:
      raise ValueError(
        f"rules: 'batch' and 'length' both use mesh axis {doubled[0]!r}; take it out of "
        'one of the two'
      )

  def _axes(self, logical: str) -> tuple[str, ...]:
    axes = self.rules.get(logical, ())
    if isinstance(axes, str):
      return (axes,)
    return tuple(axes)

  def bind(self, sizes: Mapping[str, int]) -> 'Layout':
    """Puts the rules on a mesh.

    Args:
      sizes: {mesh axis: size}.

    Returns:
      Where each logical axis goes.

    Raises:
      ValueError: a rule for a mesh axis that the mesh has not.
    """
    for logical in self.rules:
      for axis in self._axes(logical):
        if axis not in sizes:
          raise ValueError(
            f'sharding.rules: {logical!r} goes to mesh axis {axis!r}, which the mesh has '
            f'not{suggestion(axis, sizes)}'
          )
    rules = tuple((logical, self._axes(logical)) for logical in sorted(self.rules))
    return Layout(
      tuple(sizes.items()),
      rules,
      self.replicated_limit_mib,
      self.gradient_reduction,
      self.pad_vocab,
    )


@dataclasses.dataclass(frozen=True)
class Layout:
  """Rules on a mesh. Hashable, so it can be part of a jitted function's key.

  Attributes:
    sizes: (mesh axis, size) in the mesh's order.
    rules: (logical axis, its mesh axes), sorted.
    replicated_limit_mib, gradient_reduction, pad_vocab: see `Sharding`.
  """

  sizes: tuple[tuple[str, int], ...]
  rules: tuple[tuple[str, tuple[str, ...]], ...]
  replicated_limit_mib: float
  gradient_reduction: str = 'compute'
  pad_vocab: bool = True

  @property
  def devices(self) -> int:
    """The number of devices of the mesh."""
    return math.prod(size for _, size in self.sizes)

  def mesh_axes(self, logical: str | None) -> tuple[str, ...]:
    """Returns the mesh axes of a logical axis; none without a rule, or for None."""
    return dict(self.rules).get(logical, ())

  def shards(self, *logical: str) -> int:
    """Counts the parts into which some logical axes are cut together."""
    sizes = dict(self.sizes)
    parts = 1
    for name in logical:
      for axis in self.mesh_axes(name):
        parts *= sizes[axis]
    return parts

  def width_shards(self, logical: str) -> int:
    """Counts the parts into which activations are cut along a parameter's axis.

    Where rows lie along the same mesh axis, weights are gathered instead.
    """
    token_axes = self.mesh_axes('batch') + self.mesh_axes('length')
    sizes = dict(self.sizes)
    return math.prod(sizes[axis] for axis in self.mesh_axes(logical) if axis not in token_axes)

  def padded(self, shape: tuple[int, ...], logical: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the shape of a parameter on the mesh.

    Args:
      shape: as stored.
      logical: the logical axis of each dimension.

    Returns:
      The shape with the vocabulary padded up to a multiple of its parts, if `pad_vocab`.
    """
    sizes = []
    for size, axis in zip(shape, logical, strict=True):
      if axis == 'vocab' and self.pad_vocab:
        parts = self.shards(axis)
        size = -(-size // parts) * parts
      sizes.append(size)
    return tuple(sizes)

  def padded_shapes(
    self, shapes: Mapping[str, Any], logical_axes: Mapping[str, tuple[str, ...]]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of parameters on the mesh, see `padded`."""
    placed = {}
    for name, value in shapes.items():
      placed[name] = jax.ShapeDtypeStruct(self.padded(value.shape, logical_axes[name]), value.dtype)
    return placed

  def spec(self, *logical: str | None) -> PartitionSpec:
    """Partitions an array.

    Args:
      *logical: the logical axis of each dimension; None is replicated.

    Returns:
      For each dimension its mesh axes, the one alone, or None.
    """
    entries = []
    for name in logical:
      axes = self.mesh_axes(name)
      if len(axes) > 1:
        entries.append(axes)
      else:
        entries.append(axes[0] if axes else None)
    return PartitionSpec(*entries)

  def parameter_specs(
    self, shapes: Mapping[str, Any], logical_axes: Mapping[str, tuple[str, ...]]
  ) -> dict[str, PartitionSpec]:
    """Partitions parameters.

    Args:
      shapes: {name: anything with `.shape`}.
      logical_axes: {name: one logical axis for each dimension}.

    Returns:
      {name: partition}.

    Raises:
      ValueError: a dimension that its rule does not divide, a mesh axis used twice in one
        parameter, or a large parameter that no rule shards.
    """
    specs = {}
    for name, shape in shapes.items():
      specs[name] = self._parameter_spec(name, shape.shape, logical_axes[name])
    return specs

  def _parameter_spec(
    self, name: str, shape: tuple[int, ...], logical: tuple[str, ...]
  ) -> PartitionSpec:
    """Partitions one parameter, checked as `parameter_specs` says."""
    used = {}
    for dimension, (size, axis) in enumerate(zip(shape, logical, strict=True)):
      for mesh_axis in self.mesh_axes(axis):
        if mesh_axis in used:
          raise ValueError(
            f'{name}: the rules of {used[mesh_axis]!r} and {axis!r} both use mesh axis '
            f'{mesh_axis!r}; change sharding.rules for one of them'
          )
        used[mesh_axis] = axis
      if size % self.shards(axis):
        pads = axis == 'vocab' and not self.pad_vocab
        instead = ', or bind sharding.pad_vocab = True' if pads else ''
        raise IndivisibleError(
          f'{name}: dimension {dimension} ({axis!r}, size {size}) cannot be divided by '
          f'{self.shards(axis)}, the size of mesh axis '
          f'{" x ".join(self.mesh_axes(axis))}; change sharding.rules for {axis!r}, or mesh.axes'
          f'{instead}'
        )
    mib = math.prod(shape) * 2 / 2**20
    if self.devices > 1 and self.shards(*logical) == 1 and mib > self.replicated_limit_mib:
      raise ValueError(
        f'{name}: {mib:.0f} MiB of bfloat16 would lie on each of {self.devices} devices; '
        f'give one of {sorted(set(logical))} a rule in '
        'sharding.rules, or raise sharding.replicated_limit_mib'
      )
    return self.spec(*logical)

  def of_generation(self) -> 'Layout':
    """Returns the rules for decoding, where a row's tokens come one after the other.

    Rows go where rows and positions of a training batch go. Weights lie as before.
    """
    rules = dict(self.rules)
    rows = self.mesh_axes('batch') + self.mesh_axes('length')
    rules.pop('length', None)
    if rows:
      rules['batch'] = rows
    return dataclasses.replace(self, rules=tuple(sorted(rules.items())))

  def check_batch(
    self,
    rows: int,
    row_length: int,
    bindings: tuple[str, str] = ('train.batch_rows', 'train.row_length'),
  ) -> None:
    """Checks that the rules divide a batch.

    Args:
      rows: of a batch.
      row_length: tokens of a row.
      bindings: that say so.

    Raises:
      ValueError: they do not, with the binding to change.
    """
    self._check_divides(bindings[0], rows, 'batch')
    self._check_divides(bindings[1], row_length, 'length')

  def _check_divides(self, binding: str, size: int, logical: str) -> None:
    if size % self.shards(logical):
      raise IndivisibleError(
        f'{binding} = {size} cannot be divided by {self.shards(logical)}, the size of mesh '
        f'axis {" x ".join(self.mesh_axes(logical))} '
        f'(rule of {logical!r}); change {binding}, the rule, or mesh.axes'
      )
