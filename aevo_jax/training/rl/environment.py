"""Episodes of one or more turns: what the model is shown, what its answer is worth, and what it is
shown next.

An environment makes episodes; all completions of a group are episodes of the same number. `Puzzles`
has one turn; `Tally` has several, of which only some decide anything: the task on which credit by
turns can be told from credit by completions.
"""

import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from aevo_jax.tasks.item import Item


class Turn(NamedTuple):
  """After an action: what is shown next (nothing after the last), parts of the reward that it
  earned, and whether the episode is over.
  """

  observation: str
  rewards: dict[str, float]
  done: bool


class Action(NamedTuple):
  """What the policy said in a turn. text: without the end token. tokens: how many. ended: by the
  end token.
  """

  text: str
  tokens: int
  ended: bool


class Episode(Protocol):
  """One attempt. `observation` is what is shown first, as the text of a user's turn."""

  observation: str
  family: str

  def act(self, action: Action) -> Turn: ...


class Puzzles:
  """The training mixture's items, or those of one's own tasks, each an episode of one turn."""

  max_turns = 1

  def __init__(
    self, item_at: Callable[[int], Item], reward: Callable[[Item, Action], dict[str, float]]
  ):
    self._item_at, self._reward = item_at, reward

  def episode(self, index: int) -> 'PuzzleEpisode':
    return PuzzleEpisode(self._item_at(index), self._reward)


class PuzzleEpisode:
  def __init__(self, item: Item, reward: Callable[[Item, Action], dict[str, float]]):
    self.item, self._reward, self.observation, self.family = (
      item,
      reward,
      item.question,
      item.family,
    )

  def act(self, action: Action) -> Turn:
    return Turn('', self._reward(self.item, action), True)


class Tally:
  """Several turns, of which `decisions` count: in those the model is shown `calc D`, and answers
  with the digit D + offset (mod 10), the offset being shown in the first turn; in the others it is
  shown `code`, and whatever it answers is worth nothing. A right decision earns 1 / decisions in
  its turn.

  decision_turns(index): which turns of an episode decide.
  """

  def __init__(self, turns: int = 4, decisions: int = 2, seed: int = 0):
    if not 1 <= decisions <= turns:
      raise ValueError(f'of {turns} turns {decisions} cannot decide')
    self.max_turns, self._decisions, self._seed = turns, decisions, seed

  def decision_turns(self, index: int) -> tuple[int, ...]:
    return tuple(
      sorted(
        random.Random(f'{self._seed}|turns|{index}').sample(range(self.max_turns), self._decisions)
      )
    )

  def episode(self, index: int) -> 'TallyEpisode':
    rng = random.Random(f'{self._seed}|tally|{index}')
    return TallyEpisode(
      self.max_turns,
      self.decision_turns(index),
      rng.randrange(10),
      [rng.randrange(10) for _ in range(self.max_turns)],
    )


class TallyEpisode:
  family = 'tally'

  def __init__(self, turns: int, decides: tuple[int, ...], offset: int, digits: list[int]):
    self._turns, self._decides, self._offset, self._digits, self._turn = (
      turns,
      decides,
      offset,
      digits,
      0,
    )
    self.observation = f'add {offset} {self._shown()}'

  def _shown(self) -> str:
    return f'calc {self._digits[self._turn]}' if self._turn in self._decides else 'code'

  def act(self, action: Action) -> Turn:
    right = (
      self._turn in self._decides
      and action.ended
      and action.text == str((self._digits[self._turn] + self._offset) % 10)
    )
    earned = {'verifiable': right / len(self._decides)}
    self._turn += 1
    return (
      Turn('', earned, True) if self._turn == self._turns else Turn(self._shown(), earned, False)
    )
