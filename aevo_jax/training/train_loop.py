"""The training loop: next batch, step, check, log, save.

It stops at once when the loss or the gradient is NaN or infinite. Called again on the same
directory it continues from the latest checkpoint, data position included.
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax

from aevo_jax.checkpoint import orbax_io, resume
from aevo_jax.models.params import Params
from aevo_jax.training.metrics import MetricsWriter
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.placement import Placement
from aevo_jax.training.recipe.recipe import TrainConfig
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.run_control import Profiler
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step


class NonFiniteError(RuntimeError):
  """Loss or gradient norm was NaN or infinite; the run stopped there."""


@runtime_checkable
class BatchIterator(Protocol):
  """Batches that resume exactly, e.g. a Grain iterator (`data.pipeline.batches`)."""

  def __next__(self) -> Any: ...

  def get_state(self) -> Any: ...

  def set_state(self, state: Any) -> None: ...


def check_finite(params: Params) -> None:
  """Refuses weights that are not finite.

  Raises:
    NonFiniteError: a parameter holds NaN or an infinity.
  """
  if not all(np.isfinite(np.asarray(value)).all() for value in params.values()):
    raise NonFiniteError(
      'the last update made weights that are not finite; lower optimizer.learning_rate'
    )


def train(
  model: PolicyModel,
  transformation: optax.GradientTransformation,
  batches: BatchIterator,
  learning_rates: Sequence[float] | np.ndarray,
  directory: pathlib.Path,
  config: TrainConfig,
  run: RunConfig,
) -> TrainState:
  """Trains one step for each learning rate and saves the last state.

  Args:
    model: its parameters are copied.
    transformation: the optimizer.
    batches: of the recipe's items.
    learning_rates: of each step; their number is the number of steps.
    directory: gets checkpoints, metrics and the profile.
    config: what the step reads.
    run: checkpoints, hooks and the mesh.

  Returns:
    The state after the last step.

  Raises:
    DamagedCheckpointError: the latest checkpoint cannot be read.
    NonFiniteError: the loss or gradient stopped being finite. Nothing is saved from that step on.
  """
  placement = run.placement
  params, frozen, shardings = _placed(model, transformation, config, placement)
  step_fn = _jitted(model, transformation, config, placement, shardings)
  create = _creator(transformation, config, placement)
  # One program, which the cache holds, not one for each shape.
  state = jax.jit(create, out_shardings=shardings)(params)
  checkpoints = directory / 'checkpoints'
  state = _resume(checkpoints, state, batches, placement, shardings)
  steps = len(learning_rates)

  first = int(state.step)
  with MetricsWriter(directory, first) as metrics, Profiler(directory, run.control) as profiler:
    for step in range(first, steps):
      profiler.before(step)
      started = time.perf_counter()
      batch = next(batches)
      if placement is not None:
        batch = jax.device_put(batch, placement.batch())
      state, step_metrics = step_fn(state, frozen, batch, np.float32(learning_rates[step]))
      scalars = {name: float(value) for name, value in step_metrics.items()}
      # Not the clock of the machine: a step's length, for throughput only.
      scalars['seconds'] = time.perf_counter() - started
      metrics.write(step, scalars)
      _check_step(step, scalars)
      done = step + 1
      stops = run.stop()
      is_due = run.checkpoint_every and done % run.checkpoint_every == 0
      if done == steps or stops or is_due:
        _save(checkpoints, done, _stored(state, placement), batches)
        orbax_io.prune(checkpoints, run.control.keep_checkpoints)
      if run.on_step is not None:
        run.on_step(step, scalars)
      if stops:
        break
  return _stored(state, placement)


def compile_step(
  model: PolicyModel,
  transformation: optax.GradientTransformation,
  batches: BatchIterator,
  config: TrainConfig,
) -> None:
  """Compiles what `train` would run on these inputs, for the persistent compilation cache.

  Args:
    model: trained and frozen parameters.
    transformation: the optimizer.
    batches: one is taken, for its shapes.
    config: what the step reads.
  """
  state = jax.jit(_creator(transformation, config, None))(model.params)
  step_fn = _jitted(model, transformation, config, None, None)
  step_fn.lower(state, model.frozen, next(batches), np.float32(0)).compile()


def _check_step(step: int, scalars: dict[str, float]) -> None:
  """Raises NonFiniteError where the step's loss or gradient is not finite."""
  if math.isfinite(scalars['loss']) and math.isfinite(scalars['grad_norm']):
    return
  raise NonFiniteError(
    f'step {step}: loss {scalars["loss"]}, gradient norm {scalars["grad_norm"]}; '
    'lower optimizer.learning_rate or clip_norm'
  )


def _resume(
  checkpoints: pathlib.Path,
  state: TrainState,
  batches: BatchIterator,
  placement: Placement | None,
  shardings: Any,
) -> TrainState:
  """Restores the latest saved state, and moves the batches to its position.

  Where none is saved, the given state is returned.
  """
  stored = state if placement is None else placement.stored_shapes(state)
  latest = resume.restore_latest(checkpoints, stored)
  if latest is None:
    return state
  batches.set_state(json.loads(latest.data_state))
  if placement is not None:
    return placement.lay_out(latest.tree, shardings)
  return jax.tree.map(jax.numpy.asarray, latest.tree)


def _stored(state: TrainState, placement: Placement | None) -> TrainState:
  """Returns the state as it is stored, whatever the mesh."""
  return state if placement is None else placement.stored(state)


def _placed(
  model: PolicyModel,
  transformation: optax.GradientTransformation,
  config: TrainConfig,
  placement: Placement | None,
) -> tuple[Params, Params, Any]:
  """Puts the parameters on the mesh: trained, frozen, and where the state goes (None without)."""
  if placement is None:
    return model.params, model.frozen, None
  params = placement.put(model.params)
  state = jax.eval_shape(_creator(transformation, config, placement), params)
  return params, placement.put(model.frozen), placement.state(state, params)


def _jitted(
  model: PolicyModel,
  transformation: optax.GradientTransformation,
  config: TrainConfig,
  placement: Placement | None,
  shardings: Any,
) -> Any:
  """Jits the step with its state donated; `shardings` are the state's on a mesh, or None."""
  if placement is None:
    step = make_train_step(model.structure, transformation, config)
    return jax.jit(step, donate_argnums=0)
  structure = placement.structure(model.structure, model.params | model.frozen)
  step = placement.padded(make_train_step(structure, transformation, config))
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _creator(
  transformation: optax.GradientTransformation, config: TrainConfig, placement: Placement | None
) -> Callable[[Params], TrainState]:
  def create(params: Params) -> TrainState:
    return TrainState.create(params, transformation, config.train.ema_decay)

  return create if placement is None else placement.padded(create)


def _save(checkpoints: pathlib.Path, step: int, state: TrainState, batches: BatchIterator) -> None:
  orbax_io.save(
    orbax_io.step_directory(checkpoints, step),
    jax.tree.map(np.asarray, state),
    metadata={'step': step},
    data_state=json.dumps(batches.get_state()).encode(),
  )
