r"""How an item becomes a training or evaluation sequence.

    chat:   <|user|> question <|assistant|> reasoning \boxed{answer} <|eos|>     the task's form, in
    the base's own chat template (see `chat_template`) plain:  <|bos|> examples query>answer <|eos|>
    what the base was pretrained on
    worked: <|bos|> examples query: reasoning>answer <|eos|>                     the same, with the
      worked solution

Loss weights are per token: 0 on the prompt, `reasoning_weight` on the worked solution, 1 on the
boxed answer and the end token.
"""

import dataclasses

import numpy as np
import tokenizers

from aevo_jax.data.chat_template import MICRO, ChatFormat
from aevo_jax.data.tokenizer import BOS, EOS
from aevo_jax.tasks.item import Item


@dataclasses.dataclass(frozen=True)
class Sequence:
  """tokens [n] int32; weights [n] float32, the loss weight of *predicting* each token."""

  tokens: np.ndarray
  weights: np.ndarray


def chat_sequence(
  item: Item,
  tokenizer: tokenizers.Tokenizer,
  *,
  style: str = 'worked',
  reasoning_weight: float = 1.0,
  chat: ChatFormat = MICRO,
) -> Sequence:
  """An item in the task's form, with its solution in a style of `Item.solution`."""
  pieces = (
    (chat.prompt(item.question), 0.0),
    (item.solution(style), reasoning_weight),
    (f'\\boxed{{{item.answer}}}{chat.eos}', 1.0),
  )
  encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text, _ in pieces]
  return Sequence(
    np.concatenate([np.asarray(e, np.int32) for e in encoded]),
    np.concatenate([np.full(len(e), w, np.float32) for e, (_, w) in zip(encoded, pieces)]),
  )


def plain_sequence(
  text: str, tokenizer: tokenizers.Tokenizer, *, given_weight: float = 1.0
) -> Sequence:
  """Untagged text, all of it trained on.

  Args:
    given_weight: loss weight of what nobody can predict, the inputs of examples. In the micro
      format, outputs follow `>` or `=` up to the next space and a worked solution follows `:` up to
      the end; those weigh 1. With 1 every token weighs the same.
  """
  tokens = np.asarray(tokenizer.encode(f'{BOS}{text}{EOS}', add_special_tokens=False).ids, np.int32)
  weights = np.full(len(tokens), given_weight, np.float32)
  marks, space, end = (
    {tokenizer.token_to_id('>'), tokenizer.token_to_id('=')},
    tokenizer.token_to_id(' '),
    tokenizer.token_to_id(EOS),
  )
  solution, output = tokenizer.token_to_id(':'), False
  for i, token in enumerate(tokens.tolist()):
    if output or token == end:
      weights[i] = 1.0
    output = (output or token in marks) and token != space
    if token == solution:
      weights[i + 1 :] = 1.0
      break
  weights[0] = 0.0
  return Sequence(tokens, weights)
