"""Rules by which a run stops by itself, each with a name, instead of training on what is broken."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from aevo_jax.training.rl.settings import Gates

WORST = 8  # tokens listed


class StoppedError(RuntimeError):
  """A rule stopped the run. rule: its name, a field of gates.*, or 'finite'."""

  def __init__(self, rule: str, message: str):
    super().__init__(message)
    self.rule = rule


class Gap(NamedTuple):
  """Of log-probabilities under the sampler and the trainer with the same weights, in nats. kl: k3
  of the sampler from the trainer.
  """

  largest: float
  mean: float
  kl: float


def logprob_gap(
  trainer_bt: np.ndarray,
  sampler_bt: np.ndarray,
  mask_bt: np.ndarray,
  tokens_bt: np.ndarray,
  settings: Gates,
  name_of: Callable[[int], str] = str,
) -> Gap:
  """Measures the gap over the masked tokens.

  Raises:
    StoppedError: a token's gap is larger than gates.logprob_gap, or not finite; the worst tokens
      are listed.
  """
  chosen = np.asarray(mask_bt) > 0
  difference = np.where(chosen, trainer_bt - sampler_bt, 0.0)
  size = np.where(np.isfinite(difference), np.abs(difference), np.inf)
  count = max(int(chosen.sum()), 1)
  if settings.logprob_gap and size.max(initial=0) > settings.logprob_gap:
    worst = np.argsort(-size, axis=None)[:WORST]
    lines = [
      (
        f'  row {row} place {t} {name_of(int(tokens_bt[row, t]))!r}: sampler '
        f'{sampler_bt[row, t]:.4f}, trainer {trainer_bt[row, t]:.4f}'
      )
      for row, t in zip(*np.unravel_index(worst, size.shape))
      if size[row, t] > settings.logprob_gap
    ]
    raise StoppedError(
      'logprob_gap',
      f'sampler and trainer differ by {size.max():.4f} nats in the log-probability of a '
      'token, under the same weights; gates.logprob_gap allows '
      f'{settings.logprob_gap}. {int((size > settings.logprob_gap).sum())} of {count} '
      'tokens do; the worst:\n'
      + '\n'.join(lines)
      + (
        '\nLook for different weights, temperature, dtype or padding on the two sides; '
        'raise the gate only if the difference is understood'
      ),
    )
  return Gap(
    float(size.max(initial=0)),
    float(size.sum() / count),
    float(np.where(chosen, np.exp(difference) - difference - 1, 0).sum() / count),
  )


class StopRules:
  """The rules over a run's steps; `seen` of a run that is resumed is what another object's `seen()`
  gave.
  """

  def __init__(self, settings: Gates, seen: Mapping[str, Any] | None = None):
    self._s, seen = settings, seen or {'rewards': [], 'entropies': [], 'best': None}
    self._rewards, self._entropies = (
      collections.deque(seen[name], maxlen=settings.window) for name in ('rewards', 'entropies')
    )
    self._best = -math.inf if seen['best'] is None else seen['best']

  def seen(self) -> dict[str, Any]:
    """What the rules remember, JSON-able."""
    return {
      'rewards': list(self._rewards),
      'entropies': list(self._entropies),
      'best': None if math.isinf(self._best) else self._best,
    }

  def _remember(self, metrics: dict[str, float]) -> None:
    self._rewards.append(metrics['reward'])
    if math.isfinite(metrics['entropy']):  # a step whose groups were all left out has none
      self._entropies.append(metrics['entropy'])
    if len(self._rewards) == self._s.window:
      self._best = max(self._best, float(np.mean(self._rewards)))

  def check(self, metrics: dict[str, float]) -> None:
    """Takes a step's metrics (reward, entropy, loss, grad_norm; kl_reference or kl_old).

    Raises:
      StoppedError: naming the rule and the binding that moves it.
    """
    s = self._s
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(metrics.get(name, 0.0)):
        raise StoppedError(
          'finite', f'{name} is {metrics[name]}; lower optimizer.learning_rate or clip_norm'
        )
    if s.grad_norm and metrics.get('grad_norm', 0.0) > s.grad_norm:
      raise StoppedError(
        'grad_norm',
        (
          f'divergence: gradient norm {metrics["grad_norm"]:.4g} > gates.grad_norm = '
          f'{s.grad_norm}; lower optimizer.learning_rate'
        ),
      )
    kl = metrics.get('kl_reference', metrics.get('kl_old', 0.0))
    if s.kl and kl > s.kl:
      raise StoppedError(
        'kl',
        (
          f'KL blow-up: {kl:.4g} > gates.kl = {s.kl}; lower optimizer.learning_rate or '
          'raise policy_gradient.kl_coefficient'
        ),
      )
    self._remember(metrics)
    if s.entropy and len(self._entropies) == s.window and np.mean(self._entropies) < s.entropy:
      raise StoppedError(
        'entropy',
        f'entropy collapse: {np.mean(self._entropies):.4g} nats over {s.window} steps < '
        f'gates.entropy = {s.entropy}; bind policy_gradient.entropy_bonus, or a '
        'larger clip_high',
      )
    if (
      s.reward_drop
      and len(self._rewards) == s.window
      and np.mean(self._rewards) < self._best - s.reward_drop
    ):
      raise StoppedError(
        'reward_drop',
        f'reward collapse: {np.mean(self._rewards):.4g} over {s.window} steps, '
        f'{self._best:.4g} at best, and gates.reward_drop = {s.reward_drop}; lower '
        'optimizer.learning_rate',
      )
