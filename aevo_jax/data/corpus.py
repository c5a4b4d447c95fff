"""The corpus of a base: its chat format, and tasks of one's own if there are any.

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
  """What a base is trained on besides the recipe.

  Attributes:
    chat: of the base.
    items: to train on; none for the puzzles, which are generated.
  """

  chat: ChatFormat = MICRO
  items: tuple[Item, ...] = ()


def load(directory: pathlib.Path, items: Sequence[Item] = ()) -> Corpus:
  """Reads the corpus of a base's directory or a stored substrate.

  Args:
    directory: the base's or the substrate's.
    items: take the place of the train.jsonl that lies there.

  Returns:
    Chat format and items.

  Raises:
    ChatTemplateError: see `chat_template.read`.
    TaskFileError: see `own_data.read`.
  """
  chat = chat_template.read(str(directory))
  stored = directory / TRAIN
  if not items and stored.exists():
    items = own_data.read_train(stored)
  return Corpus(chat, tuple(items))


@dataclasses.dataclass(frozen=True)
class _Limits:
  """How long the sequences of a task may be, in tokens.

  Attributes:
    row_length: of a training row; None if there are none.
    max_new_tokens: of a completion; None if nothing is generated.
    max_positions: of the model.
    room: the setting that max_new_tokens is, for errors.
  """

  row_length: int | None
  max_new_tokens: int | None
  max_positions: int
  room: str


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
  """Checks that every task fits the model's rows, the sampler's room and the tokenizer.

  Args:
    tasks: to check.
    chat: of the base.
    tokenizer: of the base.
    row_length: tokens of a training row; None if there are none.
    max_new_tokens: tokens of a completion; None if nothing is generated.
    max_positions: of the model.
    verifier: as in `verify.named`.
    room: the setting that max_new_tokens is.

  Raises:
    TaskFileError: naming the first line that does not fit, and the setting to change.
  """
  limits = _Limits(row_length, max_new_tokens, max_positions, room)
  specials = []
  for token in tokenizer.get_added_tokens_decoder().values():
    if token.special:
      specials.append(token.content)
  for item, location in zip(tasks.items, tasks.locations, strict=True):
    _check_specials(item, location, specials)
    _check_writable(item, location, tokenizer, verifier)
    sequence = len(chat_sequence(item, tokenizer, chat=chat).tokens)
    prompt = len(tokenizer.encode(chat.prompt(item.question), add_special_tokens=False).ids)
    _check_lengths(sequence, prompt, location, limits)


def _check_specials(item: Item, location: str, specials: Sequence[str]) -> None:
  for text in (item.question, item.reasoning, item.answer):
    for special in specials:
      if special in text:
        raise TaskFileError(
          f'{location}: {special!r} is a control token of the base, and a task may not hold '
          'one; take it out'
        )


def _check_writable(
  item: Item, location: str, tokenizer: tokenizers.Tokenizer, verifier: str
) -> None:
  ids = tokenizer.encode(f'\\boxed{{{item.answer}}}', add_special_tokens=False).ids
  written = tokenizer.decode(ids, skip_special_tokens=False)
  answer = verify.extract_boxed(written)
  if answer != item.answer and not verify.named(verifier)(item.family, answer, item.answer):
    raise TaskFileError(
      f"{location}: the base's tokenizer cannot write the answer {item.answer!r}: boxed, "
      f'it comes back as {written!r}; spell it with characters that the tokenizer has'
    )


def _check_lengths(sequence: int, prompt: int, location: str, limits: _Limits) -> None:
  """Compares a task's tokens, of the whole sequence and of its prompt, with the limits."""
  if limits.row_length is not None and sequence > limits.row_length:
    raise TaskFileError(
      f'{location}: the task has {sequence} tokens with its chat format, and train.row_length '
      f'is {limits.row_length}; raise it in the recipe, or shorten the task'
    )
  if limits.max_new_tokens is None:
    if sequence > limits.max_positions:
      raise TaskFileError(
        f'{location}: the task has {sequence} tokens with its chat format, and the model '
        f'{limits.max_positions} positions; shorten the task'
      )
    return
  if sequence - prompt > limits.max_new_tokens:
    raise TaskFileError(
      f'{location}: solution, answer and end are {sequence - prompt} tokens, and '
      f'{limits.room} lets the model write {limits.max_new_tokens}; raise it'
    )
  if prompt + limits.max_new_tokens > limits.max_positions:
    raise TaskFileError(
      f'{location}: the prompt has {prompt} tokens, and with {limits.room} = '
      f"{limits.max_new_tokens} passes the model's {limits.max_positions} positions; lower it, or "
      'shorten the prompt'
    )
