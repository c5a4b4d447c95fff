"""Where the items of a run come from."""

import dataclasses

import tokenizers

from aevo_jax.data import pipeline
from aevo_jax.data.corpus import Corpus
from aevo_jax.tasks.mixture import Mixture, SolutionStyle
from aevo_jax.training.recipe.recipe import Data, Recipe


@dataclasses.dataclass(frozen=True)
class TaskSource:
  """The tasks that a run trains on, whatever its recipe.

  Attributes:
    size: of puzzles, 'micro' or 'standard'.
    seed: of the items, and of whatever the run initializes.
    corpus: the base's chat format, and tasks of one's own that take the place of puzzles.
  """

  size: str
  seed: int
  corpus: Corpus = dataclasses.field(default_factory=Corpus)


@dataclasses.dataclass(frozen=True)
class SftInputs:
  """All that the item stream of supervised fine-tuning depends on: equal inputs, equal streams.

  Nothing is checked before `source`, so that inputs can be compared without making a stream.
  """

  tasks: TaskSource
  mixture: Mixture
  tokenizer: tokenizers.Tokenizer
  solution_style: SolutionStyle
  data: Data
  reasoning_weight: float

  @classmethod
  def of(cls, recipe: Recipe, tokenizer: tokenizers.Tokenizer, tasks: TaskSource) -> 'SftInputs':
    """Selects what a recipe says about its items."""
    return cls(
      tasks=tasks,
      mixture=recipe.mixture(tasks.size),
      tokenizer=tokenizer,
      solution_style=recipe.solution_style,
      data=recipe.data,
      reasoning_weight=recipe.loss.reasoning_weight,
    )

  def source(self) -> pipeline.SftSource:
    """Opens the item stream.

    Raises:
      ValueError: settings of puzzles were bound, and the corpus holds other tasks.
    """
    return pipeline.SftSource(
      seed=self.tasks.seed,
      mixture=self.mixture,
      tokenizer=self.tokenizer,
      solution_style=self.solution_style,
      reasoning_weight=self.reasoning_weight,
      plain_share=self.data.plain_share,
      demonstrations=self.data.demonstrations,
      corpus=self.tasks.corpus,
    )
