"""The pure training step: loss, gradient, update. No I/O, no gin, no time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from aevo_jax.models.params import Params, Structure
from aevo_jax.training.accumulate import accumulated
from aevo_jax.training.losses.sft import predicted, sft_loss
from aevo_jax.training.token_logprobs import token_stats
from aevo_jax.training.train_state import TrainState

Batch = dict[str, jax.Array]
Loss = Callable[[Params, Params, Batch], tuple[jax.Array, jax.Array | None]]
Update = Callable[[TrainState, Params, jax.Array], TrainState]
Step = Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_loss(structure: Structure, *, label_smoothing: float, logits_chunk: int = 0) -> Loss:
  """Builds loss(params, frozen, batch), a scalar that adds up over the rows of a `normalised`
  batch, and the experts' loads (`Decoder.with_loads`).

  `frozen` holds the base's weights under a LoRA adapter; under full fine-tuning it has routers'
  biases at most. logits_chunk: see `token_logprobs`.
  """

  def loss(params: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
    model = structure.bind({**frozen, **params})
    stats, loads = token_stats(
      model, batch['tokens'], batch['segment_ids'], wanted_bt=batch['weights'], chunk=logits_chunk
    )
    return sft_loss(stats, batch, label_smoothing=label_smoothing)[0], loads

  return loss


def normalised(batch: Batch) -> Batch:
  """The batch with weights that add up to 1, and none on the first token of a segment."""
  weights = predicted(batch)
  return batch | {'weights': weights / jnp.maximum(jnp.sum(weights), 1e-9)}


def make_update(transformation: optax.GradientTransformation, *, ema_decay: float) -> Update:
  """Builds update(state, grads, learning_rate), the next state.

  The learning rate is an input; a transformation whose state holds none (its numbers are baked in)
  ignores it.
  """

  def update(state: TrainState, grads: Params, learning_rate: jax.Array) -> TrainState:
    opt_state = state.opt_state
    if optax.tree.get_all_with_path(opt_state, 'learning_rate'):
      opt_state = optax.tree.set(opt_state, learning_rate=learning_rate)
    updates, opt_state = transformation.update(grads, opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      # The debiased average: equal to the plain recursion from zero divided by 1 - decay^(step +
      # 1), so every decay acts, in short runs too.
      ema = optax.incremental_update(
        params, ema, (1 - ema_decay) / (1 - ema_decay ** (state.step + 1.0))
      )
    return TrainState(state.step + 1, params, opt_state, ema)

  return update


def balance(loads_be: jax.Array) -> dict[str, jax.Array]:
  """How evenly tokens spread over experts, of the worst of b blocks.

  expert_load_max: the busiest expert's tokens over the mean (1 is even, the number of experts is
  one for all). experts_unused: share without a token.
  """
  mean = jnp.maximum(loads_be.mean(axis=1), 1e-9)
  return {
    'expert_load_max': jnp.max(loads_be.max(axis=1) / mean),
    'experts_unused': jnp.max(jnp.mean(loads_be == 0, axis=1)),
  }


def make_train_step(
  structure: Structure,
  transformation: optax.GradientTransformation,
  *,
  label_smoothing: float,
  ema_decay: float,
  microbatches: int = 1,
  logits_chunk: int = 0,
) -> Step:
  """Builds step(state, frozen, batch, learning_rate) -> (state, metrics); jit it with the state
  donated. Only `state.params` are differentiated.

  microbatches: into how many parts the rows are cut, one after the other, with the gradient of the
  whole batch.
  """
  loss, update = (
    make_loss(structure, label_smoothing=label_smoothing, logits_chunk=logits_chunk),
    make_update(transformation, ema_decay=ema_decay),
  )

  def step(
    state: TrainState, frozen: Params, batch: Batch, learning_rate: jax.Array
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    counted = jnp.sum(batch['weights'] > 0)
    value, loads, grads, _ = accumulated(
      lambda params, rows: loss(params, frozen, rows), state.params, normalised(batch), microbatches
    )
    metrics = {'loss': value, 'grad_norm': optax.global_norm(grads), 'loss_tokens': counted}
    if loads is not None:
      metrics |= balance(loads)
    return update(state, grads, learning_rate), metrics

  return step
