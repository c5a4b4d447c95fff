"""Where a training run's arrays lie on a mesh: parameters by the rules, optimizer state and moving
average like the parameters they belong to.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
from aevo_jax.sharding import context
from aevo_jax.sharding import mesh as mesh_lib
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Recipe

Shapes = dict[str, jax.ShapeDtypeStruct]


def shapes_of(
  config: ModelConfig, adaptation: Adaptation, adapter: Lora
) -> tuple[Shapes, Shapes, dict[str, tuple[str, ...]]]:
  """Shapes of trained and of frozen parameters of the adapted model, stacked where the config scans
  it, and the logical axes of all.

  The base under an adapter is taken to be stored in the dtype of the computation.
  """
  model, by_adapter = abstract(config), adaptation.method == 'lora'
  if by_adapter:
    lora.attach(
      model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=0, shapes=True
    )
  model = scan_layers.Scanned(model) if config.scan else model
  trained, frozen = {}, {}
  for name, value in unbind(model)[1].items():
    train = is_adapter(name) if by_adapter else not is_router_bias(name)
    dtype = resident_dtype(name, jnp.dtype(config.compute_dtype), frozen=by_adapter and not train)
    (trained if train else frozen)[name] = jax.ShapeDtypeStruct(value.shape, dtype)
  return trained, frozen, logical_axes(model)


def state_specs(tree: Any, shapes: Mapping[str, Any], specs: Mapping[str, PartitionSpec]) -> Any:
  """The partition of every leaf of a training state: that of the parameter under whose name it
  stands and whose shape it has, else replicated.
  """

  def leaf(path, value) -> PartitionSpec:
    name = next(
      (key.key for key in reversed(path) if isinstance(key, DictKey) and key.key in specs), None
    )
    return (
      specs[name] if name is not None and value.shape == shapes[name].shape else PartitionSpec()
    )

  return jax.tree_util.tree_map_with_path(leaf, tree)


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh, the layout on it, and the logical axes of the model's parameters."""

  mesh: Mesh
  layout: Layout
  axes: Mapping[str, tuple[str, ...]]

  def params(self, shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Raises ValueError as `Layout.parameter_specs`."""
    return {
      name: NamedSharding(self.mesh, spec)
      for name, spec in self.layout.parameter_specs(shapes, self.axes).items()
    }

  def state(self, state: Any, shapes: Mapping[str, Any]) -> Any:
    """Shardings of a training state, or of any part of it, over parameters of these shapes."""
    specs = self.layout.parameter_specs(shapes, self.axes)
    return jax.tree.map(
      lambda spec: NamedSharding(self.mesh, spec),
      state_specs(state, shapes, specs),
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )

  def batch(self) -> NamedSharding:
    """Of every array of a batch, [b, t]."""
    return NamedSharding(self.mesh, self.layout.spec('batch', 'length'))

  def use(self):
    """A context in which training steps are traced and run."""
    return context.use(self.mesh, self.layout, self.axes)


def from_gin(config: ModelConfig, recipe: Recipe) -> Placement | None:
  """The placement of the loaded gin configuration on this machine's devices; None where it names no
  mesh.

  Raises:
    ValueError: the mesh does not fit the devices, the rules not the mesh, or the parameters or
      batches not the rules.
  """
  mesh_config = resolve('mesh')
  if not mesh_config.axes:
    return None
  layout = resolve('sharding').bind(mesh_config.sizes(jax.device_count()))
  layout.check_batch(recipe.train.batch_rows, recipe.train.row_length)
  trained, frozen, axes = shapes_of(config, recipe.adaptation, recipe.lora)
  placement = Placement(mesh_lib.create(mesh_config), layout, axes)
  placement.params(trained | frozen)
  return placement
