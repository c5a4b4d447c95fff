"""Meshes of one model for some devices: all that mesh files' axes allow, and the best of them.

Mesh files say which logical axes a mesh axis cuts. Here every combination of their axes and of
sizes is a mesh, once: an axis of size 1 is left out. Meshes that the rules refuse and those that do
not fit are pruned, with the reason. The others are ordered by how long a device sends at least
(`traffic`), since all of them do the same useful products; no compiler has been asked.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from aevo_jax.analysis import legal_meshes
from aevo_jax.analysis.hardware import Hardware
from aevo_jax.analysis.strategies import traffic
from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.memory import device_bytes
from aevo_jax.sharding.mesh import MeshConfig
from aevo_jax.sharding.rules import Layout, Sharding
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import ModelShapes, shapes_of, state_specs
from aevo_jax.training.recipe.memory_estimate import estimate_memory
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.train_state import TrainState

# From the outermost in: neighbours exchange the most. Axes of other names come last.
ORDER = ('data', 'fsdp', 'expert', 'context', 'tensor')
_GIB = 2**30

Axes = Mapping[str, tuple[str, ...]]  # mesh axis -> the logical axes that it cuts


class Mesh(NamedTuple):
  """A mesh.

  Attributes:
    sizes: of its axes.
    rules: of the sharding.
  """

  sizes: dict[str, int]
  rules: dict[str, str | tuple[str, ...]]

  @property
  def name(self) -> str:
    """Axes and sizes in one word, e.g. 'fsdp16_tensor4'."""
    return '_'.join(f'{axis}{size}' for axis, size in self.sizes.items())

  @property
  def gin(self) -> str:
    """The text of a mesh file."""
    return f'mesh.axes = {self.sizes}\nsharding.rules = {self.rules}\n'


class Suggested(NamedTuple):
  """A mesh that fits by the estimate.

  Attributes:
    mesh: its axes and rules.
    state: bytes on each device, exact.
    temporary: bytes beside it, estimated.
    sending: seconds of a step that a device sends at least.
  """

  mesh: Mesh
  state: int
  temporary: int
  sending: float


class Pruned(NamedTuple):
  """A mesh that is not compiled, or an axis that no mesh has.

  Attributes:
    name: of the mesh or axis.
    reason: with the number that decided.
  """

  name: str
  reason: str


class Problem(NamedTuple):
  """What meshes are sought for.

  Attributes:
    config: of the model.
    recipe: its batch has the rows that every mesh is to take.
    hardware: of the devices.
    platform: 'cpu', 'gpu' or 'tpu'.
    sharding: whose rules are the mesh's instead.
  """

  config: ModelConfig
  recipe: Recipe
  hardware: Hardware
  platform: str
  sharding: Sharding

  @property
  def model(self) -> ModelShapes:
    """Shapes of the parameters."""
    return shapes_of(self.config, self.recipe.adaptation, self.recipe.lora)


def axes_of(files: Sequence[tuple[MeshConfig, Sharding]]) -> dict[str, tuple[str, ...]]:
  """Collects what mesh files say of their axes.

  Args:
    files: what each binds.

  Returns:
    Mesh axis -> the logical axes that some file cuts along it; outermost first.
  """
  cut: dict[str, tuple[str, ...]] = {}
  for mesh, sharding in files:
    for axis in mesh.hosts | mesh.axes:
      cut.setdefault(axis, ())
    for logical, axes in sharding.rules.items():
      for axis in (axes,) if isinstance(axes, str) else axes:
        if logical not in cut.setdefault(axis, ()):
          cut[axis] += (logical,)
  return {axis: cut[axis] for axis in sorted(cut, key=_place)}


def _place(axis: str) -> int:
  return ORDER.index(axis) if axis in ORDER else len(ORDER)


def without_effect(axes: Axes, model: ModelShapes) -> list[Pruned]:
  """Names axes for experts where there are none: they would be a second 'fsdp' or 'tensor'.

  Args:
    axes: of `axes_of`.
    model: shapes of the parameters.

  Returns:
    The axes to leave out.
  """
  has_experts = any('experts' in logical for logical in model.axes.values())
  if has_experts:
    return []
  reason = 'the model has no experts'
  return [Pruned(f'axis {axis}', reason) for axis, cut in axes.items() if 'experts' in cut]


def all_meshes(axes: Axes, devices: int) -> list[Mesh]:
  """Lists every mesh of some axes.

  Args:
    axes: of `axes_of`.
    devices: the product of the sizes.

  Returns:
    Each mesh once; none has an axis of size 1, but for the first axis on a single device.
  """
  found = []
  for sizes in legal_meshes.factorizations(devices, len(axes)):
    mesh = {axis: size for axis, size in zip(axes, sizes, strict=True) if size > 1}
    if not mesh:
      mesh = {next(iter(axes)): 1}
    rules: dict[str, tuple[str, ...]] = {}
    for axis in mesh:
      for logical in axes[axis]:
        rules[logical] = (*rules.get(logical, ()), axis)
    short = {logical: cut[0] if len(cut) == 1 else cut for logical, cut in rules.items()}
    found.append(Mesh(mesh, short))
  return found


def fewest_rows(meshes: Sequence[Mesh], problem: Problem) -> int:
  """Finds the smallest batch that all meshes can cut.

  Args:
    meshes: those whose parameters the rules do not divide have no say.
    problem: the model and its devices.

  Returns:
    Rows.
  """
  stored = problem.model
  rows = 1
  for mesh in meshes:
    try:
      layout = _layout(mesh, problem)
      model = _on_mesh(stored, layout)
      layout.parameter_specs(model.trained | model.frozen, model.axes)
    except ValueError:
      continue
    rows = math.lcm(rows, layout.shards('batch'))
  return rows


def _layout(mesh: Mesh, problem: Problem) -> Layout:
  return dataclasses.replace(problem.sharding, rules=mesh.rules).bind(mesh.sizes)


def estimated(problem: Problem, layout: Layout) -> int:
  """Estimates the bytes that a step takes on each device beside its state.

  Args:
    problem: model, batch and devices.
    layout: rules on a mesh.
  """
  train = problem.recipe.train
  estimate = estimate_memory(
    problem.config,
    problem.recipe,
    layout,
    rows=train.batch_rows,
    row_length=train.row_length,
    platform=problem.platform,
  )
  return estimate.temporary(problem.config.remat_policy)


def best(
  meshes: Sequence[Mesh],
  problem: Problem,
  most: int,
  temporary: Callable[[Problem, Layout], int] = estimated,
) -> tuple[list[Suggested], list[Pruned]]:
  """Chooses meshes to compile.

  Args:
    meshes: of `all_meshes`.
    problem: model, batch and devices.
    most: meshes to choose.
    temporary: bytes of a step beside the state; it takes a second, so only as many meshes are
      asked for it as it takes to find those that fit.

  Returns:
    Those that fit and send the least, the best first; and all others, each with its reason.
  """
  stored = problem.model
  train = problem.recipe.train
  limit = problem.hardware.memory_gb * 1e9
  legal: list[Suggested] = []
  pruned: list[Pruned] = []
  for mesh in meshes:
    try:
      layout = _layout(mesh, problem)
      layout.check_batch(train.batch_rows, train.row_length)
      _check_heads(problem.config, layout)
      model = _on_mesh(stored, layout)
      held = _held(model, problem.recipe, layout)
    except ValueError as error:
      pruned.append(Pruned(mesh.name, str(error)))
      continue
    if held > limit:
      pruned.append(Pruned(mesh.name, f'its state takes {_of_memory(held, problem.hardware)}'))
      continue
    listed = traffic.sent(problem.config, problem.recipe, model, layout)
    sending = traffic.seconds(listed, problem.hardware, mesh.sizes)
    legal.append(Suggested(mesh, held, 0, sending))
  chosen: list[Suggested] = []
  for one in sorted(legal, key=lambda one: (one.sending, one.state)):
    if len(chosen) == most:
      reason = f'sends for {one.sending * 1e3:.3g} ms a step at least, more than those compiled'
      pruned.append(Pruned(one.mesh.name, reason))
      continue
    beside = temporary(problem, _layout(one.mesh, problem))
    if one.state + beside > limit:
      taken = _of_memory(one.state + beside, problem.hardware)
      reason = f'state and, by the estimate, a step take {taken}'
      pruned.append(Pruned(one.mesh.name, reason))
      continue
    chosen.append(one._replace(temporary=beside))
  return chosen, pruned


def _check_heads(config: ModelConfig, layout: Layout) -> None:
  """Raises ValueError where a device would compute a part of a head, whose rest is sent to it.

  Along axes that also cut rows or positions, weights are gathered and heads are whole.
  """
  token_axes = layout.mesh_axes('batch') + layout.mesh_axes('length')
  sizes = dict(layout.sizes)
  for kind, logical, heads in (
    ('*', 'heads', config.num_attention_heads),
    ('M', 'mamba_inner', config.mamba_num_heads),
  ):
    parts = math.prod(sizes[axis] for axis in layout.mesh_axes(logical) if axis not in token_axes)
    if kind in config.pattern and heads % parts:
      raise ValueError(f'{heads} heads of {kind!r} blocks cannot be spread over {parts} devices')


def _on_mesh(model: ModelShapes, layout: Layout) -> ModelShapes:
  """Returns the shapes with a vocabulary that is padded where the mesh wants it."""
  return model._replace(
    trained=layout.padded_shapes(model.trained, model.axes),
    frozen=layout.padded_shapes(model.frozen, model.axes),
  )


def _held(model: ModelShapes, recipe: Recipe, layout: Layout) -> int:
  """Returns the exact bytes of state and frozen weights on a device."""
  shapes = model.trained | model.frozen
  specs = layout.parameter_specs(shapes, model.axes)
  sizes = dict(layout.sizes)
  optimizer = transformation(recipe.optimizer)
  state = jax.eval_shape(
    lambda params: TrainState.create(params, optimizer, recipe.train.ema_decay), model.trained
  )
  trained = device_bytes(state, state_specs(state, shapes, specs), sizes)
  return trained + device_bytes(model.frozen, state_specs(model.frozen, shapes, specs), sizes)


def _of_memory(size: float, hardware: Hardware) -> str:
  return f'{size / 1e9:.4g} GB of {hardware.memory_gb:g} GB on each device'
