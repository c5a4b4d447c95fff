"""What a base is trained on besides the recipe: its chat format, and tasks of one's own if there
are any.

A substrate's stored object holds both: the files of the chat format, and the train split of the
tasks as `train.jsonl`, which is all that a worker sees of them.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import tokenizers

from aevo_jax.data import chat_template
from aevo_jax.data.chat_format import chat_sequence
from aevo_jax.data.chat_template import MICRO, ChatFormat
from aevo_jax.tasks import own_data, verify
from aevo_jax.tasks.item import Item
from aevo_jax.tasks.own_data import OwnTasks, TaskFileError

TRAIN = 'train.jsonl'


@dataclasses.dataclass(frozen=True)
class Corpus:
  """items: to train on; none for the puzzles, which are generated."""

  chat: ChatFormat = MICRO
  items: tuple[Item, ...] = ()


def load(directory: pathlib.Path, items: Sequence[Item] = ()) -> Corpus:
  """The corpus of a base's directory or a stored substrate; `items` in place of the train.jsonl
  that lies there.

  Raises:
    ChatTemplateError, TaskFileError: see `chat_template.read` and `own_data.read`.
  """
  stored = directory / TRAIN
  return Corpus(
    chat_template.read(str(directory)),
    tuple(items) or (own_data.read_train(stored) if stored.exists() else ()),
  )


def check_fit(
  tasks: OwnTasks,
  chat: ChatFormat,
  tokenizer: tokenizers.Tokenizer,
  *,
  row_length: int | None,
  max_new_tokens: int | None,
  max_positions: int,
  verifier: str = 'strict',
  room: str = 'objective.max_new_tokens',
) -> None:
  """Whether every task fits the model's rows, the sampler's room and the tokenizer.

  Args:
    row_length: tokens of a training row; None if there are none. max_new_tokens: of a completion;
      None if nothing is generated. max_positions: of the model. verifier: as in `verify.named`.
        room: the setting that max_new_tokens is.

  Raises:
    TaskFileError: naming the first line that does not, and the setting to change.
  """
  specials = [
    token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
  ]
  for item, place in zip(tasks.items, tasks.locations):
    for text in (item.question, item.reasoning, item.answer):
      if found := next((s for s in specials if s in text), None):
        raise TaskFileError(
          f'{place}: {found!r} is a control token of the base, and a task may not hold '
          'one; take it out'
        )
    written = tokenizer.decode(
      tokenizer.encode(f'\\boxed{{{item.answer}}}', add_special_tokens=False).ids,
      skip_special_tokens=False,
    )
    read = verify.extract_boxed(written)
    if read != item.answer and not verify.named(verifier)(item.family, read, item.answer):
      raise TaskFileError(
        f"{place}: the base's tokenizer cannot write the answer {item.answer!r}: boxed, "
        f'it comes back as {written!r}; spell it with characters that the tokenizer has'
      )
    whole = len(chat_sequence(item, tokenizer, chat=chat).tokens)
    prompt = len(tokenizer.encode(chat.prompt(item.question), add_special_tokens=False).ids)
    if row_length is not None and whole > row_length:
      raise TaskFileError(
        f'{place}: the task has {whole} tokens with its chat format, and train.row_length '
        f'is {row_length}; raise it in the recipe, or shorten the task'
      )
    if max_new_tokens is None:
      if whole > max_positions:
        raise TaskFileError(
          f'{place}: the task has {whole} tokens with its chat format, and the model '
          f'{max_positions} positions; shorten the task'
        )
      continue
    if whole - prompt > max_new_tokens:
      raise TaskFileError(
        f'{place}: solution, answer and end are {whole - prompt} tokens, and {room} lets '
        f'the model write {max_new_tokens}; raise it'
      )
    if prompt + max_new_tokens > max_positions:
      raise TaskFileError(
        f'{place}: the prompt has {prompt} tokens, and with {room} = {max_new_tokens} '
        f"passes the model's {max_positions} positions; lower it, or "
        'shorten the prompt'
      )
