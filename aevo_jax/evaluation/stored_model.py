"""A model on disk as it is scored: its weights, its base, and an adapter merged into it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from safetensors import SafetensorError

from aevo_jax import faults
from aevo_jax.checkpoint.digest import file_digest, logical_digest
from aevo_jax.data import chat_template
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.evaluation.model_files import ADAPTER, CONFIG, StoredModelError, base_of_adapter
from aevo_jax.models import lora
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import Params, Structure, outline


@dataclasses.dataclass(frozen=True)
class StoredModel:
  """A model read from disk.

  Attributes:
    config: the decoder's shape.
    structure: the decoder without its arrays.
    params: arrays by our names, float32, an adapter merged.
    tokenizer: of the base.
    chat: the base's chat template with its end tokens.
    digest: {'file_digest' or 'logical_digest': SHA-256}; of an adapter, its file's and its base's.
  """

  config: ModelConfig
  structure: Structure
  params: Params
  tokenizer: Any
  chat: chat_template.ChatFormat
  digest: dict[str, str]


def read(
  weights: pathlib.Path,
  base: pathlib.Path,
  shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> StoredModel:
  """Reads weights and what their base holds beside them.

  Args:
    weights: what `find_weights` returned. An adapter is merged into the base's weights.
    base: directory with config.json, tokenizer and chat template.
    shardings: where each parameter goes; None is the default device.

  Returns:
    The model.

  Raises:
    StoredModelError: they do not fit each other, or cannot be read.
  """
  is_adapter = weights.name == ADAPTER
  if is_adapter:
    refuse_other_base(weights.parent, base)
  try:
    config = checkpoint.read_config(base)
    if is_adapter:
      params = weights_lib.load(base, config, shardings=shardings)
      adapter = peft_adapter.load(weights.parent, config)
      digest = {'file_digest': file_digest(weights), 'base_digest': logical_digest(params)}
      params = lora.merge({**params, **adapter.params}, adapter.alpha / adapter.rank)
      if shardings is not None:
        params = jax.device_put(params, dict(shardings))
    else:
      params = weights_lib.load(weights, config, shardings=shardings)
      digest = {'logical_digest': logical_digest(params)}
      if weights.is_file():
        digest = {'file_digest': file_digest(weights)}
    chat = chat_template.read(str(base))
  except ValueError as error:
    raise StoredModelError(str(error)) from error
  except SafetensorError as error:
    raise StoredModelError(
      f'{weights} is no safetensors file ({error}); {faults.again(weights)}'
    ) from error
  structure = outline(config)[0]
  return StoredModel(config, structure, params, tokenizers.load(str(base)), chat, digest)


def refuse_other_base(adapter: pathlib.Path, base: pathlib.Path) -> None:
  """Checks that an adapter is scored on the base that it was trained on.

  Args:
    adapter: directory of the adapter.
    base: directory of the base that is to be used.

  Raises:
    StoredModelError: the adapter names a base on this machine that has other weights.
  """
  named = base_of_adapter(adapter)
  if not (named / CONFIG).is_file() or named.samefile(base):
    return
  if logical_digest(weights_lib.load(named)) != logical_digest(weights_lib.load(base)):
    raise StoredModelError(
      f'{adapter} is an adapter on {named}, and {base} has other weights; leave --base '
      'out, or give the base that it was trained on'
    )
