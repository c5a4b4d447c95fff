"""What a recipe does, as digests: two recipes with equal fingerprints train the same thing.

Reading a value into a dataclass proves nothing about its use. So the fingerprint is taken from what
acts: the items, the learning rate at every step, the maps that an adapter is on, the layout of the
training state, the jaxprs of the training step's two halves (update and gradient), and what
reinforcement learning makes of synthetic rollouts. State and jaxprs are those of a small stand-in
with the model's kinds of blocks, since no recipe value depends on its width. Everything else is the
real thing.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import tokenizers
from jax.interpreters import partial_eval

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training import optimizer as optimizer_lib
from aevo_jax.training.losses.sft import Loss
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train
from aevo_jax.training.recipe.rl_settings import Algorithm, Gates
from aevo_jax.training.recipe.stand_in import adapted_maps, stand_in
from aevo_jax.training.recipe.task_source import SftInputs, TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan
from aevo_jax.training.rl import items as rl_items
from aevo_jax.training.rl import synthetic_rollouts
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_loss, make_update

ITEMS_COMPARED = 256

Component = functools.partial[str]


class _Updated(NamedTuple):
  """What the layout of the training state and the update depend on."""

  config: ModelConfig
  adaptation: Adaptation
  adapter: Lora
  optimizer: Optimizer
  ema_decay: float


def components(
  recipe: Recipe,
  tokenizer: tokenizers.Tokenizer,
  tasks: TaskSource,
  plan: StepPlan,
  config: ModelConfig | None = None,
) -> dict[str, Component]:
  """Builds the fingerprint's digests by name, cheapest first, each computed when called.

  Args:
    recipe: the recipe.
    tokenizer: of the base.
    tasks: where items come from.
    plan: the trial's steps.
    config: of the model; the micro model's, if left out.

  Returns:
    name -> a function that computes the digest. Where two recipes give a component equal arguments
    (`args`), its digests are equal too.
  """
  config = config or ModelConfig()
  train = recipe.train
  algorithm = recipe.algorithm()
  supervised = recipe.method.supervised
  sft_inputs = SftInputs.of(recipe, tokenizer, tasks)
  sft_tokens = plan.sft_steps * train.batch_rows * train.row_length
  parts = {'rows': Component(_rows_digest, plan, _rows(train) if supervised else ())}
  if supervised:
    parts['schedule'] = Component(_schedule_digest, recipe.optimizer, plan.sft_steps)
    parts['batches'] = Component(_items_digest, sft_inputs, 0)
  if algorithm:
    parts['schedule_of_the_second'] = Component(
      _schedule_digest, recipe.second_optimizer(), plan.rl_steps
    )
    parts['prompts'] = Component(_prompts_digest, recipe.mixture(tasks.size), tasks)
    parts['algorithm'] = Component(_algorithm_digest, dataclasses.replace(algorithm, gates=Gates()))
  updated = _Updated(config, recipe.adaptation, recipe.lora, recipe.optimizer, train.ema_decay)
  parts['state'] = Component(_state_digest, updated)
  parts['update'] = Component(_update_digest, updated)
  if supervised:
    parts['gradient'] = Component(
      _gradient_digest, config, recipe.adaptation, recipe.lora, recipe.loss
    )
    # A change to a rare family may leave the first items alone and still act on those that follow.
    parts['later_batches'] = Component(_items_digest, sft_inputs, sft_tokens)
  return parts


def _rows(train: Train) -> tuple[int | str, ...]:
  return (train.batch_rows, train.row_length, train.packing, train.packing_window)


def _rows_digest(plan: StepPlan, rows: tuple[int | str, ...]) -> str:
  return _digest(str((plan, rows)))


def _schedule_digest(optimizer: Optimizer, steps: int) -> str:
  return _digest(optimizer_lib.learning_rates(optimizer, steps).tobytes())


def _items_digest(inputs: SftInputs, tokens: int) -> str:
  """Digests the first `tokens` tokens of a stream, but `ITEMS_COMPARED` items at least."""
  stream = inputs.source()
  state = hashlib.sha256()
  index = 0
  while index < ITEMS_COMPARED or tokens > 0:
    sequence = stream[index]
    state.update(sequence.tokens.tobytes() + sequence.weights.tobytes())
    index += 1
    tokens -= len(sequence.tokens)
  return state.hexdigest()


def _prompts_digest(mixture: Mixture, tasks: TaskSource) -> str:
  item_at = rl_items.stream(mixture, tasks.seed, tasks.corpus)
  prompts = []
  for index in range(rl_items.COMPARED):
    item = item_at(index)
    prompts.append((item.question, item.answer))
  return _digest(str(prompts))


def _algorithm_digest(algorithm: Algorithm) -> str:
  """Digests what reinforcement learning does with rollouts.

  That is how many it generates and how often it trains on them, what it makes of synthetic rollouts
  on the host, and its loss.
  """
  sizes = (algorithm.rollout, algorithm.rl.epochs, algorithm.rl.minibatches)
  loss = synthetic_rollouts.digest(algorithm)
  return _digest(str((*sizes, algorithm.loss.temperature)) + loss)


def _state(
  params: Params, optimizer: Optimizer, ema_decay: float
) -> tuple[optax.GradientTransformation, TrainState]:
  """Builds the optimizer with constant numbers, and the shapes of its training state."""
  transformation = optimizer_lib.transformation(optimizer, baked=True)

  def create(params: Params) -> TrainState:
    return TrainState.create(params, transformation, ema_decay)

  return transformation, jax.eval_shape(create, params)


def _state_digest(updated: _Updated) -> str:
  by_adapter = updated.adaptation.method == 'lora'
  params = stand_in(updated.config, updated.adaptation, updated.adapter).params
  _, state = _state(params, updated.optimizer, updated.ema_decay)
  maps = adapted_maps(updated.config, updated.adapter.targets) if by_adapter else ()
  return _digest(str((maps, jax.tree_util.tree_flatten_with_path(state))))


def _update_digest(updated: _Updated) -> str:
  params = stand_in(updated.config, updated.adaptation, updated.adapter).params
  transformation, state = _state(params, updated.optimizer, updated.ema_decay)
  update = make_update(transformation, ema_decay=updated.ema_decay)
  return _jaxpr_digest(update, state, params, jnp.float32(0))


def _gradient_digest(config: ModelConfig, adaptation: Adaptation, adapter: Lora, loss: Loss) -> str:
  model = stand_in(config, adaptation, adapter)
  batch = {
    'tokens': jnp.zeros((1, 8), jnp.int32),
    'weights': jnp.ones((1, 8)),
    'segment_ids': jnp.ones((1, 8), jnp.int32),
  }
  gradient = jax.grad(make_loss(model.structure, loss), has_aux=True)
  return _jaxpr_digest(gradient, model.params, model.frozen, batch)


def _jaxpr_digest(function: Callable, *arguments) -> str:
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  # Without equations that nothing reads: Muon computes Adam's debiasing of no parameter at all
  # where every parameter is a matrix.
  live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
  return _digest(str(live))


def _digest(content: str | bytes) -> str:
  if isinstance(content, str):
    content = content.encode()
  return hashlib.sha256(content).hexdigest()
