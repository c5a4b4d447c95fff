"""Rules by which a run stops by itself, each with a name, instead of training on what is broken."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from aevo_jax.training.recipe.rl_settings import Gates

WORST = 8  # tokens listed


class StoppedError(RuntimeError):
  """A rule stopped the run.

  Attributes:
    rule: its name, a field of gates.*, or 'finite'.
  """

  def __init__(self, rule: str, message: str):
    super().__init__(message)
    self.rule = rule


class Gap(NamedTuple):
  """Differences of log-probabilities, trainer less sampler, with the same weights, in nats.

  largest: of one token.
  quantile: `QUANTILE` of the tokens have no larger one.
  mean: over tokens.
  kl: k3 of the sampler from the trainer.
  """

  largest: float
  quantile: float
  mean: float
  kl: float


class Limits(NamedTuple):
  """What a gap may be, in nats; 0 allows any."""

  largest: float
  quantile: float
  mean: float


QUANTILE = 0.99
# {(dtype, engine): limits}, where no gate is bound; for bfloat16 two to five times the largest
# that benchmarks/logprob_gaps.py measured (docs/reinforcement.md has its table). For float32 they
# leave room for TensorFloat-32, in which a GPU may multiply.
LIMITS = {
  ('float32', 'jax'): Limits(largest=0.05, quantile=0.01, mean=0.001),
  ('float32', 'vllm'): Limits(largest=0.05, quantile=0.01, mean=0.001),
  ('bfloat16', 'jax'): Limits(largest=2.0, quantile=0.6, mean=0.06),
  ('bfloat16', 'vllm'): Limits(largest=2.0, quantile=0.6, mean=0.06),
}
# The gates, and what of the tokens each looks at.
_GAPS = {
  'logprob_gap': ('largest', 'a token'),
  'logprob_gap_quantile': ('quantile', f'one of {round(1 / (1 - QUANTILE))} tokens'),
  'logprob_gap_mean': ('mean', 'tokens in the mean'),
}


def limits(settings: Gates, dtype: str, engine: str) -> Limits:
  """Returns what the gates of a run allow.

  Args:
    settings: gates.logprob_gap, logprob_gap_quantile and logprob_gap_mean. Where one is bound, one
      that is not is off; where none is, all have the defaults of `LIMITS`.
    dtype: 'bfloat16' if trainer or sampler computes in less than float32.
    engine: rollout.engine.
  """
  bound = [getattr(settings, name) for name in _GAPS]
  if all(limit is None for limit in bound):
    return LIMITS[dtype, engine]
  return Limits(*[limit or 0.0 for limit in bound])


def logprob_gap(
  trainer_bt: Float[np.ndarray, 'batch time'],
  sampler_bt: Float[np.ndarray, 'batch time'],
  mask_bt: Float[np.ndarray, 'batch time'],
  tokens_bt: Int[np.ndarray, 'batch time'],
  allowed: Limits,
  name_of: Callable[[int], str] = str,
) -> Gap:
  """Measures how far the sampler's log-probabilities are from the trainer's.

  Args:
    trainer_bt: log-probabilities under the trainer, in nats.
    sampler_bt: those under the sampler, in nats.
    mask_bt: 1 where the policy sampled the token; elsewhere nothing is read.
    tokens_bt: ids, for the message.
    allowed: what the gap may be.
    name_of: a token's id as text.

  Returns:
    The gap over the masked tokens.

  Raises:
    StoppedError: the gap is larger than allowed, or not finite. The message names each gate and
      lists the worst tokens.
  """
  chosen = np.asarray(mask_bt) > 0
  difference = np.where(chosen, trainer_bt - sampler_bt, 0.0)
  size = np.where(np.isfinite(difference), np.abs(difference), np.inf)
  count = max(int(chosen.sum()), 1)
  k3 = np.where(chosen, np.exp(difference) - difference - 1, 0)
  gap = Gap(
    largest=float(size.max(initial=0)),
    quantile=_quantile(size[chosen]),
    mean=float(size.sum() / count),
    kl=float(k3.sum() / count),
  )
  exceeded = []
  for rule, (field, _) in _GAPS.items():
    limit = getattr(allowed, field)
    if limit and getattr(gap, field) > limit:
      exceeded.append(rule)
  if not exceeded:
    return gap
  lines = []
  for index in np.argsort(-size, axis=None)[:WORST]:
    row, t = np.unravel_index(index, size.shape)
    if size[row, t] > 0:
      lines.append(
        f'  row {row} position {t} {name_of(int(tokens_bt[row, t]))!r}: sampler '
        f'{sampler_bt[row, t]:.4f}, trainer {trainer_bt[row, t]:.4f}'
      )
  sentences = []
  for rule in exceeded:
    field, tokens = _GAPS[rule]
    sentences.append(
      f'by {getattr(gap, field):.4g} nats in the log-probability of {tokens} '
      f'(gates.{rule} allows {getattr(allowed, field):g})'
    )
  worst = '\n'.join(lines)
  raise StoppedError(
    exceeded[0],
    f'sampler and trainer differ, under the same weights, {" and ".join(sentences)}. The worst of '
    f'{count} tokens:\n{worst}'
    '\nLook for different weights, temperature, dtype or padding on the two sides; '
    'raise the gate only if the difference is understood',
  )


def _quantile(sizes: Float[np.ndarray, ' tokens']) -> float:
  """Returns the size that `QUANTILE` of them do not exceed; 0 of none."""
  if not sizes.size:
    return 0.0
  return float(np.quantile(sizes, QUANTILE, method='higher'))


class StopRules:
  """The rules over a run's steps.

  Args:
    settings: limits; 0 turns a rule off.
    memory: of a run that is resumed, what `memory` returned when it was saved.
  """

  def __init__(self, settings: Gates, memory: Mapping[str, Any] | None = None):
    self._settings = settings
    if memory is None:
      memory = {'rewards': [], 'entropies': [], 'best': None}
    self._rewards = collections.deque(memory['rewards'], maxlen=settings.window)
    self._entropies = collections.deque(memory['entropies'], maxlen=settings.window)
    self._best = -math.inf
    if memory['best'] is not None:
      self._best = memory['best']

  def memory(self) -> dict[str, Any]:
    """Returns what the rules remember, JSON-able."""
    return {
      'rewards': list(self._rewards),
      'entropies': list(self._entropies),
      'best': None if math.isinf(self._best) else self._best,
    }

  def _remember(self, metrics: Mapping[str, float]) -> None:
    self._rewards.append(metrics['reward'])
    # A step whose groups were all left out has no entropy.
    if math.isfinite(metrics['entropy']):
      self._entropies.append(metrics['entropy'])
    if len(self._rewards) == self._settings.window:
      self._best = max(self._best, float(np.mean(self._rewards)))

  def check(self, metrics: Mapping[str, float]) -> None:
    """Applies all rules to one more step.

    Args:
      metrics: of the step: reward, entropy, loss and grad_norm; kl_reference or kl_old where there
        are such.

    Raises:
      StoppedError: naming the rule and the binding that moves it.
    """
    self._check_finite(metrics)
    self._check_step(metrics)
    self._remember(metrics)
    self._check_windows()

  def _check_finite(self, metrics: Mapping[str, float]) -> None:
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(metrics.get(name, 0.0)):
        raise StoppedError(
          'finite', f'{name} is {metrics[name]}; lower optimizer.learning_rate or clip_norm'
        )

  def _check_step(self, metrics: Mapping[str, float]) -> None:
    """Checks the rules that look at one step."""
    limit = self._settings.grad_norm
    if limit and metrics.get('grad_norm', 0.0) > limit:
      raise StoppedError(
        'grad_norm',
        f'divergence: gradient norm {metrics["grad_norm"]:.4g} > gates.grad_norm = '
        f'{limit}; lower optimizer.learning_rate',
      )
    kl = metrics.get('kl_reference', metrics.get('kl_old', 0.0))
    if self._settings.kl and kl > self._settings.kl:
      raise StoppedError(
        'kl',
        f'KL blow-up: {kl:.4g} > gates.kl = {self._settings.kl}; lower optimizer.learning_rate or '
        'raise policy_gradient.kl_coefficient',
      )

  def _check_windows(self) -> None:
    """Checks the rules that look at the last `window` steps."""
    settings = self._settings
    if settings.entropy and len(self._entropies) == settings.window:
      entropy = np.mean(self._entropies)
      if entropy < settings.entropy:
        raise StoppedError(
          'entropy',
          f'entropy collapse: {entropy:.4g} nats over {settings.window} steps < '
          f'gates.entropy = {settings.entropy}; bind policy_gradient.entropy_bonus, or a '
          'larger clip_high',
        )
    if settings.reward_drop and len(self._rewards) == settings.window:
      reward = np.mean(self._rewards)
      if reward < self._best - settings.reward_drop:
        raise StoppedError(
          'reward_drop',
          f'reward collapse: {reward:.4g} over {settings.window} steps, '
          f'{self._best:.4g} at best, and gates.reward_drop = {settings.reward_drop}; lower '
          'optimizer.learning_rate',
        )
