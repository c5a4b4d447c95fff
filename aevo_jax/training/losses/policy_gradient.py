"""The policy-gradient loss as independent parts, of which a named algorithm chooses each.

For token t of completion i there are the advantage A and the log-probabilities of the token: under
the policy (p), under the policy as it was when the update began (old), under the sampler that chose
it and under the reference. With r = exp(log p - log old):

    loss_it = - c_it min(r A, clip(r, 1 - low, 1 + high) A) + beta kl_it - eta H_it
    loss = sum_it w_it loss_it

c corrects for the sampler, kl estimates KL(policy | reference) and H is the entropy. w are the
aggregation's weights. They are made once for the whole batch (`aggregation_weights`), so that
losses and gradients of microbatches add up to the batch's.

Sources: PPO (1707.06347, eq. 7) for the clip; GRPO (2402.03300, eq. 3 and 4) for groups and k3;
DAPO (2503.14476, eq. 8) for clip_high and the token mean; Dr. GRPO (2503.20783) for the constant
length; GSPO (2507.18071, eq. 7) for the sequence ratio; RLOO (2402.14740) for a completion as one
action, whose ratio is the trajectory's; dual clip (1912.09729, eq. 5); the estimators k1, k2, k3 of
KL (J. Schulman, 2020); truncated importance sampling of the sampler's mismatch (Yao et al., 2025).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Bool, Float, Shaped

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, other_than, refuse_unread
from aevo_jax.training.losses.batch import AnyArray, Batch
from aevo_jax.training.tokens.masked import WeightedSum

RATIOS = ('token', 'sequence', 'trajectory')
CLIPS = ('none', 'ppo', 'dual')
AGGREGATIONS = ('token_mean', 'sequence_mean', 'constant_length')
KLS = ('none', 'k1', 'k2', 'k3')
KL_POSITIONS = ('loss', 'reward')
CORRECTIONS = ('none', 'truncate', 'mask')
_RL = ReadWhen(one_of('method.name', 'rl', 'sft_then_rl'))
_RL_OR_DISTILL = ReadWhen(one_of('method.name', 'rl', 'sft_then_rl', 'distill'))
_CLIPPED = ReadWhen(other_than('policy_gradient.clip', 'none'))
# Of one update at the weights that generated, every ratio is 1 and no clip acts.
_RATIOS = ReadWhen(
  other_than('rl.epochs', 1), other_than('rl.minibatches', 1), one_of('rollout.asynchronous', True)
)
_PENALISED = ReadWhen(other_than('policy_gradient.kl', 'none'))
# Log-ratios beyond are cut: a product over a long completion would overflow, and infinity times an
# advantage of 0 is NaN.
FARTHEST = 20.0


@configurable('policy_gradient', ReadWhen(other_than('method.name', 'sft')))
@dataclasses.dataclass(frozen=True)
class PolicyGradient:
  """Which parts make up the loss.

  Attributes:
    ratio: 'token', 'sequence' (its geometric mean over the completion, GSPO) or 'trajectory' (its
      product, RLOO).
    clip: 'none'; 'ppo', to [1 - clip_low, 1 + clip_high]; 'dual', which also bounds what a
      completion with negative advantage can cost, at dual_clip * |A|.
    clip_low: see clip.
    clip_high: see clip.
    dual_clip: see clip.
    aggregation: 'token_mean' over all tokens of the batch; 'sequence_mean', of each completion's
      mean; 'constant_length', the sum of tokens over completions * constant_length.
    constant_length: see aggregation.
    kl: estimator of KL(policy | reference), 'none', 'k1', 'k2' or 'k3'.
    kl_in: 'loss', or 'reward', before advantages are taken.
    kl_coefficient: beta.
    kl_unbiased: multiplies the estimate in the loss by the ratio (DeepSeek-V3.2, 2512.02556). With
      ratio = 'token', the gradient of 'k1' and 'k3' is then that of the reverse KL of each token's
      distribution. 'k2' has that gradient on policy, without the ratio.
    correction: of the difference between sampler and trainer by c = old / sampler. 'truncate'
      bounds c by correction_cap; 'mask' sets it to 0 outside of [1 / cap, cap].
    correction_cap: see correction.
    entropy_bonus: eta.
    temperature: at which samples are drawn, and by which the trainer divides its logits too.
  """

  ratio: Annotated[str, OneOf(RATIOS), _RL] = 'token'
  clip: Annotated[str, OneOf(CLIPS), _RL] = 'ppo'
  clip_low: Annotated[float, Interval(ge=0, le=1), _RL, _CLIPPED, _RATIOS] = 0.2
  clip_high: Annotated[float, Interval(ge=0, le=100), _RL, _CLIPPED, _RATIOS] = 0.2
  dual_clip: Annotated[
    float, Interval(ge=1, le=1000), _RL, ReadWhen(one_of('policy_gradient.clip', 'dual')), _RATIOS
  ] = 3.0
  aggregation: Annotated[str, OneOf(AGGREGATIONS), _RL_OR_DISTILL] = 'token_mean'
  constant_length: Annotated[
    int,
    Interval(ge=1, le=2**31),
    _RL_OR_DISTILL,
    ReadWhen(one_of('policy_gradient.aggregation', 'constant_length')),
  ] = 64
  kl: Annotated[str, OneOf(KLS), _RL] = 'none'
  kl_in: Annotated[str, OneOf(KL_POSITIONS), _RL, _PENALISED] = 'loss'
  kl_coefficient: Annotated[float, Interval(ge=0, le=100), _RL, _PENALISED] = 0.01
  kl_unbiased: Annotated[
    bool, _RL, _PENALISED, ReadWhen(one_of('policy_gradient.kl_in', 'loss'))
  ] = False
  correction: Annotated[str, OneOf(CORRECTIONS), _RL] = 'none'
  correction_cap: Annotated[
    float,
    Interval(ge=1, le=1000),
    _RL,
    ReadWhen(other_than('policy_gradient.correction', 'none')),
  ] = 2.0
  entropy_bonus: Annotated[float, Interval(ge=-10, le=10), _RL] = 0.0
  temperature: Annotated[float, Interval(ge=0.01, le=100)] = 1.0

  def __post_init__(self):
    refuse_unread(self, 'policy_gradient')
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


def kl_estimate(
  kind: str, logprobs: Float[AnyArray, '*shape'], reference: Float[AnyArray, '*shape']
) -> Float[Array, '*shape']:
  """Estimates KL(p | reference) from tokens drawn from p, element by element.

  Args:
    kind: 'k1', 'k2' or 'k3' (J. Schulman, 2020). With d = log reference - log p they are -d,
      d^2 / 2 and exp(d) - d - 1.
    logprobs: of the tokens under p, in nats.
    reference: of the same tokens under the reference.

  Returns:
    The estimates, in nats.
  """
  log_ratio = jnp.asarray(reference - logprobs)
  if kind == 'k1':
    return -log_ratio
  if kind == 'k2':
    return jnp.square(log_ratio) / 2
  return jnp.exp(log_ratio) - log_ratio - 1


def aggregation_weights(
  mask_bt: Shaped[AnyArray, 'batch time'], config: PolicyGradient
) -> Float[np.ndarray, 'batch time']:
  """Computes what each token's loss counts in the loss of a whole batch.

  Args:
    mask_bt: 1 where the policy chose the token. Rows without any count for nothing.
    config: the aggregation.

  Returns:
    float32 weights, 0 where the mask is.
  """
  mask = np.asarray(mask_bt, np.float64)
  lengths = mask.sum(axis=1, keepdims=True)
  rows = max(int((lengths > 0).sum()), 1)
  if config.aggregation == 'token_mean':
    weights = mask / max(mask.sum(), 1)
  elif config.aggregation == 'sequence_mean':
    weights = mask / np.maximum(lengths, 1) / rows
  else:
    weights = mask / (rows * config.constant_length)
  return weights.astype(np.float32)


def correction_weights(
  old_bt: Float[AnyArray, 'batch time'],
  sampler_bt: Float[AnyArray, 'batch time'],
  config: PolicyGradient,
) -> Float[Array, 'batch time']:
  """Computes c = old / sampler, by which the policy's term is multiplied.

  Args:
    old_bt: log-probabilities when the update began, in nats.
    sampler_bt: those under the sampler.
    config: the correction. 'truncate' bounds c by the cap; 'mask' sets it to 0 outside of
      [1 / cap, cap].

  Returns:
    c; 1 where nothing is corrected.
  """
  if config.correction == 'none':
    return jnp.ones_like(old_bt)
  c = jnp.exp(old_bt - sampler_bt)
  if config.correction == 'truncate':
    return jnp.minimum(c, config.correction_cap)
  return jnp.where((c >= 1 / config.correction_cap) & (c <= config.correction_cap), c, 0.0)


def policy_gradient_loss(
  logprobs_bt: Float[AnyArray, 'batch time'],
  entropy_bt: Float[AnyArray, 'batch time'],
  batch: Batch,
  config: PolicyGradient,
) -> tuple[Float[Array, ''], dict[str, WeightedSum]]:
  """Computes the loss of some rows of a batch; the module's docstring has the formula.

  Args:
    logprobs_bt: of each token under the policy, in nats, at the config's temperature.
    entropy_bt: of the distribution that the token was drawn from, in nats.
    batch: mask, weights (`aggregation_weights` of the whole batch), advantages and old_logprobs;
      sampler_logprobs where there is a correction, ref_logprobs where there is KL in the loss. What
      lies where the mask is 0 may hold NaN, here and in the other arguments.
    config: which parts make up the loss.

  Returns:
    A scalar that adds up over rows, and metrics over tokens: clip_fraction, ratio, kl_old (k3, of
    the policy since the update began), entropy; kl_penalty and correction where there are such.
  """
  mask = jnp.asarray(batch['mask'])
  chosen = mask > 0

  def clear(x: AnyArray) -> jax.Array:
    return jnp.where(chosen, x, 0)

  logprobs = clear(logprobs_bt)
  old = clear(batch['old_logprobs'])
  advantages = clear(batch['advantages'])
  entropy = clear(entropy_bt)
  ratio = _ratio(logprobs - old, chosen, config)
  objective = _objective(ratio, advantages, config)
  metrics = {'ratio': ratio, 'kl_old': kl_estimate('k3', old, logprobs), 'entropy': entropy}
  correction = None
  if config.correction != 'none':
    correction = jax.lax.stop_gradient(
      correction_weights(old, clear(batch['sampler_logprobs']), config)
    )
    objective = correction * objective
  loss = -objective - config.entropy_bonus * entropy
  if config.kl != 'none' and config.kl_in == 'loss':
    kl = kl_estimate(config.kl, logprobs, clear(batch['ref_logprobs']))
    kl = kl * (ratio if config.kl_unbiased else 1)
    loss = loss + config.kl_coefficient * kl
    metrics['kl_penalty'] = kl
  if correction is not None:
    metrics['correction'] = correction
  if config.clip != 'none':
    metrics['clip_fraction'] = _is_clipped(ratio, advantages, config).astype(jnp.float32)
  sums = {}
  for name, value in metrics.items():
    value = jax.lax.stop_gradient(jnp.broadcast_to(value, chosen.shape))
    sums[name] = WeightedSum.of(value, mask)
  return jnp.sum(jnp.where(chosen, batch['weights'] * loss, 0)), sums


def _ratio(
  log_ratio_bt: jax.Array, chosen_bt: AnyArray, config: PolicyGradient
) -> Float[Array, 'batch time']:
  """Computes p / old of each token, or of its whole completion."""
  if config.ratio != 'token':
    total = jnp.sum(log_ratio_bt, axis=1, keepdims=True)
    if config.ratio == 'sequence':
      total = total / jnp.maximum(jnp.sum(chosen_bt, axis=1, keepdims=True), 1)
    log_ratio_bt = jnp.broadcast_to(total, log_ratio_bt.shape)
  return jnp.exp(jnp.clip(log_ratio_bt, -FARTHEST, FARTHEST))


def _objective(
  ratio_bt: jax.Array, advantages_bt: jax.Array, config: PolicyGradient
) -> Float[Array, 'batch time']:
  """Computes r A under the clip."""
  clipped = jnp.clip(ratio_bt, 1 - config.clip_low, 1 + config.clip_high)
  objective = ratio_bt * advantages_bt
  if config.clip != 'none':
    objective = jnp.minimum(objective, clipped * advantages_bt)
  if config.clip == 'dual':
    bounded = jnp.maximum(objective, config.dual_clip * advantages_bt)
    objective = jnp.where(advantages_bt < 0, bounded, objective)
  return objective


def _is_clipped(
  ratio_bt: jax.Array, advantages_bt: jax.Array, config: PolicyGradient
) -> Bool[Array, 'batch time']:
  """Returns where the clip to [1 - low, 1 + high] stops the gradient, not where dual_clip does."""
  too_low = (ratio_bt < 1 - config.clip_low) & (advantages_bt < 0)
  too_high = (ratio_bt > 1 + config.clip_high) & (advantages_bt > 0)
  return too_low | too_high
