"""Advantages: what a completion, turn or token was worth beside what was to be expected.

They are computed from rewards on the host, in float64, and are constants of the loss.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, Shaped

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, one_of, refuse_unread

KINDS = ('group_std', 'group_mean', 'leave_one_out', 'batch_mean', 'gae', 'turn')
GROUPED = ('group_std', 'group_mean', 'leave_one_out', 'turn')
_GAE = ReadWhen(one_of('advantage.kind', 'gae'))
EPSILON = 1e-4  # beside the group's standard deviation


@configurable('advantage', ReadWhen(one_of('method.name', 'rl', 'sft_then_rl')))
@dataclasses.dataclass(frozen=True)
class Advantage:
  """What a completion's reward is compared with.

  Attributes:
    kind: 'group_std', (R - mean) / (sd + 1e-4) within the n completions of a prompt, with n - 1 in
      the sd (GRPO, 2402.03300); 'group_mean', R - mean (Dr. GRPO, 2503.20783); 'leave_one_out',
      R - mean of the others (RLOO, 2402.14740); 'batch_mean', R - mean of the batch (REINFORCE);
      'gae' with a critic, token by token (1506.02438); 'turn', the group's return from each turn on
      beside its mean, for tasks of several turns.
    discount: gamma of 'gae'.
    trace: lambda of 'gae'.
    turn_std: makes 'turn' divide by the standard deviation too.
  """

  kind: Annotated[str, OneOf(KINDS)] = 'group_std'
  discount: Annotated[float, Interval(ge=0, le=1), _GAE] = 1.0
  trace: Annotated[float, Interval(ge=0, le=1), _GAE] = 0.95
  turn_std: Annotated[bool, ReadWhen(one_of('advantage.kind', 'turn'))] = True

  def __post_init__(self):
    refuse_unread(self, 'advantage')


class TokenAdvantages(NamedTuple):
  """Advantages and returns of tokens, [batch, time] each, 0 where the mask is.

  returns: advantages + values, on which the critic is trained.
  """

  advantages: Float[np.ndarray, 'batch time']
  returns: Float[np.ndarray, 'batch time']


def of_completions(
  rewards_n: Sequence[float] | Shaped[np.ndarray, ' n'],
  groups_n: Sequence[int] | Shaped[np.ndarray, ' n'],
  config: Advantage,
) -> Float[np.ndarray, ' n']:
  """Computes advantages of whole completions, of the kinds that need rewards alone.

  The kinds are 'group_std', 'group_mean', 'leave_one_out' and 'batch_mean'.

  Args:
    rewards_n: of each completion.
    groups_n: number of the group of each completion.
    config: the kind.

  Returns:
    Advantages. They are exactly 0 throughout a group of equal rewards (a batch of them, for
    'batch_mean'), whatever the mean's rounding.

  Raises:
    ValueError: a group has one completion, and the kind compares within groups.
  """
  rewards = np.asarray(rewards_n, np.float64)
  groups = np.asarray(groups_n)
  advantages = np.zeros(len(rewards_n))
  if config.kind == 'batch_mean':
    return rewards - rewards.mean() if np.ptp(rewards) else advantages
  for group in np.unique(groups):
    members = np.flatnonzero(groups == group)
    if len(members) < 2:
      raise ValueError(
        f'advantage.kind = {config.kind!r} compares the completions of a prompt, and group '
        f'{group} has one; bind rollout.group_size >= 2'
      )
    if np.ptp(rewards[members]):
      advantages[members] = _within_group(rewards[members], config)
  return advantages


def _within_group(rewards: np.ndarray, config: Advantage) -> np.ndarray:
  centred = rewards - rewards.mean()
  if config.kind == 'group_std':
    return centred / (rewards.std(ddof=1) + EPSILON)
  if config.kind == 'leave_one_out':
    return centred * len(rewards) / (len(rewards) - 1)
  return centred


def gae(
  rewards_bt: Float[np.ndarray, 'batch time'],
  values_bt: Float[np.ndarray, 'batch time'],
  mask_bt: Shaped[np.ndarray, 'batch time'],
  config: Advantage,
) -> TokenAdvantages:
  """Computes generalised advantage estimates, each row by itself (1506.02438, eq. 16).

  With delta_t = r_t + gamma V_(t+1) - V_t, they are A_t = delta_t + gamma lambda A_(t+1) over the
  tokens that the policy chose. Tokens between turns are stepped over.

  Args:
    rewards_bt: reward on each token. The last chosen one of a turn has the turn's.
    values_bt: V, of the state before each token.
    mask_bt: 1 where the policy chose the token.
    config: gamma (`discount`) and lambda (`trace`).

  Returns:
    Advantages and returns.
  """
  chosen = np.asarray(mask_bt) > 0
  advantages = np.zeros(chosen.shape)
  returns = np.zeros(chosen.shape)
  for row in range(len(chosen)):
    next_advantage = 0.0
    next_value = 0.0
    for t in np.flatnonzero(chosen[row])[::-1]:
      delta = rewards_bt[row, t] + config.discount * next_value - values_bt[row, t]
      next_advantage = delta + config.discount * config.trace * next_advantage
      next_value = values_bt[row, t]
      advantages[row, t] = next_advantage
      returns[row, t] = next_advantage + next_value
  return TokenAdvantages(advantages, returns)


def of_turns(
  rewards: Sequence[Sequence[float]],
  groups_n: Sequence[int] | Shaped[np.ndarray, ' n'],
  config: Advantage,
) -> list[Float[np.ndarray, ' turns']]:
  """Computes one advantage for each turn of each completion.

  It is the return from that turn on, less the mean of the group's completions that came so far. A
  turn that only one of the group reached, or in which all returns are equal, has advantage 0.

  Args:
    rewards: of each turn of each completion.
    groups_n: number of the group of each completion.
    config: whether to divide by the standard deviation (`turn_std`).

  Returns:
    Advantages of each completion's turns.
  """
  groups = np.asarray(groups_n)
  returns = [np.cumsum(np.asarray(r, np.float64)[::-1])[::-1] for r in rewards]
  advantages = [np.zeros(len(r)) for r in returns]
  for group in np.unique(groups):
    members = np.flatnonzero(groups == group)
    longest = max([len(returns[m]) for m in members])
    for turn in range(longest):
      reached = [m for m in members if len(returns[m]) > turn]
      at_turn = np.array([returns[m][turn] for m in reached])
      if len(at_turn) > 1 and np.ptp(at_turn):
        scale = at_turn.std(ddof=1) + EPSILON if config.turn_std else 1
        for member, advantage in zip(reached, (at_turn - at_turn.mean()) / scale, strict=True):
          advantages[member][turn] = advantage
  return advantages


def whiten(
  values_bt: Float[np.ndarray, 'batch time'], mask_bt: Shaped[np.ndarray, 'batch time']
) -> Float[np.ndarray, 'batch time']:
  """Scales values to mean 0 and standard deviation 1 over a batch: (A - mean) / (sd + 1e-8).

  OpenAI's Baselines (`ppo2`) do so with the advantages of PPO.

  Args:
    values_bt: advantages.
    mask_bt: 1 at tokens that count.

  Returns:
    The scaled values, 0 where the mask is.
  """
  chosen = np.asarray(mask_bt) > 0
  values = values_bt[chosen]
  if not values.size:
    return np.zeros(chosen.shape)
  return np.where(chosen, (values_bt - values.mean()) / (values.std() + 1e-8), 0.0)
