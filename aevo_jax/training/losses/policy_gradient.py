"""The policy-gradient loss as independent parts: ratio, clip, aggregation, KL, correction of the
sampler's probabilities, entropy. A named algorithm is a choice of each.

For token t of completion i, with advantage A, log-probabilities under the policy (p), under the
policy as it was when the update began (old), under the sampler that drew the token and under the
reference, and r = exp(log p - log old):

    loss_it = - c_it min(r A, clip(r, 1 - low, 1 + high) A) + beta kl_it - eta H_it          loss =
    sum_it w_it loss_it

w are the aggregation's weights, made once for the whole batch (`aggregation_weights`), so that
losses and gradients of microbatches add up to the batch's. Sources: PPO (1707.06347); GRPO
(2402.03300); DAPO (2503.14476) for clip_high and the token mean; Dr. GRPO (2503.20783) for the
constant length; GSPO (2507.18071) for the sequence ratio; RLOO (2402.14740) for the trajectory
ratio; dual clip (1912.09729); the estimators k1, k2, k3 of KL (J. Schulman, 2020); truncated
importance sampling of the sampler's mismatch (Yao et al., 2025).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, refuse_unread
from aevo_jax.training.masked import WeightedSum

RATIOS = ('token', 'sequence', 'trajectory')
CLIPS = ('none', 'ppo', 'dual')
AGGREGATIONS = ('token_mean', 'sequence_mean', 'constant_length')
KLS = ('none', 'k1', 'k2', 'k3')
KL_PLACES = ('loss', 'reward')
CORRECTIONS = ('none', 'truncate', 'mask')
# log-ratios beyond are cut: a product over a long completion would overflow, and infinity times an
# advantage of 0 is NaN
FARTHEST = 20.0


@configurable('policy_gradient')
@dataclasses.dataclass(frozen=True)
class PolicyGradient:
  """Which parts make up the loss.

  Attributes:
    ratio: 'token', 'sequence' (its geometric mean over the completion, GSPO) or 'trajectory' (its
      product, RLOO).
    clip: 'none'; 'ppo', to [1 - clip_low, 1 + clip_high]; 'dual', which also bounds what a
      completion with negative advantage can cost, at dual_clip * |A|.
    aggregation: 'token_mean' over all tokens of the batch; 'sequence_mean', of each completion's
      mean; 'constant_length', the sum of tokens over completions * constant_length.
    kl: estimator of KL(policy | reference), times kl_coefficient; kl_in: 'loss', or 'reward',
      before advantages are taken. kl_unbiased: in the loss, the estimate is multiplied by the
        ratio, so that its gradient is that of the reverse KL (DeepSeek-V3.2, 2512.02556).
    correction: of the difference between sampler and trainer by c = old / sampler: 'truncate' to at
      most correction_cap; 'mask' sets c to 0 outside of [1 / cap, cap].
    entropy_bonus: eta. temperature: at which samples are drawn, and by which the trainer divides
      its logits too.
  """

  ratio: Annotated[str, OneOf(RATIOS)] = 'token'
  clip: Annotated[str, OneOf(CLIPS)] = 'ppo'
  clip_low: Annotated[float, Interval(ge=0, le=1)] = 0.2
  clip_high: Annotated[float, Interval(ge=0, le=100)] = 0.2
  dual_clip: Annotated[float, Interval(ge=1, le=1000)] = 3.0
  aggregation: Annotated[str, OneOf(AGGREGATIONS)] = 'token_mean'
  constant_length: Annotated[int, Interval(ge=1, le=2**31)] = 64
  kl: Annotated[str, OneOf(KLS)] = 'none'
  kl_in: Annotated[str, OneOf(KL_PLACES)] = 'loss'
  kl_coefficient: Annotated[float, Interval(ge=0, le=100)] = 0.01
  kl_unbiased: bool = False
  correction: Annotated[str, OneOf(CORRECTIONS)] = 'none'
  correction_cap: Annotated[float, Interval(ge=1, le=1000)] = 2.0
  entropy_bonus: Annotated[float, Interval(ge=-10, le=10)] = 0.0
  temperature: Annotated[float, Interval(ge=0.01, le=100)] = 1.0

  def __post_init__(self):
    refuse_unread(
      self,
      'policy_gradient',
      {
        ('clip_low', 'clip_high'): ('clip', ('ppo', 'dual')),
        ('dual_clip',): ('clip', ('dual',)),
        ('constant_length',): ('aggregation', ('constant_length',)),
        ('kl_in', 'kl_coefficient', 'kl_unbiased'): ('kl', ('k1', 'k2', 'k3')),
        ('kl_unbiased',): ('kl_in', ('loss',)),
        ('correction_cap',): ('correction', ('truncate', 'mask')),
      },
    )
    if self.clip == 'dual' and self.dual_clip <= 1 + self.clip_high:
      raise ValueError(
        f'policy_gradient.dual_clip = {self.dual_clip} lies within the clip range, 1 + '
        f'clip_high = {1 + self.clip_high}; raise it above'
      )
    if self.kl == 'k1' and self.kl_in == 'loss' and not self.kl_unbiased:
      raise ValueError(
        "policy_gradient.kl = 'k1' in the loss has the gradient of log p, which is zero "
        'in expectation: it holds the policy to nothing. '
        "Bind kl_unbiased = True, kl_in = 'reward', or kl = 'k2' or 'k3'"
      )


def kl_estimate(kind: str, logprobs: jax.Array, reference: jax.Array) -> jax.Array:
  """Estimates of KL(p | reference) from tokens drawn from p, element by element."""
  log_ratio = reference - logprobs
  return {
    'k1': lambda: -log_ratio,
    'k2': lambda: jnp.square(log_ratio) / 2,
    'k3': lambda: jnp.exp(log_ratio) - log_ratio - 1,
  }[kind]()


def aggregation_weights(mask_bt: np.ndarray, settings: PolicyGradient) -> np.ndarray:
  """[b, t] float32: what each token's loss counts in the batch's. mask_bt: 1 where the policy chose
  the token; rows without any count for nothing.
  """
  mask = np.asarray(mask_bt, np.float64)
  lengths = mask.sum(axis=1, keepdims=True)
  rows = max(int((lengths > 0).sum()), 1)
  if settings.aggregation == 'token_mean':
    weights = mask / max(mask.sum(), 1)
  elif settings.aggregation == 'sequence_mean':
    weights = mask / np.maximum(lengths, 1) / rows
  else:
    weights = mask / (rows * settings.constant_length)
  return weights.astype(np.float32)


def correction_weights(
  old_bt: jax.Array, sampler_bt: jax.Array, settings: PolicyGradient
) -> jax.Array:
  """[b, t] c, by which the policy's term is multiplied; 1 where nothing is corrected."""
  if settings.correction == 'none':
    return jnp.ones_like(old_bt)
  c = jnp.exp(old_bt - sampler_bt)
  if settings.correction == 'truncate':
    return jnp.minimum(c, settings.correction_cap)
  return jnp.where((c >= 1 / settings.correction_cap) & (c <= settings.correction_cap), c, 0.0)


def policy_gradient_loss(
  logprobs_bt: jax.Array,
  entropy_bt: jax.Array,
  batch: dict[str, jax.Array],
  settings: PolicyGradient,
) -> tuple[jax.Array, dict[str, WeightedSum]]:
  """The loss of some rows of a batch, and its diagnostics.

  Args:
    logprobs_bt: log-probability of each token under the policy, in nats, at the settings'
      temperature. entropy_bt: of the distribution that it was drawn from.
    batch: [b, t] each: mask (1 where the policy chose the token), weights (`aggregation_weights` of
      the whole batch), advantages, old_logprobs; sampler_logprobs where there is a correction,
      ref_logprobs where there is KL in the loss. What lies where the mask is 0 is not read.

  Returns:
    A scalar that adds up over rows, and WeightedSums over tokens: clip_fraction, ratio, kl_old (k3,
      of the policy since the update began), entropy; kl_penalty and
    correction where there are such.
  """
  chosen = batch['mask'] > 0
  clear = lambda x: jnp.where(chosen, x, 0)
  logprobs, old, advantages, entropy = (
    clear(logprobs_bt),
    clear(batch['old_logprobs']),
    clear(batch['advantages']),
    clear(entropy_bt),
  )
  log_ratio = logprobs - old
  ratio = jnp.exp(jnp.clip(_at_level(log_ratio, chosen, settings.ratio), -FARTHEST, FARTHEST))
  clipped = jnp.clip(ratio, 1 - settings.clip_low, 1 + settings.clip_high)
  objective = ratio * advantages
  if settings.clip != 'none':
    objective = jnp.minimum(objective, clipped * advantages)
  if settings.clip == 'dual':
    objective = jnp.where(
      advantages < 0, jnp.maximum(objective, settings.dual_clip * advantages), objective
    )
  correction = None
  if settings.correction != 'none':
    correction = jax.lax.stop_gradient(
      correction_weights(old, clear(batch['sampler_logprobs']), settings)
    )
    objective = correction * objective
  loss = -objective - settings.entropy_bonus * entropy
  said = {'ratio': ratio, 'kl_old': kl_estimate('k3', old, logprobs), 'entropy': entropy}
  if settings.kl != 'none' and settings.kl_in == 'loss':
    kl = kl_estimate(settings.kl, logprobs, clear(batch['ref_logprobs'])) * (
      ratio if settings.kl_unbiased else 1
    )
    loss = loss + settings.kl_coefficient * kl
    said['kl_penalty'] = kl
  if correction is not None:
    said['correction'] = correction
  if settings.clip != 'none':
    outside = ((ratio < 1 - settings.clip_low) & (advantages < 0)) | (
      (ratio > 1 + settings.clip_high) & (advantages > 0)
    )
    said['clip_fraction'] = outside.astype(jnp.float32)
  metrics = {
    name: WeightedSum.of(
      jax.lax.stop_gradient(jnp.broadcast_to(value, chosen.shape)), batch['mask']
    )
    for name, value in said.items()
  }
  return jnp.sum(jnp.where(chosen, batch['weights'] * loss, 0)), metrics


def _at_level(log_ratio_bt: jax.Array, chosen_bt: jax.Array, level: str) -> jax.Array:
  if level == 'token':
    return log_ratio_bt
  total = jnp.sum(log_ratio_bt, axis=1, keepdims=True)
  return jnp.broadcast_to(
    total / jnp.maximum(jnp.sum(chosen_bt, axis=1, keepdims=True), 1)
    if level == 'sequence'
    else total,
    log_ratio_bt.shape,
  )


def value_loss(values_bt: jax.Array, batch: dict[str, jax.Array], clip: float) -> jax.Array:
  """PPO's loss of a critic, a sum with the batch's weights: 1/2 max((v - R)^2, (v_old + clip(v -
  v_old, +-clip) - R)^2).

  batch: mask, weights, returns, old_values, each [b, t]. clip: 0 does not clip.
  """
  chosen = batch['mask'] > 0
  values, returns, old = (
    jnp.where(chosen, x, 0) for x in (values_bt, batch['returns'], batch['old_values'])
  )
  error = jnp.square(values - returns)
  if clip:
    error = jnp.maximum(error, jnp.square(old + jnp.clip(values - old, -clip, clip) - returns))
  return jnp.sum(jnp.where(chosen, batch['weights'] * error / 2, 0))
