"""Where a training run's arrays lie on a mesh.

Parameters lie by the rules; optimizer state and moving average lie like the parameters they belong
to.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from aevo_jax.config.configurables import resolve
from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers.mamba2 import Mamba2, packed_widths
from aevo_jax.models.params import (
  Params,
  Structure,
  abstract,
  is_adapter,
  is_router_bias,
  logical_axes,
  resident_dtype,
  unbind,
)
from aevo_jax.sharding import chips, context, storage
from aevo_jax.sharding import mesh as mesh_lib
from aevo_jax.sharding.rules import Layout
from aevo_jax.sharding.storage import Form
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
    forms: of those that lie otherwise than they are stored.
    source: the mesh file and the chip by which it was chosen; '' where no chip chose.
  """

  mesh: Mesh
  layout: Layout
  axes: Mapping[str, tuple[str, ...]]
  forms: Mapping[str, Form] = dataclasses.field(default_factory=dict)
  source: str = ''

  @classmethod
  def of(
    cls,
    mesh: Mesh,
    layout: Layout,
    shapes: ModelShapes,
    config: ModelConfig,
    source: str = '',
  ) -> 'Placement':
    """Builds the placement of a model.

    Args:
      mesh: of the devices.
      layout: rules that are bound to it.
      shapes: of the model.
      config: of the model.
      source: see `source`.
    """
    every = shapes.trained | shapes.frozen
    pieces = {}
    for name in every:
      widths = packed_widths(name, config)
      if widths:
        pieces[name] = widths
    forms = storage.forms(layout, every, shapes.axes, pieces)
    return cls(mesh, layout, shapes.axes, forms, source)

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

  def shardings_of_stored(self, shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Returns where stored parameters can lie, before or without `put`.

    Args:
      shapes: of the parameters, as stored.

    Returns:
      The sharding of each; those that would need a padding are whole on every device.
    """
    even = {}
    whole = {}
    for name, value in shapes.items():
      if name in self.forms and self.forms[name].placed != value.shape:
        whole[name] = NamedSharding(self.mesh, PartitionSpec())
      else:
        even[name] = value
    return self.params(even) | whole

  def put(self, params: Mapping[str, Any]) -> Params:
    """Puts parameters on the mesh.

    Args:
      params: as they are stored.

    Returns:
      The parameters in the form of the mesh.

    Raises:
      ValueError: as `Layout.parameter_specs`.
    """
    placed = {}
    for name, value in params.items():
      form = self.forms.get(name)
      placed[name] = value if form is None else form.lay_out(np.asarray(value))
    return jax.device_put(placed, self.params(placed))

  def lay_out(self, state: Any, shardings: Any) -> Any:
    """Puts a stored training state on the mesh.

    Args:
      state: as it is stored.
      shardings: of `state`.
    """
    placed = self._each_form(lambda form, leaf: form.lay_out(np.asarray(leaf)), state)
    return jax.device_put(placed, shardings)

  def stored(self, state: Any) -> Any:
    """Returns a training state as it is stored; arrays that lie otherwise come to the host."""
    return self._each_form(lambda form, leaf: form.store(np.asarray(leaf)), state)

  def stored_shapes(self, state: Any) -> Any:
    """Returns the state with the stored shape in place of every array that lies otherwise."""

    def shape(form: Form, leaf: Any) -> jax.ShapeDtypeStruct:
      stored = form.stored if leaf.shape == form.placed else leaf.shape
      return jax.ShapeDtypeStruct(stored, leaf.dtype)

    return self._each_form(shape, state)

  def padded(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function to be jitted: vocabularies are padded outside, and as stored inside.

    So what is computed, gradients' norms and optimizers' statistics too, knows no padding.

    Args:
      function: of training states or parameters.

    Returns:
      A function of those in the form of the mesh.
    """

    # Programs keep the function's name and those of its arguments.
    @functools.wraps(function)
    def on_mesh(*trees: Any) -> Any:
      return self._pad(function(*self._unpad(trees)))

    return on_mesh

  def _pad(self, state: Any) -> Any:
    """Pads vocabularies."""

    def padded(form: Form, leaf: jax.Array) -> jax.Array:
      if form.placed == form.stored or leaf.shape != form.stored:
        return leaf
      widths = [(0, p - s) for s, p in zip(form.stored, form.placed, strict=True)]
      return jnp.pad(leaf, widths)

    return self._each_form(padded, state)

  def _unpad(self, state: Any) -> Any:
    """Cuts the padding off.

    XLA divides what is left unevenly between devices, at the same borders: nothing is sent.
    """

    def cut(form: Form, leaf: jax.Array) -> jax.Array:
      if form.placed == form.stored or leaf.shape != form.placed:
        return leaf
      uneven = NamedSharding(self.mesh, self.layout.spec(*form.axes))
      return jax.lax.with_sharding_constraint(leaf[tuple(map(slice, form.stored))], uneven)

    return self._each_form(cut, state)

  def _each_form(self, function: Callable[[Form, Any], Any], state: Any) -> Any:
    """Applies a function to the leaves that belong to a parameter with a form."""

    def apply(path: tuple[Any, ...], leaf: Any) -> Any:
      for key in reversed(path):
        if isinstance(key, DictKey) and key.key in self.forms:
          return function(self.forms[key.key], leaf)
      return leaf

    return jax.tree_util.tree_map_with_path(apply, state)

  def structure(self, structure: Structure, shapes: Mapping[str, Any]) -> Structure:
    """Returns the structure for parameters in the form of the mesh.

    Args:
      structure: the model without arrays.
      shapes: of all its parameters.
    """
    parts = max((form.parts for form in self.forms.values()), default=1)
    if parts == 1:
      return structure
    model = structure.bind(shapes)
    for _, module in nnx.iter_modules(model):
      if isinstance(module, Mamba2):
        module.parts = parts
    return unbind(model)[0]

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
  placement = Placement.of(mesh_lib.create(mesh_config), layout, shapes, config, source)
  # Called for its ValueError, before anything runs.
  placement.params(layout.padded_shapes(shapes.trained | shapes.frozen, shapes.axes))
  return placement
