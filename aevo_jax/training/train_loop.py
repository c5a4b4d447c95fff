"""The training loop: next batch, step, check, log, save.

It stops at once when the loss or the gradient is NaN or infinite, and continues from the latest
checkpoint, data position included, when called again on the same directory.
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from aevo_jax.checkpoint import orbax_io
from aevo_jax.models.params import Params, Structure
from aevo_jax.training.metrics import MetricsWriter
from aevo_jax.training.placement import Placement
from aevo_jax.training.run_control import Profiler, Upkeep
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step


class NonFiniteError(RuntimeError):
  """Loss or gradient norm was NaN or infinite; the run stopped there."""


def check_finite(params: Params) -> None:
  """Raises NonFiniteError if a parameter is NaN or infinite."""
  if not all(np.isfinite(np.asarray(value)).all() for value in params.values()):
    raise NonFiniteError(
      'the last update made weights that are not finite; lower optimizer.learning_rate'
    )


def train(
  structure: Structure,
  params: Params,
  frozen: Params,
  transformation: optax.GradientTransformation,
  batches: Iterator,
  *,
  learning_rates: Sequence[float],
  directory: pathlib.Path,
  label_smoothing: float = 0.0,
  ema_decay: float = 0.0,
  microbatches: int = 1,
  logits_chunk: int = 0,
  checkpoint_every: int = 0,
  upkeep: Upkeep = Upkeep(),
  stop: Callable[[], bool] = lambda: False,
  on_step: Callable[[int, dict[str, float]], None] | None = None,
  placement: Placement | None = None,
) -> TrainState:
  """Trains one step for each learning rate and saves the last state under `directory`/checkpoints.

  Args:
    structure: the model without arrays. params: what is trained. frozen: the rest of the model's
      arrays.
    batches: a Grain iterator of batches (see data.pipeline). learning_rates: of each step; their
      number is the number of steps.
    checkpoint_every: also save every so many steps; 0 saves only the last state. upkeep: see there.
      stop: asked after each step; True saves and returns.
    microbatches, logits_chunk: see `recipe.Train`.
    on_step: called after each step with the metrics, e.g. to evaluate.
    placement: where arrays lie on a mesh, in whose context (`placement.use()`) this is called; None
      is the default device. A run may continue on another.

  Raises:
    NonFiniteError: the loss or gradient stopped being finite. Nothing is saved from that step on.
  """
  shardings = None
  if placement is not None:
    shardings = placement.state(
      jax.eval_shape(lambda p: TrainState.create(p, transformation, ema_decay), params), params
    )
    params, frozen = (
      jax.device_put(values, placement.params(values)) for values in (params, frozen)
    )
  options = {
    'label_smoothing': label_smoothing,
    'ema_decay': ema_decay,
    'microbatches': microbatches,
    'logits_chunk': logits_chunk,
  }
  step_fn = _jitted(structure, transformation, options, shardings)
  state = _initial_state(params, transformation, ema_decay, shardings)
  checkpoints, steps = directory / 'checkpoints', len(learning_rates)
  latest = orbax_io.latest_step(checkpoints)
  if latest is not None:
    path = orbax_io.step_directory(checkpoints, latest)
    state = jax.tree.map(jax.numpy.asarray, orbax_io.restore(path, state))
    batches.set_state(json.loads(orbax_io.read_data_state(path)))

  with MetricsWriter(directory) as metrics, Profiler(directory, upkeep) as profiler:
    for step in range(int(state.step), steps):
      profiler.before(step)
      started = time.perf_counter()
      batch = (
        next(batches) if placement is None else jax.device_put(next(batches), placement.batch())
      )
      state, scalars = step_fn(state, frozen, batch, np.float32(learning_rates[step]))
      scalars = {name: float(value) for name, value in scalars.items()}
      # Not the clock of the machine: a step's length, for throughput only.
      scalars['seconds'] = time.perf_counter() - started
      metrics.write(step, scalars)
      if not (math.isfinite(scalars['loss']) and math.isfinite(scalars['grad_norm'])):
        raise NonFiniteError(
          f'step {step}: loss {scalars["loss"]}, gradient norm {scalars["grad_norm"]}; '
          'lower optimizer.learning_rate or clip_norm'
        )
      done, asked = step + 1, stop()
      if done == steps or asked or (checkpoint_every and done % checkpoint_every == 0):
        _save(checkpoints, done, state, batches)
        orbax_io.prune(checkpoints, upkeep.keep_checkpoints)
      if on_step is not None:
        on_step(step, scalars)
      if asked:
        break
  return state


def _jitted(
  structure: Structure,
  transformation: optax.GradientTransformation,
  options: dict[str, Any],
  shardings: TrainState | None = None,
):
  step = make_train_step(structure, transformation, **options)
  return (
    jax.jit(step, donate_argnums=0)
    if shardings is None
    else jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
  )


def _initial_state(
  params: Params,
  transformation: optax.GradientTransformation,
  ema_decay: float,
  shardings: TrainState | None = None,
) -> TrainState:
  return jax.jit(
    lambda p: TrainState.create(p, transformation, ema_decay), out_shardings=shardings
  )(params)  # one program, which the cache holds, not one for each shape


def compile_step(
  structure: Structure,
  params: Params,
  frozen: Params,
  batches: Iterator,
  transformation: optax.GradientTransformation,
  *,
  label_smoothing: float,
  ema_decay: float,
  microbatches: int,
  logits_chunk: int,
) -> None:
  """Compiles what `train` would run on these inputs, for the persistent compilation cache."""
  options = {
    'label_smoothing': label_smoothing,
    'ema_decay': ema_decay,
    'microbatches': microbatches,
    'logits_chunk': logits_chunk,
  }
  state = _initial_state(params, transformation, ema_decay)
  _jitted(structure, transformation, options).lower(
    state, frozen, next(batches), np.float32(0)
  ).compile()


def _save(checkpoints: pathlib.Path, step: int, state: TrainState, batches: Iterator) -> None:
  host = jax.tree.map(np.asarray, state)
  orbax_io.save(
    orbax_io.step_directory(checkpoints, step),
    host,
    metadata={'step': step},
    data_state=json.dumps(batches.get_state()).encode(),
  )
