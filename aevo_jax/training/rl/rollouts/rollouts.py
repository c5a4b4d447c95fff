"""Rollouts: groups of completions with their rewards, and the arrays that are made of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from aevo_jax.training.recipe.rl_settings import Reward
from aevo_jax.training.rl.rollouts import rewards

ROW_MULTIPLE = 32  # rows are as long as a multiple of it


@dataclasses.dataclass(frozen=True)
class Sample:
  """One completion with its prompt, of one or more turns.

  Attributes:
    group: number of its prompt in the stream.
    member: its number in the group.
    version: of the weights that sampled it.
    family: of the task.
    tokens: all, prompt first.
    turns: of each token, the turn in which the policy sampled it; -1 where it did not.
    logprobs: the sampler's of each token, in nats; 0 where it sampled nothing.
    rewards: parts before weights, of each turn.
    finish: how the last turn ended, as in `generation.protocol.Completion`.
    text: of all turns, a line each.
    digests: of the files that brought the weights to a server, of each turn.
  """

  group: int
  member: int
  version: int
  family: str
  tokens: tuple[int, ...]
  turns: tuple[int, ...]
  logprobs: tuple[float, ...]
  rewards: tuple[dict[str, float], ...]
  finish: str
  text: str
  digests: tuple[str, ...] = ()

  @property
  def mask(self) -> Bool[np.ndarray, ' tokens']:
    """Whether the policy sampled each token."""
    return np.asarray(self.turns) >= 0

  @property
  def parts(self) -> dict[str, float]:
    """The parts of the reward, added up over turns."""
    totals: dict[str, float] = {}
    for parts in self.rewards:
      for name, value in parts.items():
        totals[name] = totals.get(name, 0) + value
    return totals


@dataclasses.dataclass(frozen=True)
class Batch:
  """What a step trains on.

  Attributes:
    samples: group by group.
    arrays: as `arrays` makes them, with old_logprobs, ref_logprobs and old_values where they are
      needed, [rows, time] each.
    facts: numbers about the batch, by the names of the log.
  """

  samples: tuple[Sample, ...]
  arrays: dict[str, np.ndarray]
  facts: dict[str, float]


def grouped(samples: Sequence[Sample]) -> list[list[Sample]]:
  """Splits samples by group.

  Args:
    samples: in any order.

  Returns:
    Groups in the order of their first samples.
  """
  groups: dict[int, list[Sample]] = {}
  for sample in samples:
    groups.setdefault(sample.group, []).append(sample)
  return list(groups.values())


def with_signal(samples: Sequence[Sample], settings: Reward) -> list[list[Sample]]:
  """Selects groups from which advantages follow.

  Args:
    samples: in any order.
    settings: weights of the rewards' parts.

  Returns:
    Groups of which some are right and some are wrong. Where the verifier has no weight, groups
    whose rewards are not all equal.
  """
  selected = []
  for group in grouped(samples):
    if settings.verifiable:
      worths = [s.parts.get('verifiable', 0.0) for s in group]
    else:
      worths = [rewards.total(s.parts, settings) for s in group]
    if np.ptp(worths):
      selected.append(group)
  return selected


def arrays(samples: Sequence[Sample], rows: int) -> dict[str, np.ndarray]:
  """Lays out samples in rows.

  Args:
    samples: at most `rows`; rows beyond them are empty.
    rows: how many there are.

  Returns:
    tokens, segment_ids, mask, turns and sampler_logprobs, [rows, time] each.
  """
  longest = max([len(s.tokens) for s in samples], default=1)
  shape = (rows, -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE)
  tokens = np.zeros(shape, np.int32)
  segment_ids = np.zeros(shape, np.int32)
  mask = np.zeros(shape, np.float32)
  turns = np.full(shape, -1, np.int32)
  logprobs = np.zeros(shape, np.float32)
  for row, sample in enumerate(samples):
    length = len(sample.tokens)
    tokens[row, :length] = sample.tokens
    segment_ids[row, :length] = 1
    mask[row, :length] = sample.mask
    turns[row, :length] = sample.turns
    logprobs[row, :length] = sample.logprobs
  return {
    'tokens': tokens,
    'segment_ids': segment_ids,
    'mask': mask,
    'turns': turns,
    'sampler_logprobs': logprobs,
  }
