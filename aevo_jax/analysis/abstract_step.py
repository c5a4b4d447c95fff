"""The training step on shapes alone: lowered and compiled, but never run.

It is the step that `train_loop.train` runs, so that what a compiler says of its memory and its
collectives holds for a run. The mesh may be of devices that are not there (`targets`).
"""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from aevo_jax.models import lora, scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Structure, abstract, unbind
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import Placement, Shapes, shapes_of
from aevo_jax.training.recipe.recipe import Recipe, TrainConfig
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step


class AbstractStep(NamedTuple):
  """A training step and the shapes of its arguments.

  Attributes:
    lowered: the jitted step, traced; `lowered.compile()` compiles it for the placement's devices.
    state, frozen, batch: shapes of its arguments, with shardings; the fourth is the learning rate.
  """

  lowered: Any
  state: TrainState
  frozen: dict[str, jax.ShapeDtypeStruct]
  batch: dict[str, jax.ShapeDtypeStruct]


def lower_step(
  config: ModelConfig, recipe: Recipe, placement: Placement | jax.Device | None = None
) -> AbstractStep:
  """Traces the step of supervised fine-tuning.

  Args:
    config: of the model.
    recipe: adaptation, optimizer, loss and batches.
    placement: where arrays lie; a device holds all of them, None is the default one.

  Returns:
    The traced step.

  Raises:
    ValueError: the rules do not divide the parameters or the batch.
  """
  train = recipe.train
  model = shapes_of(config, recipe.adaptation, recipe.lora)
  optimizer = transformation(recipe.optimizer)
  trained = model.trained
  frozen = model.frozen
  structure = _structure(config, recipe)

  def create(params: Shapes) -> TrainState:
    return TrainState.create(params, optimizer, train.ema_decay)

  shape = (train.batch_rows, train.row_length)
  batch = {
    'tokens': jax.ShapeDtypeStruct(shape, jnp.int32),
    'segment_ids': jax.ShapeDtypeStruct(shape, jnp.int32),
    'weights': jax.ShapeDtypeStruct(shape, jnp.float32),
  }
  outputs = None
  state = jax.eval_shape(create, trained)
  traced_in = contextlib.nullcontext()
  if isinstance(placement, Placement):
    placement.layout.check_batch(*shape)
    structure = placement.structure(structure, trained | frozen)
    trained = placement.layout.padded_shapes(trained, model.axes)
    frozen = placement.layout.padded_shapes(frozen, model.axes)
    state = jax.eval_shape(placement.padded(create), trained)
    state_shardings = placement.state(state, trained)
    outputs = (state_shardings, None)
    state = _on(state, state_shardings)
    frozen = _on(frozen, placement.params(frozen))
    batch = _on(batch, dict.fromkeys(batch, placement.batch()))
    traced_in = placement.use()
  elif placement is not None:
    where = SingleDeviceSharding(placement)
    state, frozen, batch = (
      jax.tree.map(lambda leaf: _with(leaf, where), tree) for tree in (state, frozen, batch)
    )
  step = make_train_step(structure, optimizer, TrainConfig(recipe.loss, train))
  if isinstance(placement, Placement):
    step = placement.padded(step)
  # Layers choose their kernels by the default device.
  with jax.default_device(_first_device(placement)), traced_in:
    jitted = jax.jit(step, donate_argnums=0, out_shardings=outputs)
    lowered = jitted.lower(state, frozen, batch, jax.ShapeDtypeStruct((), jnp.float32))
  return AbstractStep(lowered, state, frozen, batch)


def _first_device(placement: Placement | jax.Device | None) -> jax.Device | None:
  if isinstance(placement, Placement):
    return placement.mesh.devices.flat[0]
  return placement


def _structure(config: ModelConfig, recipe: Recipe) -> Structure:
  """Returns the adapted model without arrays, as `model_setup.adapt_model` makes it."""
  model = abstract(config)
  if recipe.adaptation.method == 'lora':
    adapter = recipe.lora
    lora.attach(
      model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=0, shapes=True
    )
  return unbind(scan_layers.Scanned(model) if config.scan else model)[0]


def _with(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _on(tree: Any, shardings: Any) -> Any:
  """Gives every leaf its sharding."""
  return jax.tree.map(_with, tree, shardings)
