"""The pure training step: loss, gradient, update. No I/O, no gin, no time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from aevo_jax.models.params import Params, Structure
from aevo_jax.training.accumulate import accumulate_gradients
from aevo_jax.training.losses.batch import Batch
from aevo_jax.training.losses.sft import Loss, predicted, sft_loss
from aevo_jax.training.recipe.recipe import TrainConfig
from aevo_jax.training.tokens.token_logprobs import token_stats
from aevo_jax.training.train_state import TrainState

Arrays = dict[str, jax.Array]
LossFunction = Callable[[Params, Params, Arrays], tuple[jax.Array, jax.Array | None]]
UpdateFunction = Callable[[TrainState, Params, jax.Array], TrainState]
StepFunction = Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, Arrays]]


def make_loss(structure: Structure, config: Loss, *, logits_chunk: int = 0) -> LossFunction:
  """Builds the loss of supervised fine-tuning.

  Args:
    structure: the model without arrays.
    config: of the loss.
    logits_chunk: positions of every row whose logits exist at a time; 0 is all.

  Returns:
    loss(params, frozen, batch) -> (a scalar that adds up over the rows of a `normalised` batch, the
    experts' loads as in `Decoder.with_loads`). `frozen` holds the base's weights under a LoRA
    adapter; under full fine-tuning it holds routers' biases at most.
  """

  def loss(params: Params, frozen: Params, batch: Arrays) -> tuple[jax.Array, jax.Array | None]:
    model = structure.bind({**frozen, **params})
    stats, loads = token_stats(
      model, batch['tokens'], batch['segment_ids'], mask_bt=batch['weights'], chunk=logits_chunk
    )
    return sft_loss(stats, batch, config)[0], loads

  return loss


def normalised(batch: Batch) -> Batch:
  """Scales the weights so that they add up to 1.

  Args:
    batch: `weights` and `segment_ids` [batch, time].

  Returns:
    The batch, in which the first token of a segment has weight 0.
  """
  weights = predicted(batch)
  return {**batch, 'weights': weights / jnp.maximum(jnp.sum(weights), 1e-9)}


def make_update(
  transformation: optax.GradientTransformation, *, ema_decay: float
) -> UpdateFunction:
  """Builds the second half of a step.

  Args:
    transformation: the optimizer. If its state holds a learning rate, that is set in each update;
      a transformation whose numbers are constants ignores the argument.
    ema_decay: of the moving average of the weights, where the state has one.

  Returns:
    update(state, grads, learning_rate) -> the next state.
  """

  def update(state: TrainState, grads: Params, learning_rate: jax.Array) -> TrainState:
    opt_state = state.opt_state
    if optax.tree.get_all_with_path(opt_state, 'learning_rate'):
      opt_state = optax.tree.set(opt_state, learning_rate=learning_rate)
    # Optax promotes by itself: it raises float32 decays to int32 counts.
    with jax.numpy_dtype_promotion('standard'):
      updates, opt_state = transformation.update(grads, opt_state, state.params)
      params: Any = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      # The debiased average equals the plain recursion from zero divided by 1 - decay^(step + 1).
      # So every decay acts, in short runs too.
      rate = (1 - ema_decay) / (1 - ema_decay ** (state.step.astype(jnp.float32) + 1.0))
      average: Any = optax.incremental_update(params, ema, rate)
      ema = average
    return TrainState(state.step + 1, params, opt_state, ema)

  return update


def balance(loads_be: Float[Array, 'blocks experts']) -> dict[str, Float[Array, '']]:
  """Measures how evenly tokens spread over experts.

  Args:
    loads_be: tokens of each expert.

  Returns:
    Two metrics, each of the worst block. expert_load_max: the busiest expert's tokens over the mean
    (1 is even, the number of experts is one for all). experts_unused: share without a token.
  """
  mean = jnp.maximum(loads_be.mean(axis=1), 1e-9)
  return {
    'expert_load_max': jnp.max(loads_be.max(axis=1) / mean),
    'experts_unused': jnp.max(jnp.mean(loads_be == 0, axis=1)),
  }


def make_train_step(
  structure: Structure, transformation: optax.GradientTransformation, config: TrainConfig
) -> StepFunction:
  """Builds a step, to be jitted with its state donated.

  Args:
    structure: the model without arrays.
    transformation: the optimizer.
    config: loss, moving average, microbatches and chunks of logits. With microbatches, rows are cut
      into parts that go through the model one after the other; the gradient is the whole batch's.

  Returns:
    step(state, frozen, batch, learning_rate) -> (state, metrics). Only `state.params` are
    differentiated.
  """
  loss = make_loss(structure, config.loss, logits_chunk=config.train.logits_chunk)
  update = make_update(transformation, ema_decay=config.train.ema_decay)

  def step(
    state: TrainState, frozen: Params, batch: Batch, learning_rate: jax.Array
  ) -> tuple[TrainState, Arrays]:
    loss_tokens = jnp.sum(batch['weights'] > 0)
    total = accumulate_gradients(
      lambda params, rows: loss(params, frozen, rows),
      state.params,
      normalised(batch),
      config.train.microbatches,
    )
    metrics = {
      'loss': total.loss,
      'grad_norm': optax.global_norm(total.grads),
      'loss_tokens': loss_tokens,
    }
    loads = total.aux
    if loads is not None:
      metrics |= balance(loads)
    return update(state, total.grads, learning_rate), metrics

  return step
