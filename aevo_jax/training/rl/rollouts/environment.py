"""Episodes of one or more turns, and the environments that make them.

All completions of a group are episodes of the same number. `Puzzles` has one turn. `Tally` has
several, of which only some decide anything: on that task, credit by turns can be told from credit
by completions.
"""

import random
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from aevo_jax.tasks.item import Item


class Turn(NamedTuple):
  """What follows an action.

  observation: text that is shown next; empty after the last turn.
  rewards: parts of the reward that the action earned, before weights.
  done: whether the episode is over.
  """

  observation: str
  rewards: dict[str, float]
  done: bool


class Action(NamedTuple):
  """The policy's answer in a turn.

  text: without the end token.
  tokens: how many it has.
  ended: whether it ended by the end token.
  """

  text: str
  tokens: int
  ended: bool


@runtime_checkable
class Episode(Protocol):
  """One attempt. `observation` is shown first, as the text of a user's turn."""

  observation: str
  family: str

  def act(self, action: Action) -> Turn: ...


@runtime_checkable
class Environment(Protocol):
  """Makes episodes by number; `max_turns` is how many turns one may have."""

  max_turns: int

  def episode(self, index: int) -> Episode: ...


RewardFunction = Callable[[Item, Action], dict[str, float]]


class Puzzles:
  """Items of the training mixture, or of one's own tasks, each an episode of one turn."""

  max_turns = 1

  def __init__(self, item_at: Callable[[int], Item], reward: RewardFunction):
    self._item_at = item_at
    self._reward = reward

  def episode(self, index: int) -> 'PuzzleEpisode':
    """Makes the episode of an item.

    Args:
      index: of the item in the stream.
    """
    return PuzzleEpisode(self._item_at(index), self._reward)


class PuzzleEpisode:
  """An item's question, and the reward of its answer."""

  def __init__(self, item: Item, reward: RewardFunction):
    self._item = item
    self._reward = reward
    self.observation = item.question
    self.family = item.family

  def act(self, action: Action) -> Turn:
    """Rewards the answer and ends the episode.

    Args:
      action: the answer.

    Returns:
      The last turn, with nothing to show.
    """
    return Turn('', self._reward(self._item, action), True)


class Tally:
  """Conversations of several turns, some of which decide.

  In those the model is shown `calc D`, and answers with the digit D + offset (mod 10); the first
  turn shows the offset. In the others it is shown `code`, and no answer is worth anything. A right
  decision earns 1 / decisions in its turn.

  Args:
    turns: of an episode.
    decisions: turns that decide.
    seed: of all episodes.

  Raises:
    ValueError: decisions do not fit the turns.
  """

  def __init__(self, turns: int = 4, decisions: int = 2, seed: int = 0):
    if not 1 <= decisions <= turns:
      raise ValueError(f'of {turns} turns {decisions} cannot decide')
    self.max_turns = turns
    self._decisions = decisions
    self._seed = seed

  def decision_turns(self, index: int) -> tuple[int, ...]:
    """Draws the turns that decide.

    Args:
      index: of the episode.

    Returns:
      Numbers of turns from 0 on, in order.
    """
    rng = random.Random(f'{self._seed}|turns|{index}')
    return tuple(sorted(rng.sample(range(self.max_turns), self._decisions)))

  def episode(self, index: int) -> 'TallyEpisode':
    """Makes an episode; those of equal index are equal.

    Args:
      index: of the episode.

    Returns:
      It before its first turn.
    """
    rng = random.Random(f'{self._seed}|tally|{index}')
    offset = rng.randrange(10)
    digits = [rng.randrange(10) for _ in range(self.max_turns)]
    return TallyEpisode(self.decision_turns(index), offset, digits)


class TallyEpisode:
  """One conversation of `Tally`, with a digit for each turn."""

  family = 'tally'

  def __init__(self, decision_turns: tuple[int, ...], offset: int, digits: list[int]):
    self._decision_turns = decision_turns
    self._offset = offset
    self._digits = digits
    self._turn = 0
    self.observation = f'add {offset} {self._shown()}'

  def _shown(self) -> str:
    if self._turn in self._decision_turns:
      return f'calc {self._digits[self._turn]}'
    return 'code'

  def act(self, action: Action) -> Turn:
    """Rewards a decision, and goes on to the next turn.

    Args:
      action: the answer.

    Returns:
      The reward of this turn, and what the next one shows.
    """
    answer = str((self._digits[self._turn] + self._offset) % 10)
    decides = self._turn in self._decision_turns
    right = decides and action.ended and action.text == answer
    earned = {'verifiable': right / len(self._decision_turns)}
    self._turn += 1
    if self._turn == len(self._digits):
      return Turn('', earned, True)
    return Turn(self._shown(), earned, False)
