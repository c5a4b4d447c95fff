"""A process that runs the training steps of several meshes in turns, on devices that are there.

It reads a job from standard input and writes one JSON object a line: what devices there are, arms
that are compiled, turns that begin, times of turns, and arms that fail. One arm's state is held at
a time: a turn makes it anew from a seed, takes one step that does not count and then those that do.
So arms do not share memory, and every turn of an arm computes the same.
"""

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax import layout, runtime
from aevo_jax.analysis.abstract_step import AbstractStep, lower_step
from aevo_jax.config import loading
from aevo_jax.config.configurables import resolve
from aevo_jax.models.config import ModelConfig
from aevo_jax.training import placement as placement_lib
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.train_state import TrainState

_LEARNING_RATE = np.float32(1e-5)


@dataclasses.dataclass(frozen=True)
class Job:
  """What to run.

  Attributes:
    gin_files, bindings: of model and recipe.
    adaptation: in place of the recipe's; '' leaves it.
    rows, row_length: of a batch.
    meshes: arm -> mesh file, in the order of turns.
    steps: of a turn that count.
    rounds: turns of each arm.
    seed: of weights and tokens.
  """

  gin_files: list[str]
  bindings: list[str]
  adaptation: str
  rows: int
  row_length: int
  meshes: dict[str, str]
  steps: int
  rounds: int
  seed: int = 0


class Arm:
  """The training step of one mesh."""

  def __init__(self, job: Job, mesh_file: str):
    """Compiles the step, as `aevo train` runs it.

    Args:
      job: model, recipe and batch.
      mesh_file: the mesh.

    Raises:
      ValueError: the mesh does not fit the devices, the model or the batch.
    """
    files = [*job.gin_files, mesh_file]
    loading.load(files, job.bindings, search_paths=layout.search_paths())
    self._config: ModelConfig = resolve('model')
    recipe = recipe_lib.from_gin()
    if job.adaptation:
      adaptation = recipe_lib.Adaptation(job.adaptation)
      recipe = dataclasses.replace(recipe, adaptation=adaptation)
    train = dataclasses.replace(recipe.train, batch_rows=job.rows, row_length=job.row_length)
    recipe = dataclasses.replace(recipe, train=train)
    optimizer = transformation(recipe.optimizer)
    placement = placement_lib.from_gin(self._config, recipe.adaptation, recipe.lora)
    self._seed = job.seed
    self._shapes: AbstractStep = lower_step(self._config, recipe, placement)
    self._step = self._shapes.lowered.compile()
    assert placement is not None, 'the mesh file names axes'
    self._forms = placement.forms

    def create(params: dict[str, jax.Array]) -> TrainState:
      return TrainState.create(params, optimizer, train.ema_decay)

    self._create = jax.jit(
      placement.padded(create),
      donate_argnums=0,
      out_shardings=jax.tree.map(lambda leaf: leaf.sharding, self._shapes.state),
    )

  def turn(self, steps: int) -> tuple[list[float], float]:
    """Runs steps from the first state.

    Args:
      steps: that count.

    Returns:
      Seconds of each, and the loss of the first state.
    """
    frozen = random_params(self._shapes.frozen, self._forms, self._seed + 1)
    state = self._create(random_params(self._shapes.state.params, self._forms, self._seed))
    batch = self._batch()
    state, metrics = jax.block_until_ready(self._step(state, frozen, batch, _LEARNING_RATE))
    loss = float(metrics['loss'])
    if not math.isfinite(loss):
      raise ValueError(f'the loss of random weights is {loss}')
    seconds = []
    for _ in range(steps):
      started = time.perf_counter()
      state, metrics = jax.block_until_ready(self._step(state, frozen, batch, _LEARNING_RATE))
      seconds.append(time.perf_counter() - started)
    return seconds, loss

  def _batch(self) -> dict[str, jax.Array]:
    """Makes rows of random tokens, one segment each."""
    shape = self._shapes.batch['tokens'].shape
    tokens = np.random.default_rng(self._seed).integers(0, self._config.vocab_size, shape)
    values = {
      'tokens': tokens.astype(np.int32),
      'segment_ids': np.ones(shape, np.int32),
      'weights': np.full(shape, 1 / math.prod(shape), np.float32),
    }
    shardings = {name: leaf.sharding for name, leaf in self._shapes.batch.items()}
    return jax.device_put(values, shardings)


def random_params(
  shapes: dict[str, jax.ShapeDtypeStruct], forms: Mapping[str, Any], seed: int
) -> dict[str, jax.Array]:
  """Makes weights of some size: matrices scaled as at initialization, vectors 1, biases 0.

  Args:
    shapes: with shardings.
    forms: of the parameters that lie otherwise on the mesh than in a file.
    seed: the same on every mesh gives the same weights.

  Returns:
    One array for each shape.
  """
  made = {}
  for number, (name, shape) in enumerate(shapes.items()):
    if name.endswith(('A_log', 'bias')):
      made[name] = jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)
    elif len(shape.shape) < 2:
      made[name] = jnp.ones(shape.shape, shape.dtype, device=shape.sharding)
    elif name in forms:
      form = forms[name]
      stored = _filled(form.stored, str(shape.dtype), None)(1000 * seed + number)
      made[name] = jax.device_put(form.lay_out(np.asarray(stored)), shape.sharding)
    else:
      filled = _filled(shape.shape, str(shape.dtype), shape.sharding)
      made[name] = filled(1000 * seed + number)
  return made


@functools.cache
def _filled(shape: tuple[int, ...], dtype: str, sharding: Any) -> Any:
  """Returns the function from a seed to a matrix; many weights of a model share it."""

  def fill(seed: jax.Array) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype) / math.sqrt(shape[-2])

  return jax.jit(fill, out_shardings=sharding)


def _say(**facts: Any) -> None:
  print(json.dumps(facts), flush=True)


def run(job: Job) -> None:
  """Runs a job; an arm that fails is left out of further rounds.

  Args:
    job: what to run.
  """
  kind = jax.devices()[0].device_kind
  _say(devices=f'{jax.device_count()} x {kind}')
  arms: dict[str, Arm] = {}
  for name, mesh_file in job.meshes.items():
    _say(turn=name)
    started = time.perf_counter()
    try:
      arms[name] = Arm(job, mesh_file)
    except Exception as error:
      _say(arm=name, error=_reason(error))
    else:
      _say(compiled=name, seconds=round(time.perf_counter() - started, 1))
  for _ in range(job.rounds):
    for name, arm in list(arms.items()):
      _say(turn=name)
      try:
        seconds, loss = arm.turn(job.steps)
      except Exception as error:
        del arms[name]
        _say(arm=name, error=_reason(error))
      else:
        _say(arm=name, seconds=seconds, loss=loss)


def _reason(error: Exception) -> str:
  """Returns the first line of what went wrong."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'


def main() -> None:
  """Reads the job and runs it."""
  runtime.die_with_parent()
  runtime.tune_for_cpu()  # as `aevo train` does; no device has been made yet
  run(Job(**json.loads(sys.stdin.read())))


if __name__ == '__main__':
  main()
