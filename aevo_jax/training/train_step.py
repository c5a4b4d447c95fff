"""The pure training step: loss, gradient, update. No I/O, no gin, no time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from aevo_jax.models.params import Params, Structure
from aevo_jax.sharding.context import constrain_parameters
from aevo_jax.training.losses.sft import sft_loss
from aevo_jax.training.train_state import TrainState

Batch = dict[str, jax.Array]
Loss = Callable[[Params, Params, Batch], jax.Array]
Update = Callable[[TrainState, Params, jax.Array], TrainState]
Step = Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_loss(structure: Structure, *, label_smoothing: float) -> Loss:
  """Builds loss(params, frozen, batch), a scalar; `frozen` holds the base's weights under a LoRA adapter and is empty for full fine-tuning."""

  def loss(params: Params, frozen: Params, batch: Batch) -> jax.Array:
    logits = structure.bind({**frozen, **params})(batch['tokens'], batch['segment_ids'])
    return sft_loss(logits, batch, label_smoothing=label_smoothing).mean()

  return loss


def make_update(transformation: optax.GradientTransformation, *, ema_decay: float) -> Update:
  """Builds update(state, grads, learning_rate), the next state.

  The learning rate is an input; a transformation whose state holds none (its numbers are baked in) ignores it.
  """

  def update(state: TrainState, grads: Params, learning_rate: jax.Array) -> TrainState:
    opt_state = state.opt_state
    if optax.tree.get_all_with_path(opt_state, 'learning_rate'):
      opt_state = optax.tree.set(opt_state, learning_rate=learning_rate)
    updates, opt_state = transformation.update(grads, opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      # The debiased average: equal to the plain recursion from zero divided by 1 - decay^(step + 1), so every decay acts, in short runs too.
      ema = optax.incremental_update(params, ema, (1 - ema_decay) / (1 - ema_decay ** (state.step + 1.0)))
    return TrainState(state.step + 1, params, opt_state, ema)

  return update


def make_train_step(structure: Structure, transformation: optax.GradientTransformation, *, label_smoothing: float, ema_decay: float) -> Step:
  """Builds step(state, frozen, batch, learning_rate) -> (state, metrics); jit it with the state donated. Only `state.params` are differentiated."""
  loss, update = make_loss(structure, label_smoothing=label_smoothing), make_update(transformation, ema_decay=ema_decay)

  def step(state: TrainState, frozen: Params, batch: Batch, learning_rate: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    value, grads = jax.value_and_grad(loss)(state.params, frozen, batch)
    grads = constrain_parameters(grads)
    metrics = {'loss': value, 'grad_norm': optax.global_norm(grads), 'loss_tokens': jnp.sum(batch['weights'] > 0)}
    return update(state, grads, learning_rate), metrics

  return step
