"""Advantages from rewards: what each completion, turn or token was worth beside what was to be
expected. On the host, in float64; they are constants of the loss.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, refuse_unread

KINDS = ('group_std', 'group_mean', 'leave_one_out', 'batch_mean', 'gae', 'turn')
GROUPED = ('group_std', 'group_mean', 'leave_one_out', 'turn')
EPSILON = 1e-4  # beside the group's standard deviation


@configurable('advantage')
@dataclasses.dataclass(frozen=True)
class Advantage:
  """What a completion's reward is compared with.

  Attributes:
    kind: 'group_std', (R - mean) / (sd + 1e-4) within the completions of a prompt (GRPO,
      2402.03300); 'group_mean', R - mean (Dr. GRPO, 2503.20783); 'leave_one_out', R - mean of the
      others (RLOO, 2402.14740); 'batch_mean', R - mean of the batch (REINFORCE); 'gae' with a
      critic, token by token (1506.02438); 'turn', the group's return from each turn on beside its
      mean, for tasks of several turns.
    discount, trace: gamma and lambda of 'gae'. turn_std: 'turn' divides by the standard deviation
      too.
  """

  kind: Annotated[str, OneOf(KINDS)] = 'group_std'
  discount: Annotated[float, Interval(ge=0, le=1)] = 1.0
  trace: Annotated[float, Interval(ge=0, le=1)] = 0.95
  turn_std: bool = True

  def __post_init__(self):
    refuse_unread(
      self,
      'advantage',
      {('discount', 'trace'): ('kind', ('gae',)), ('turn_std',): ('kind', ('turn',))},
    )


def of_completions(rewards_n: Sequence[float], groups_n: Sequence[int], kind: str) -> np.ndarray:
  """[n] advantages of completions, of the kinds that need rewards alone; 0 throughout a group of
  equal rewards (a batch of them, for 'batch_mean').

  Raises:
    ValueError: a group of one, where the kind compares within groups.
  """
  rewards, groups, out = (
    np.asarray(rewards_n, np.float64),
    np.asarray(groups_n),
    np.zeros(len(rewards_n)),
  )
  if kind == 'batch_mean':
    return rewards - rewards.mean() if np.ptp(rewards) else out
  for group in np.unique(groups):
    members = np.flatnonzero(groups == group)
    own = rewards[members]
    if len(members) < 2:
      raise ValueError(
        f'advantage.kind = {kind!r} compares the completions of a prompt, and group '
        f'{group} has one; bind rollout.group_size >= 2'
      )
    if not np.ptp(own):
      continue  # exactly 0, whatever the mean's rounding
    centred = own - own.mean()
    out[members] = {
      'group_std': lambda: centred / (own.std(ddof=1) + EPSILON),
      'group_mean': lambda: centred,
      'leave_one_out': lambda: centred * len(own) / (len(own) - 1),
    }[kind]()
  return out


def gae(
  rewards_bt: np.ndarray,
  values_bt: np.ndarray,
  mask_bt: np.ndarray,
  *,
  discount: float,
  trace: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Generalised advantage estimates over the tokens that the policy chose, each row by itself.

  Args:
    rewards_bt: reward on each token (the last chosen one has the outcome's). values_bt: of the
      state before each token. mask_bt: 1 where the policy chose the token; tokens between turns are
        stepped over.

  Returns:
    advantages, returns (advantages + values), [b, t] each, 0 where the mask is.
  """
  chosen = np.asarray(mask_bt) > 0
  advantages, returns = np.zeros(chosen.shape), np.zeros(chosen.shape)
  for row in range(len(chosen)):
    carried = following = 0.0
    for t in np.flatnonzero(chosen[row])[::-1]:
      delta = rewards_bt[row, t] + discount * following - values_bt[row, t]
      carried = delta + discount * trace * carried
      following = values_bt[row, t]
      advantages[row, t], returns[row, t] = carried, carried + values_bt[row, t]
  return advantages, returns


def of_turns(
  rewards: Sequence[Sequence[float]], groups_n: Sequence[int], *, std: bool
) -> list[np.ndarray]:
  """Of each completion, one advantage a turn: its return from that turn on, less the mean (over the
  sd, where `std`) of the group's completions that came so far.

  A turn that only one of the group reached, or in which all returns are equal, has advantage 0.
  """
  returns, groups = (
    [np.cumsum(np.asarray(r, np.float64)[::-1])[::-1] for r in rewards],
    np.asarray(groups_n),
  )
  out = [np.zeros(len(r)) for r in returns]
  for group in np.unique(groups):
    members = np.flatnonzero(groups == group)
    for turn in range(max(len(returns[m]) for m in members)):
      reached = [m for m in members if len(returns[m]) > turn]
      own = np.array([returns[m][turn] for m in reached])
      if len(own) > 1 and np.ptp(own):
        for m, advantage in zip(
          reached, (own - own.mean()) / (own.std(ddof=1) + EPSILON if std else 1)
        ):
          out[m][turn] = advantage
  return out


def whiten(values_bt: np.ndarray, mask_bt: np.ndarray) -> np.ndarray:
  """Mean 0 and sd 1 over the masked tokens of the batch, as PPO does with GAE."""
  chosen = np.asarray(mask_bt) > 0
  own = values_bt[chosen]
  return (
    np.where(chosen, (values_bt - own.mean()) / (own.std() + 1e-8), 0.0)
    if own.size
    else np.zeros(chosen.shape)
  )
