"""The Grain pipeline: item i -> tokens -> packed rows -> batches.

It is deterministic, has random access at its source, and can be checkpointed.

A batch is {'tokens', 'weights', 'segment_ids'}, each [rows, row_length]; segment 0 is padding.
`weights[:, t]` is the loss weight of predicting token t, so prompts and padding weigh nothing.
"""

import dataclasses
import random
from collections.abc import Callable

import grain
import numpy as np
import tokenizers
from grain import experimental as grain_experimental

from aevo_jax.data.chat_format import Sequence, chat_sequence, plain_sequence
from aevo_jax.data.chat_template import MICRO
from aevo_jax.data.corpus import Corpus
from aevo_jax.data.packing import FirstFitDecreasing
from aevo_jax.tasks import own_data
from aevo_jax.tasks.mixture import Mixture, SolutionStyle, item_at
from aevo_jax.tasks.skills import skill_text

STREAM_LENGTH = 2**40  # items of an endless stream; Grain wants a length
PACKING_BINS = 16


@dataclasses.dataclass(frozen=True)
class SftSource:
  """Demonstrations: puzzles in chat form, or the items of `corpus` with the solutions they have.

  Attributes:
    seed: of the stream.
    mixture: of puzzles.
    tokenizer: of the base.
    solution_style: of each family's solutions.
    reasoning_weight: loss weight of a solution.
    plain_share: share of puzzles that are plain text (replay of the base's own format).
    demonstrations: how many different puzzles come round again and again; 0 is endlessly many.
    corpus: chat format and tasks of one's own.
  """

  seed: int
  mixture: Mixture
  tokenizer: tokenizers.Tokenizer
  solution_style: SolutionStyle = dataclasses.field(default_factory=SolutionStyle)
  reasoning_weight: float = 1.0
  plain_share: float = 0.0
  demonstrations: int = 0
  corpus: Corpus = dataclasses.field(default_factory=Corpus)

  def __post_init__(self):
    if self.plain_share and (self.corpus.items or self.corpus.chat != MICRO):
      raise ValueError(
        f'data.plain_share = {self.plain_share} replays the puzzles in the plain form '
        'that only the micro base was pretrained on; leave it at 0'
      )
    if self.demonstrations and self.corpus.items:
      raise ValueError(
        f'data.demonstrations = {self.demonstrations} counts puzzles; of tasks of your '
        'own, give the file fewer'
      )

  def __len__(self) -> int:
    return STREAM_LENGTH

  def __getitem__(self, index: int) -> Sequence:
    chat = self.corpus.chat
    if self.corpus.items:
      return chat_sequence(
        own_data.item_at(self.corpus.items, self.seed, int(index)),
        self.tokenizer,
        reasoning_weight=self.reasoning_weight,
        chat=chat,
      )
    index = int(index) % (self.demonstrations or STREAM_LENGTH)
    item = item_at(self.seed, 'train', index, self.mixture)
    if self.plain_share and random.Random(f'{self.seed}|plain|{index}').random() < self.plain_share:
      return plain_sequence(item.plain, self.tokenizer)
    return chat_sequence(
      item,
      self.tokenizer,
      style=getattr(self.solution_style, item.family),
      reasoning_weight=self.reasoning_weight,
      chat=chat,
    )


@dataclasses.dataclass(frozen=True)
class PretrainSource:
  """What a micro base is pretrained on: plain puzzles, skills, and a trace of the chat form.

  Attributes:
    seed: of the stream.
    mixture: of puzzles.
    tokenizer: of the base.
    skill_share: share of texts about the skills under the puzzles.
    chat_share: share of items in chat form.
    worked_share: share of the plain puzzles that have their solution.
    steps_share: share of these solutions that have their intermediate results.
    given_weight: see `plain_sequence`.
  """

  seed: int
  mixture: Mixture
  tokenizer: tokenizers.Tokenizer
  skill_share: float
  chat_share: float
  worked_share: float
  steps_share: float
  given_weight: float

  def __len__(self) -> int:
    return STREAM_LENGTH

  def __getitem__(self, index: int) -> Sequence:
    rng = random.Random(f'{self.seed}|pretrain|{index}')
    u = rng.random()
    if u < self.skill_share:
      return plain_sequence(
        skill_text(rng, self.mixture.size), self.tokenizer, given_weight=self.given_weight
      )
    item = item_at(self.seed, 'train', int(index), self.mixture)
    if u < self.skill_share + self.chat_share:
      return chat_sequence(item, self.tokenizer)
    text = item.plain
    if rng.random() < self.worked_share:
      style = 'steps' if rng.random() < self.steps_share else 'worked'
      text = f'{text.removesuffix(f">{item.answer}")}: {item.solution(style)}>{item.answer}'
    return plain_sequence(text, self.tokenizer, given_weight=self.given_weight)


def _features(row_length: int) -> Callable[[Sequence], dict[str, np.ndarray]]:
  """Returns the function that turns a sequence into what Grain packs."""

  def features(sequence: Sequence) -> dict[str, np.ndarray]:
    if len(sequence.tokens) > row_length:
      raise ValueError(
        f'a sequence of {len(sequence.tokens)} tokens does not fit train.row_length = '
        f'{row_length}; raise it or use size "micro"'
      )
    return {'tokens': sequence.tokens, 'weights': sequence.weights}

  return features


def _batch(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Leaves out the positions that Grain adds."""
  return {
    'tokens': packed['tokens'],
    'weights': packed['weights'],
    'segment_ids': packed['tokens_segment_ids'],
  }


def batches(
  source: SftSource | PretrainSource,
  *,
  rows: int,
  row_length: int,
  packing: str = 'first_fit',
  window: int = 256,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
  """Makes batches of packed sequences.

  Args:
    source: sequences by index.
    rows: of a batch.
    row_length: tokens of a row.
    packing: 'first_fit', Grain's, into PACKING_BINS rows at a time, or 'first_fit_decreasing' over
      `window` sequences at a time (see `packing`).
    window: sequences that are packed together.

  Returns:
    An endless Grain iterator, which `get_state` and `set_state` resume exactly.
  """
  dataset = (
    grain.MapDataset.source(source)
    .map(_features(row_length))
    .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  )
  if packing == 'first_fit_decreasing':
    packed = FirstFitDecreasing(dataset, row_length=row_length, window=window, seed=source.seed)
    return iter(packed.batch(rows, drop_remainder=True))
  dataset = grain_experimental.FirstFitPackIterDataset(
    dataset,
    length_struct={'tokens': row_length, 'weights': row_length},
    num_packing_bins=PACKING_BINS,
    shuffle_bins=False,
  )
  return iter(dataset.batch(rows, drop_remainder=True).map(_batch))
