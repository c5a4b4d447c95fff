r"""Sequences: the tokens of an item and the loss weight of each, for training and evaluation.

    chat:   <|user|> question <|assistant|> reasoning \boxed{answer} <|eos|>
            the task's form, in the base's own chat template (see `chat_template`)
    plain:  <|bos|> examples query>answer <|eos|>
            what the base was pretrained on
    worked: <|bos|> examples query: reasoning>answer <|eos|>
            the same, with the worked solution

Loss weights are per token: 0 on the prompt, `reasoning_weight` on the worked solution, 1 on the
boxed answer and the end token.
"""

import dataclasses

import numpy as np
import tokenizers
from jaxtyping import Float32, Int32

from aevo_jax.data.chat_template import MICRO, ChatFormat
from aevo_jax.data.tokenizer import BOS, EOS
from aevo_jax.tasks.item import Item


@dataclasses.dataclass(frozen=True)
class Sequence:
  """A row before packing.

  Attributes:
    tokens: ids.
    weights: the loss weight of *predicting* each token.
  """

  tokens: Int32[np.ndarray, ' tokens']
  weights: Float32[np.ndarray, ' tokens']


def chat_sequence(
  item: Item,
  tokenizer: tokenizers.Tokenizer,
  *,
  style: str = 'worked',
  reasoning_weight: float = 1.0,
  chat: ChatFormat = MICRO,
) -> Sequence:
  """Encodes an item in the task's form.

  Args:
    item: question, solution and answer.
    tokenizer: of the base.
    style: of the solution, see `Item.solution`.
    reasoning_weight: loss weight of the solution's tokens.
    chat: of the base.

  Returns:
    Prompt, solution, boxed answer and end token, each encoded for itself.
  """
  pieces = (
    (chat.prompt(item.question), 0.0),
    (item.solution(style), reasoning_weight),
    (f'\\boxed{{{item.answer}}}{chat.eos}', 1.0),
  )
  tokens = []
  weights = []
  for text, weight in pieces:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokens.append(np.asarray(ids, np.int32))
    weights.append(np.full(len(ids), weight, np.float32))
  return Sequence(np.concatenate(tokens), np.concatenate(weights))


def plain_sequence(
  text: str, tokenizer: tokenizers.Tokenizer, *, given_weight: float = 1.0
) -> Sequence:
  """Encodes untagged text, all of which is trained on.

  Args:
    text: without begin and end tokens.
    tokenizer: of the micro base.
    given_weight: loss weight of what nobody can predict, the inputs of examples. In the micro
      format, outputs follow `>` or `=` up to the next space and a worked solution follows `:` up to
      the end; those weigh 1. With 1 every token weighs the same.

  Returns:
    The text between begin and end token; the begin token weighs 0.
  """
  tokens = np.asarray(tokenizer.encode(f'{BOS}{text}{EOS}', add_special_tokens=False).ids, np.int32)
  weights = np.full(len(tokens), given_weight, np.float32)
  output_marks = {tokenizer.token_to_id('>'), tokenizer.token_to_id('=')}
  space = tokenizer.token_to_id(' ')
  solution_mark = tokenizer.token_to_id(':')
  end = tokenizer.token_to_id(EOS)
  in_output = False
  for i, token in enumerate(tokens.tolist()):
    if in_output or token == end:
      weights[i] = 1.0
    in_output = (in_output or token in output_marks) and token != space
    if token == solution_mark:
      weights[i + 1 :] = 1.0
      break
  weights[0] = 0.0
  return Sequence(tokens, weights)
