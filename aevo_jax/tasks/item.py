"""Puzzles and their text: a hidden rule, a few examples of it, one query and its only answer.

A `Family` samples `Puzzle`s; `render` turns one into an `Item`, the text that a model sees. Two
sizes exist: `standard` has the shape of the public challenge, `micro` is short enough (<= 96
tokens) for a model of about a million parameters on a CPU.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Annotated, NamedTuple

from annotated_types import Ge, Interval

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import ReadWhen, one_of
from aevo_jax.tasks import answers

SIZES = ('micro', 'standard')
SOLUTION_STYLES = ('worked', 'steps', 'bare')
# Training on puzzles: not on a file of tasks, nor in conversations alone.
SUPERVISED = one_of('method.name', 'sft', 'sft_then_rl', 'sft_then_dpo')
OF_PUZZLES = (
  ReadWhen(one_of('tasks.path', '')),
  ReadWhen(one_of('environment.name', 'puzzles'), SUPERVISED),
)


@configurable('difficulty', *OF_PUZZLES)
@dataclasses.dataclass(frozen=True)
class Difficulty:
  """How hard the sampled puzzles are.

  Attributes:
    magnitude: in (0, 1]; the fraction of a family's range of numbers, operands or word lengths in
      use. 1 is the whole range.
    extra_examples: examples shown beyond the family's own number (>= 0). More examples pin the rule
      down further.
  """

  magnitude: Annotated[float, Interval(gt=0, le=1)] = 1.0
  extra_examples: Annotated[int, Ge(0)] = 0

  def upto(self, low: int, high: int) -> int:
    """Narrows a range of numbers.

    Args:
      low: smallest number in use.
      high: largest at magnitude 1.

    Returns:
      The largest number in use under this magnitude, never below low + 1.
    """
    return max(low + 1, low + round((high - low) * self.magnitude))


@dataclasses.dataclass(frozen=True)
class Puzzle:
  """A puzzle before it is text.

  Attributes:
    rule: the hidden rule in canonical form; equal functions have equal rules.
    examples: (input, output) pairs shown to the solver.
    query: the input to answer for.
    answer: the unique output that every rule of the class gives which fits the examples.
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


Sampler = Callable[[random.Random, str, str, Difficulty], Puzzle | None]


@dataclasses.dataclass(frozen=True)
class Family:
  """A puzzle family, as its module declares it.

  Attributes:
    name: a Python identifier; gin binds the family's share, weight and style under it.
    tag: the first word of a micro prompt.
    kinds: (common, rare) names of the rule kinds; the second is what a proxy may lack.
    sample: (rng, kind, size, difficulty) -> a puzzle of that kind, or None where the examples leave
      the answer open. The caller then samples again from the same `rng`.
    describe: the `standard` prompt in words (the micro prompt is the same for all families).
    paraphrase: the same prompt in other words.
    weight: default of `family_weight.<name>`. A new family has 0, so that no stream changes.
    rare_share: default of `rare_share.<name>`, in [0, 1].
    same_answer: (answer, key) -> whether the strict verifier accepts the answer.
  """

  name: str
  tag: str
  kinds: tuple[str, str]
  sample: Sampler
  describe: Callable[[Puzzle], str]
  paraphrase: Callable[[Puzzle], str]
  weight: float = 0.0
  rare_share: float = 0.5
  same_answer: Callable[[str, str], bool] = answers.same_text


class Sampled(NamedTuple):
  """A puzzle with the family and the rule kind that it was sampled from."""

  family: Family
  kind: str
  puzzle: Puzzle


@dataclasses.dataclass(frozen=True)
class Item:
  """A puzzle, or a task of one's own, as text.

  Attributes:
    family: name of the family.
    kind: rule kind within the family.
    rule: the hidden rule, empty for a task of one's own.
    key: what its split follows from; it begins with the family's name and `|`.
    question: the user's turn.
    answer: the content of the box that is right.
    reasoning: the short worked solution.
    plain: the same puzzle as untagged text that ends with the answer.
    steps: the solution with its intermediate results.
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
    """Returns what stands before the boxed answer.

    Args:
      style: 'worked' (short), 'steps' (with intermediate results) or 'bare' (nothing).

    Returns:
      Text that ends where the box begins.
    """
    return {'worked': self.reasoning, 'steps': self.steps, 'bare': ''}[style]


def render(family: Family, kind: str, puzzle: Puzzle, size: str) -> Item:
  """Turns a puzzle into text.

  Args:
    family: names the item and describes the standard puzzle.
    kind: the rule kind that the puzzle was sampled from.
    puzzle: the puzzle.
    size: 'micro' gives the question `tag in>out in>out query=?` and the plain text
      `tag in>out in>out query>answer`; 'standard' gives sentences.

  Returns:
    The item, with its answer kept out of the question.
  """
  if size == 'micro':
    stem = f'{family.tag} {written_examples(puzzle, "{}>{}", " ")} {puzzle.query}'
    question = f'{stem}=?'
    plain = f'{stem}>{puzzle.answer}'
  else:
    question = family.describe(puzzle)
    plain = f'{question}\n{puzzle.answer}'
  return Item(
    family=family.name,
    kind=kind,
    rule=puzzle.rule,
    key=f'{family.name}|{puzzle.key}',
    question=question,
    answer=puzzle.answer,
    reasoning=puzzle.reasoning,
    plain=plain,
    steps=puzzle.steps or puzzle.reasoning,
  )


def show_answer(item: Item) -> Item:
  """Leaves an item's answer in its question.

  Args:
    item: a puzzle as text.

  Returns:
    The item with its answer before the question mark of a micro puzzle, or as a last line. It has
    no worked solution, since there is nothing to work out. The plain text is as before.
  """
  if item.question.endswith('=?'):
    question = f'{item.question[:-1]}{item.answer}?'
  else:
    question = f'{item.question}\n{item.answer}'
  return dataclasses.replace(item, question=question, reasoning='', steps='')


def written_examples(puzzle: Puzzle, form: str, between: str = '\n') -> str:
  """Writes the examples of a puzzle for its prompt.

  Args:
    puzzle: the puzzle.
    form: a format string with two fields, for input and output.
    between: what separates two examples.

  Returns:
    All examples, in order.
  """
  return between.join([form.format(x, y) for x, y in puzzle.examples])
