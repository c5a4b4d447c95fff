"""The pure functions of a step: what the trainer says of a batch's tokens, and one accumulated update on a minibatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.params import Params, Structure
from aevo_jax.training.accumulate import accumulated
from aevo_jax.training.losses.distillation import distillation_loss, reverse_kl
from aevo_jax.training.losses.policy_gradient import PolicyGradient, policy_gradient_loss, value_loss
from aevo_jax.training.losses.preference import Dpo, dpo_loss
from aevo_jax.training.rl import prefix
from aevo_jax.training.rl.settings import Critic
from aevo_jax.training.token_logprobs import TokenStats, of_logits, per_token
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_update

CRITIC, TEACHER = 'critic.', 'teacher.'  # before the names of their parameters


def critic_params(width: int, seed: int) -> Params:
  """A head of one hidden layer on hidden states of `width`; it says 0 before it is trained."""
  key = jax.random.key(seed)
  return {f'{CRITIC}up': jax.random.normal(key, (width, width)) / width**0.5, f'{CRITIC}down': jnp.zeros((width, 1))}


def split(params: Params) -> tuple[Params, Params]:
  """(the policy's parameters, the critic's)."""
  return {k: v for k, v in params.items() if not k.startswith(CRITIC)}, {k: v for k, v in params.items() if k.startswith(CRITIC)}


def describe(structure: Structure, params: Params, frozen: Params, batch: dict[str, jax.Array], *, temperature: float, chunk: int) -> tuple[TokenStats, jax.Array | None]:
  """Statistics of every masked token, and the value of the state before it where there is a critic; [b, t] each. Batches may be folded (`prefix.fold`)."""
  policy, critic = split(params)
  model = structure.bind({**frozen, **policy})
  hidden = _hidden(model, batch)
  stats = per_token(lambda x, tokens: of_logits(model.logits(x), tokens, temperature), hidden, batch['tokens'], batch['mask'], chunk)
  if not critic:
    return stats, None
  # The critic reads the policy and does not move it, its last norm included.
  read = lambda x: jax.lax.stop_gradient(model.norm_f(x)).astype(jnp.float32)
  value = lambda x, _: (jax.nn.gelu(read(x) @ critic[f'{CRITIC}up']) @ critic[f'{CRITIC}down'])[..., 0]
  return stats, per_token(value, hidden, batch['tokens'], batch['mask'])


def _hidden(model: Decoder, batch: dict[str, jax.Array]) -> jax.Array:
  return prefix.hidden(model, batch) if 'prompt_tokens' in batch else model.hidden(batch['tokens'], batch['segment_ids'])[0]


def make_loss(structure: Structure, settings: PolicyGradient, critic: Critic, *, chunk: int = 0) -> Callable[[Params, Params, Any], tuple[jax.Array, Any]]:
  """Builds loss(params, frozen, rows), a scalar and diagnostics that add up over rows."""

  def loss(params: Params, frozen: Params, rows: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    stats, values = describe(structure, params, frozen, rows, temperature=settings.temperature, chunk=chunk)
    value, metrics = policy_gradient_loss(stats.logprobs, stats.entropy, rows, settings)
    if values is not None:
      value = value + critic.coefficient * value_loss(values, rows, critic.clip)
    return value, metrics

  return loss


def make_preference_loss(structure: Structure, settings: Dpo, temperature: float, *, chunk: int = 0) -> Callable[[Params, Params, Any], tuple[jax.Array, Any]]:
  """As `make_loss`, of pairs (`losses.preference`)."""

  def loss(params: Params, frozen: Params, rows: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    stats, _ = describe(structure, params, frozen, rows, temperature=temperature, chunk=chunk)
    return dpo_loss(stats.logprobs, rows, settings)

  return loss


def make_distillation_loss(structure: Structure, teacher: Structure, temperature: float, *, chunk: int = 0) -> Callable[[Params, Params, Any], tuple[jax.Array, Any]]:
  """As `make_loss`, of a teacher's distributions (`losses.distillation`); the teacher's parameters are among the frozen ones."""

  def loss(params: Params, frozen: Params, rows: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    own = {name: value for name, value in frozen.items() if not name.startswith(TEACHER)}
    student, judge = structure.bind({**own, **params}), teacher.bind({name.removeprefix(TEACHER): value for name, value in frozen.items() if name.startswith(TEACHER)})
    compare = lambda hidden, _: reverse_kl(student.logits(hidden[0]) / temperature, jax.lax.stop_gradient(judge.logits(hidden[1])) / temperature)
    kl = per_token(compare, (_hidden(student, rows), jax.lax.stop_gradient(_hidden(judge, rows))), rows['tokens'], rows['mask'], chunk)
    return distillation_loss(kl, rows)

  return loss


def make_step(loss: Callable[[Params, Params, Any], tuple[jax.Array, Any]], transformation: optax.GradientTransformation, *, ema_decay: float, microbatches: int, together: int = 1):
  """Builds step(state, frozen, rows, learning_rate) -> (state, scalars, diagnostics).

  scalars: loss, grad_norm, and grad_snr, the signal-to-noise ratio of the gradient, estimated from its microbatches: |g|^2 without noise over the variance of g, its root; 0
  where noise is all there is, NaN with one microbatch. together: so many neighbouring rows are one example.
  """
  update = make_update(transformation, ema_decay=ema_decay)

  def step(state: TrainState, frozen: Params, rows: dict[str, jax.Array], learning_rate: jax.Array):
    value, metrics, grads, squares = accumulated(lambda params, part: loss(params, frozen, part), state.params, rows, microbatches, together)
    norm = optax.global_norm(grads)
    scalars = {'loss': value, 'grad_norm': norm, 'grad_snr': signal_to_noise(norm, squares, microbatches)}
    return update(state, grads, learning_rate), scalars, metrics

  return step


def signal_to_noise(norm: jax.Array, squares: jax.Array, parts: int) -> jax.Array:
  """Of a sum of `parts` gradients with norm `norm` of the sum and sum `squares` of their squared norms."""
  if parts < 2:
    return jnp.nan
  variance = (parts * squares - jnp.square(norm)) / (parts - 1)  # of the sum: parts^2 times the variance of a part over parts
  return jnp.sqrt(jnp.maximum(jnp.square(norm) - variance, 0) / jnp.maximum(variance, 1e-30))
