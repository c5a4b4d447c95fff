"""One training run of a recipe.

A campaign's worker and `aevo train` both go through here, so they train the same thing.

Run          everything that `method.name` says, one method after the other
  prepare    supervised fine-tuning: the adapted model and its batches, at step 0
  train      to the last step; adapters are merged, so that the result is a decoder's parameters
  rl.run     reinforcement learning or DPO, on the base or on what supervised fine-tuning made of it
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers

from aevo_jax.config.inference import Vllm
from aevo_jax.data import pipeline
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params
from aevo_jax.training import train_loop
from aevo_jax.training.model_setup import PolicyModel, adapt_model, decoder_params
from aevo_jax.training.optimizer import group_of, learning_rates, transformation
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.recipe.task_source import SftInputs, TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan
from aevo_jax.training.rl import run as rl_run
from aevo_jax.training.run_config import RunConfig
from aevo_jax.training.train_loop import BatchIterator


class Prepared(NamedTuple):
  """Supervised fine-tuning before its first step."""

  config: ModelConfig
  model: PolicyModel
  batches: BatchIterator


def prepare(
  config: ModelConfig,
  recipe: Recipe,
  base: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
) -> Prepared:
  """Puts the base under the recipe's adaptation and opens the recipe's batches.

  Args:
    config: of the base.
    recipe: what to train.
    base: the base checkpoint's arrays by name.
    tokenizer: of the base.
    tasks: where items come from.

  Returns:
    The run at step 0.

  Raises:
    ValueError: the recipe does not fit the model or the tasks.
  """
  model = adapt_model(config, recipe.adaptation, recipe.lora, base, tasks.seed)
  if recipe.optimizer.groups:
    # Called for its ValueError, before anything runs.
    group_of(recipe.optimizer.groups, model.params)
  batches = pipeline.batches(
    SftInputs.of(recipe, tokenizer, tasks).source(),
    rows=recipe.train.batch_rows,
    row_length=recipe.train.row_length,
    packing=recipe.train.packing,
    window=recipe.train.packing_window,
  )
  return Prepared(config, model, batches)


def train(
  prepared: Prepared, recipe: Recipe, steps: int, directory: pathlib.Path, run: RunConfig
) -> Params:
  """Trains to the last step, continuing from the checkpoints in `directory` if there are any.

  Args:
    prepared: the run at step 0.
    recipe: the one it was prepared with.
    steps: of the run in all.
    directory: of checkpoints and metrics.
    run: checkpoints, hooks and the mesh.

  Returns:
    Every parameter of the decoder, adapters merged.

  Raises:
    NonFiniteError: loss, gradient or the last weights are not finite.
  """
  model = prepared.model
  with run.placement.use() if run.placement else contextlib.nullcontext():
    state = train_loop.train(
      model,
      transformation(recipe.optimizer),
      prepared.batches,
      learning_rates(recipe.optimizer, steps),
      directory,
      recipe.train_config(),
      run,
    )
  params = {**model.frozen, **state.final_params()}
  final = decoder_params(params, prepared.config, recipe)
  train_loop.check_finite(final)
  return final


class Run:
  """A run before its first step.

  Supervised fine-tuning has the directory `directory`; what follows it has `directory`/then.

  Args:
    config: of the base.
    recipe: what to train.
    base: the base checkpoint's arrays by name.
    tokenizer: of the base.
    tasks: where items come from.
    directory: of checkpoints and metrics.
    vllm: the server that generates rollouts, where the recipe has one.

  Raises:
    ValueError: parts of the recipe cannot go together, or do not fit the model or the tasks.
  """

  def __init__(
    self,
    config: ModelConfig,
    recipe: Recipe,
    base: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer,
    tasks: TaskSource,
    *,
    directory: pathlib.Path,
    vllm: Vllm | None = None,
  ):
    self._config = config
    self._recipe = recipe
    self._directory = directory
    self._prepared = None
    self._rl_trainer = None
    if recipe.method.supervised:
      self._prepared = prepare(config, recipe, base, tokenizer, tasks)
      directory = directory / 'then'
    self._make_rl_trainer = functools.partial(
      rl_run.trainer,
      config,
      recipe,
      tokenizer=tokenizer,
      tasks=tasks,
      directory=directory,
      vllm=vllm,
    )
    if self._prepared is None:
      self._rl_trainer = self._make_rl_trainer(base)

  def train(self, plan: StepPlan, run: RunConfig) -> Params:
    """Trains to the plan's last step, continuing from the checkpoints in the run's directories.

    Args:
      plan: steps of each method.
      run: checkpoints and hooks. Steps count on from one method to the next. The mesh is that of
        supervised fine-tuning.

    Returns:
      Every parameter of the decoder, adapters merged.

    Raises:
      NonFiniteError: loss, gradient or the last weights are not finite.
      StoppedError: a gate or rule of reinforcement learning stopped the run.
    """
    rl_trainer = self._rl_trainer
    if self._prepared is not None:
      final: Any = train(self._prepared, self._recipe, plan.sft_steps, self._directory, run)
      if not plan.rl_steps or run.stop():
        return final
      rl_trainer = self._make_rl_trainer(final)
    assert rl_trainer is not None, 'a method that is not supervised has its trainer from the start'
    return rl_run.train(
      self._config, self._recipe, rl_trainer, plan.rl_steps, _counted_on(run, plan.sft_steps)
    )


def _counted_on(run: RunConfig, first: int) -> RunConfig:
  """Returns the run whose hook counts steps from `first` on."""
  on_step = run.on_step
  if on_step is None:
    return run

  def later(step: int, scalars: dict[str, float]) -> None:
    on_step(first + step, scalars)

  return dataclasses.replace(run, on_step=later)
