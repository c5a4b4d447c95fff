"""The items that reinforcement learning samples answers to.

They come from the training mixture, or from one's own tasks, far from the items that supervised
training draws.
"""

from collections.abc import Callable

import numpy as np
import tokenizers

from aevo_jax.data.corpus import Corpus
from aevo_jax.tasks import own_data
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.mixture import Mixture, item_at

FIRST_ITEM = 2**32
COMPARED = 256  # items that stand for the stream


def stream(mixture: Mixture, seed: int, corpus: Corpus) -> Callable[[int], Item]:
  """Opens the stream of items.

  Args:
    mixture: of puzzles.
    seed: of the stream.
    corpus: its tasks take the place of puzzles where it has any.

  Returns:
    A function from numbers, 0 on, to items.
  """
  if corpus.items:
    return lambda i: own_data.item_at(corpus.items, seed, FIRST_ITEM + i)
  return lambda i: item_at(seed, 'train', FIRST_ITEM + i, mixture)


def mean_prompt(
  mixture: Mixture, seed: int, corpus: Corpus, tokenizer: tokenizers.Tokenizer
) -> float:
  """Measures how long prompts are.

  Args:
    mixture: of puzzles.
    seed: of the stream.
    corpus: tasks in the place of puzzles, and the chat format.
    tokenizer: of the base.

  Returns:
    Tokens of a prompt, the mean over the first `COMPARED`.
  """
  item = stream(mixture, seed, corpus)
  lengths = []
  for i in range(COMPARED):
    prompt = corpus.chat.prompt(item(i).question)
    lengths.append(len(tokenizer.encode(prompt, add_special_tokens=False).ids))
  return float(np.mean(lengths))
