"""Where a training run's arrays lie on a mesh.

Parameters lie by the rules; optimizer state and moving average lie like the parameters they belong
to.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from aevo_jax.config.configurables import resolve
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import (
  abstract,
  is_adapter,
  is_router_bias,
  logical_axes,
  resident_dtype,
  unbind,
)
from aevo_jax.sharding import chips, context
from aevo_jax.sharding import mesh as mesh_lib
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.recipe.recipe import Adaptation, Lora

Shapes = dict[str, jax.ShapeDtypeStruct]
_FULL = Adaptation()
_NO_ADAPTER = Lora()


class ModelShapes(NamedTuple):
  """Shapes of the adapted model's parameters, stacked where the config scans it.

  trained: of the parameters that the optimizer moves.
  frozen: of the others.
  axes: logical axes of all parameters, one name per dimension.
  """

  trained: Shapes
  frozen: Shapes
  axes: dict[str, tuple[str, ...]]


def shapes_of(config: ModelConfig, adaptation: Adaptation, adapter: Lora) -> ModelShapes:
  """Computes the shapes of the adapted model without making its arrays.

  Args:
    config: of the model.
    adaptation: full fine-tuning or an adapter.
    adapter: rank and targets, read where the adaptation is an adapter. The base under it is taken
      to be stored in the dtype of the computation.
  """
  model = abstract(config)
  by_adapter = adaptation.method == 'lora'
  if by_adapter:
    lora.attach(
      model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=0, shapes=True
    )
  model = scan_layers.Scanned(model) if config.scan else model
  trained = {}
  frozen = {}
  for name, value in unbind(model)[1].items():
    is_trained = is_adapter(name) or not (by_adapter or is_router_bias(name))
    is_frozen_base = by_adapter and not is_trained
    dtype = resident_dtype(name, jnp.dtype(config.compute_dtype), frozen=is_frozen_base)
    shape = jax.ShapeDtypeStruct(value.shape, dtype)
    if is_trained:
      trained[name] = shape
    else:
      frozen[name] = shape
  return ModelShapes(trained, frozen, logical_axes(model))


def state_specs(tree: Any, shapes: Mapping[str, Any], specs: Mapping[str, PartitionSpec]) -> Any:
  """Computes the partition of every leaf of a training state.

  Args:
    tree: a training state, or a part of one.
    shapes: of the parameters, by name.
    specs: partitions of the parameters, by name.

  Returns:
    For each leaf, the partition of the parameter under whose name it stands and whose shape it has;
    otherwise it is replicated.
  """

  def leaf_spec(path: tuple[Any, ...], value: Any) -> PartitionSpec:
    for key in reversed(path):
      if isinstance(key, DictKey) and key.key in specs:
        if value.shape == shapes[key.key].shape:
          return specs[key.key]
        break
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(leaf_spec, tree)


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where a model's arrays lie.

  Attributes:
    mesh: of the devices.
    layout: rules from logical axes to mesh axes.
    axes: logical axes of the model's parameters.
    source: the mesh file and the chip by which it was chosen; '' where no chip chose.
  """

  mesh: Mesh
  layout: Layout
  axes: Mapping[str, tuple[str, ...]]
  source: str = ''

  def params(self, shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Returns the sharding of every parameter.

    Args:
      shapes: of the parameters, or the parameters themselves.

    Raises:
      ValueError: as `Layout.parameter_specs`.
    """
    specs = self.layout.parameter_specs(shapes, self.axes)
    return {name: NamedSharding(self.mesh, spec) for name, spec in specs.items()}

  def state(self, state: Any, shapes: Mapping[str, Any]) -> Any:
    """Returns the shardings of a training state, or of any part of it.

    Args:
      state: the state, of arrays or of shapes.
      shapes: of the parameters that it belongs to.
    """
    specs = self.layout.parameter_specs(shapes, self.axes)
    return jax.tree.map(
      lambda spec: NamedSharding(self.mesh, spec),
      state_specs(state, shapes, specs),
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )

  def batch(self) -> NamedSharding:
    """Returns the sharding of every array of a batch, [batch, time]."""
    return NamedSharding(self.mesh, self.layout.spec('batch', 'length'))

  def record(self) -> dict[str, Any]:
    """Returns what computes and how arrays lie there, as JSON values."""
    return {
      'devices': self.mesh.size,
      'device_kind': self.mesh.devices.flat[0].device_kind,
      'mesh': dict(self.mesh.shape),
      'rules': {name: list(axes) for name, axes in self.layout.rules},
      'chosen': self.source,
    }

  def use(self) -> contextlib.AbstractContextManager:
    """Returns a context in which training steps are traced and run."""
    return context.use(self.mesh, self.layout, self.axes)

  def use_for_generation(self) -> contextlib.AbstractContextManager:
    """Returns a context in which samplers are traced and run."""
    return context.use(self.mesh, self.layout.of_generation(), self.axes)


def from_gin(
  config: ModelConfig, adaptation: Adaptation = _FULL, adapter: Lora = _NO_ADAPTER
) -> Placement | None:
  """Builds the placement of the loaded gin configuration on this machine's devices.

  Args:
    config: of the model.
    adaptation: full fine-tuning or an adapter.
    adapter: rank and targets, read where the adaptation is an adapter.

  Returns:
    The placement; None where the configuration names no mesh.

  Raises:
    ValueError: the mesh does not fit the devices, the rules not the mesh, or the parameters not the
      rules.
  """
  mesh_config = resolve('mesh')
  if not mesh_config.axes:
    return None
  layout = resolve('sharding').bind(mesh_config.sizes(jax.device_count()))
  shapes = shapes_of(config, adaptation, adapter)
  source = ''
  if mesh_config.for_chip:
    chip = chips.this_chip()
    source = f'{chips.file_of(mesh_config.for_chip, chip)}, by mesh.for_chip for {chip}'
  placement = Placement(mesh_lib.create(mesh_config), layout, shapes.axes, source)
  # Called for its ValueError, before anything runs.
  placement.params(shapes.trained | shapes.frozen)
  return placement
