"""Advantages of a batch's tokens: what its rewards say, as arrays of the loss."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aevo_jax.training.losses import advantages as advantages_lib
from aevo_jax.training.losses.policy_gradient import kl_estimate
from aevo_jax.training.recipe.rl_settings import Algorithm
from aevo_jax.training.rl.rollouts import rewards
from aevo_jax.training.rl.rollouts.rollouts import Batch

OF_THE_BATCH = (
  'tokens',
  'segment_ids',
  'mask',
  'old_logprobs',
  'ref_logprobs',
  'sampler_logprobs',
)


class LossInputs(NamedTuple):
  """What the loss is given of a batch but for its weights.

  arrays: of the batch, with advantages, and returns and old_values where there is a critic.
  variance: of advantages over tokens; 0 if rewards say nothing.
  """

  arrays: dict[str, np.ndarray]
  variance: float


def loss_inputs(batch: Batch, algorithm: Algorithm) -> LossInputs:
  """Computes the advantages of a batch's tokens.

  They depend on the batch and the algorithm alone, so that a batch read from its log gives the same
  loss.

  Args:
    batch: with old_logprobs where rewards have a KL penalty, and old_values where there is a
      critic.
    algorithm: its advantage, rewards and KL penalty.

  Returns:
    Arrays of the loss, and the variance of advantages.
  """
  kind = algorithm.advantage.kind
  mask = batch.arrays['mask']
  totals = np.array([rewards.total(s.parts, algorithm.reward) for s in batch.samples])
  groups = np.array([s.group for s in batch.samples])
  has_signal = _has_signal(totals, groups, kind)
  penalty = _kl_penalty(batch, algorithm)
  advantages = np.zeros(mask.shape)
  extra = {}
  if kind == 'gae':
    extra = {'returns': np.zeros(mask.shape), 'old_values': batch.arrays['old_values']}
  if has_signal and kind == 'gae':
    of_tokens = advantages_lib.gae(
      _token_rewards(batch, algorithm, penalty),
      batch.arrays['old_values'],
      mask,
      algorithm.advantage,
    )
    advantages = advantages_lib.whiten(of_tokens.advantages, mask)
    extra['returns'] = of_tokens.returns
  elif has_signal and kind == 'turn':
    advantages = _by_turn(batch, algorithm, penalty, groups)
  elif has_signal:
    advantages = _by_completion(batch, algorithm, penalty, totals, groups)
  arrays = {name: batch.arrays[name] for name in OF_THE_BATCH if name in batch.arrays}
  for name, values in (*extra.items(), ('advantages', advantages)):
    arrays[name] = np.asarray(values, np.float32)
  chosen = advantages[mask > 0]
  variance = float(chosen.var()) if chosen.size else 0.0
  return LossInputs(arrays, variance)


def _has_signal(totals: np.ndarray, groups: np.ndarray, kind: str) -> bool:
  """Whether rewards differ where advantages compare them; a KL penalty alone is no reward."""
  if not len(totals):
    return False
  if kind in ('batch_mean', 'gae'):
    return bool(np.ptp(totals))
  return any(np.ptp(totals[groups == group]) for group in np.unique(groups))


def _kl_penalty(batch: Batch, algorithm: Algorithm) -> Float[np.ndarray, 'rows time']:
  """Computes what rewards lose by KL from the reference, token by token."""
  loss = algorithm.loss
  mask = batch.arrays['mask']
  if loss.kl == 'none' or loss.kl_in != 'reward':
    return np.zeros(mask.shape)
  estimate = kl_estimate(loss.kl, batch.arrays['old_logprobs'], batch.arrays['ref_logprobs'])
  return loss.kl_coefficient * np.asarray(estimate) * mask


def _token_rewards(
  batch: Batch, algorithm: Algorithm, penalty: np.ndarray
) -> Float[np.ndarray, 'rows time']:
  """Puts every turn's reward on its last token, beside the penalty of each token."""
  turns = batch.arrays['turns']
  earned = -penalty
  for row, sample in enumerate(batch.samples):
    for turn, parts in enumerate(sample.rewards):
      last = np.flatnonzero(turns[row] == turn)[-1]
      earned[row, last] += rewards.total(parts, algorithm.reward)
  return earned


def _by_turn(
  batch: Batch, algorithm: Algorithm, penalty: np.ndarray, groups: np.ndarray
) -> Float[np.ndarray, 'rows time']:
  """Gives every token the advantage of its turn."""
  turns = batch.arrays['turns']
  turn_rewards = []
  for row, sample in enumerate(batch.samples):
    of_sample = []
    for turn, parts in enumerate(sample.rewards):
      reward = rewards.total(parts, algorithm.reward)
      of_sample.append(reward - penalty[row][turns[row] == turn].sum())
    turn_rewards.append(of_sample)
  of_turns = advantages_lib.of_turns(turn_rewards, groups, algorithm.advantage)
  advantages = np.zeros(turns.shape)
  for row, of_sample in enumerate(of_turns):
    sampled = turns[row] >= 0
    advantages[row, sampled] = of_sample[turns[row][sampled]]
  return advantages


def _by_completion(
  batch: Batch,
  algorithm: Algorithm,
  penalty: np.ndarray,
  totals: np.ndarray,
  groups: np.ndarray,
) -> Float[np.ndarray, 'rows time']:
  """Gives every token the advantage of its completion."""
  mask = batch.arrays['mask']
  count = len(batch.samples)
  by_row = advantages_lib.of_completions(
    totals - penalty.sum(axis=1)[:count], groups, algorithm.advantage
  )
  if algorithm.advantage.kind == 'group_std':
    # Where rewards are equal, the penalty's own spread would be blown up to 1.
    by_row = by_row * np.array([np.ptp(totals[groups == group]) > 0 for group in groups])
  advantages = np.zeros(mask.shape)
  advantages[:count] = by_row[:, None] * mask[:count]
  return advantages
