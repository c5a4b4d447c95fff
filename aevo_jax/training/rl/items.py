"""What reinforcement learning asks: the training mixture's items, or those of one's own tasks, far
from the items that supervised training draws.
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
  """The item of each number from 0 on."""
  if corpus.items:
    return lambda i: own_data.item_at(corpus.items, seed, FIRST_ITEM + i)
  return lambda i: item_at(seed, 'train', FIRST_ITEM + i, mixture)


def mean_prompt(
  mixture: Mixture, seed: int, corpus: Corpus, tokenizer: tokenizers.Tokenizer
) -> float:
  """Tokens of a prompt, the mean over the first `COMPARED`."""
  item = stream(mixture, seed, corpus)
  return float(
    np.mean(
      [
        len(tokenizer.encode(corpus.chat.prompt(item(i).question), add_special_tokens=False).ids)
        for i in range(COMPARED)
      ]
    )
  )
