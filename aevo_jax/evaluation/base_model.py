"""The base model: configuration, structure, tokenizer and chat format of all scored weights."""

import pathlib
from typing import NamedTuple

import tokenizers

from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizer_lib
from aevo_jax.data.chat_template import ChatFormat
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import Structure, outline


class BaseModel(NamedTuple):
  """All of a base but its weights; directory: the folder that it was read from."""

  directory: pathlib.Path
  config: ModelConfig
  structure: Structure
  tokenizer: tokenizers.Tokenizer
  chat: ChatFormat


def read(directory: pathlib.Path) -> BaseModel:
  """Reads a base.

  Args:
    directory: a folder with config.json and the tokenizer's files.

  Returns:
    The base model.

  Raises:
    FileNotFoundError, ConfigJsonError: see `checkpoint.read_config`.
    ChatTemplateError, ValueError: see `chat_template.read`.
  """
  config = checkpoint.read_config(directory)
  structure, _ = outline(config)
  chat = chat_template.read(str(directory))
  tokenizer = tokenizer_lib.load(str(directory))
  return BaseModel(directory, config, structure, tokenizer, chat)
