"""What a puzzle is: a hidden rule, a few examples of it, one query, and the only answer its
published rule class allows.

Every family draws `Puzzle`s; `render` turns one into an `Item`, the text a model sees. Two sizes
exist: `standard` has the shape of the public challenge, `micro` is short enough (<= 96 tokens) for
a model of about a million parameters on a CPU.
"""

import dataclasses
import random
from typing import Protocol

from aevo_jax.config.configurables import configurable

SIZES = ('micro', 'standard')
SOLUTION_STYLES = ('worked', 'steps', 'bare')


@configurable('difficulty')
@dataclasses.dataclass(frozen=True)
class Difficulty:
  """How hard the drawn puzzles are.

  Attributes:
    magnitude: in (0, 1]; the fraction of a family's range of numbers, operands or word lengths in
      use. 1 is the whole range.
    extra_examples: examples shown beyond the family's own number (>= 0). More examples pin the rule
      down further.
  """

  magnitude: float = 1.0
  extra_examples: int = 0

  def __post_init__(self):
    if not 0 < self.magnitude <= 1:
      raise ValueError(f'difficulty.magnitude must lie in (0, 1], got {self.magnitude}')
    if self.extra_examples < 0:
      raise ValueError(f'difficulty.extra_examples must be >= 0, got {self.extra_examples}')

  def upto(self, low: int, high: int) -> int:
    """The upper end of [low, high] under this magnitude; never below low + 1."""
    return max(low + 1, low + round((high - low) * self.magnitude))


@dataclasses.dataclass(frozen=True)
class Puzzle:
  """A drawn puzzle before it is text.

  Attributes:
    rule: the hidden rule in canonical form; equal functions have equal rules.
    examples: (input, output) pairs shown to the solver.
    query: the input to answer for.
    answer: the unique output every rule of the class that fits the examples gives.
    reasoning: the worked solution, short, ending where the boxed answer begins.
    key: what the splits are made by: the rule, or (rule, query) where rules are too few.
    steps: a longer solution with its intermediate results; the same as `reasoning` where that
      leaves none out.
  """

  rule: str
  examples: tuple[tuple[str, str], ...]
  query: str
  answer: str
  reasoning: str
  key: str
  steps: str = ''


class Family(Protocol):
  """One puzzle family. `kinds` is (common, rare): the second is what a proxy may lack."""

  name: str
  tag: str
  kinds: tuple[str, str]

  def draw(self, rng: random.Random, kind: str, size: str, difficulty: Difficulty) -> Puzzle | None:
    """Draws a puzzle of `kind`; None when the examples leave the answer open, and the caller draws
    again.
    """
    ...

  def describe(self, puzzle: Puzzle) -> str:
    """The `standard` prompt in words (the micro prompt is the same for all families)."""
    ...


@dataclasses.dataclass(frozen=True)
class Item:
  """A puzzle as text. `question` is the user's turn; `plain` is the same puzzle as untagged text
  that ends with the answer.
  """

  family: str
  kind: str
  rule: str
  key: str
  question: str
  answer: str
  reasoning: str
  plain: str
  steps: str

  def solution(self, style: str) -> str:
    """What stands before the boxed answer.

    Args:
      style: 'worked' (short), 'steps' (with intermediate results) or 'bare' (nothing).
    """
    return {'worked': self.reasoning, 'steps': self.steps, 'bare': ''}[style]


def render(family: Family, kind: str, puzzle: Puzzle, size: str) -> Item:
  """Turns a puzzle into text. In micro: `tag in>out in>out query=?`, and plain `tag in>out in>out
  query>answer`.
  """
  if size == 'micro':
    shown = ' '.join(f'{x}>{y}' for x, y in puzzle.examples)
    stem = f'{family.tag} {shown} {puzzle.query}'
    question, plain = f'{stem}=?', f'{stem}>{puzzle.answer}'
  else:
    question = family.describe(puzzle)
    plain = f'{question}\n{puzzle.answer}'
  return Item(
    family.name,
    kind,
    puzzle.rule,
    f'{family.name}|{puzzle.key}',
    question,
    puzzle.answer,
    puzzle.reasoning,
    plain,
    puzzle.steps or puzzle.reasoning,
  )


def show_answer(item: Item) -> Item:
  """The item with its answer left in the question, before the question mark of a micro puzzle or as
  a last line, and no worked solution: there is nothing to work out. The plain text is as before."""
  question = (
    f'{item.question[:-1]}{item.answer}?'
    if item.question.endswith('=?')
    else f'{item.question}\n{item.answer}'
  )
  return dataclasses.replace(item, question=question, reasoning='', steps='')


def shown_lines(puzzle: Puzzle, middle: str) -> str:
  """The examples as lines, `input middle output`, for the standard prompts."""
  return '\n'.join(f'{x} {middle} {y}' for x, y in puzzle.examples)
