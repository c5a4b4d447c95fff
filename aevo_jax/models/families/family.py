"""What a family of models declares: names of tensors, config.json, and what it can express."""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from aevo_jax.models.families.config_json import Declared

Fields = Mapping[str, Any]


def _no_remarks(fields: Fields) -> list[str]:
  del fields
  return []


@dataclasses.dataclass(frozen=True)
class Family:
  """One family, in Hugging Face's spelling; a family's module declares it as `FAMILY`.

  What config.json cannot express is refused when a model is configured (`registry.refusals`).

  Attributes:
    model_types: its names in config.json.
    pattern: a regular expression for its patterns.
    pattern_words: the same in words, for errors.
    hf_name: our parameter name -> the stored name, experts stacked.
    config_to_hf: the fields of ModelConfig -> those of config.json.
    config_from_hf: the fields of config.json -> those of ModelConfig. It raises a ConfigJsonError
      that names each field that is missing, of another type or out of its range, or that asks for
      what the decoder does not compute.
    fields: the fields of config.json that it reads.
    ignored: those that it knows and that change nothing, beside `config_json.IGNORED`.
    fixed: {blocks: {field: value}}: where a pattern has one of the blocks ('' is any pattern), that
      field of ModelConfig must have that value.
    needed: {blocks: fields}: where a pattern has one of the blocks, those fields may not be 0.
    multiples: {field: other field}: the field must be a multiple of the other.
    experts_apart: experts are written one by one instead of stacked.
    unused: the stored names of tensors that a checkpoint may hold and the forward does not use;
      they are carried along.
    remarks: a config.json that can be read -> sentences about what others compute otherwise.
  """

  model_types: tuple[str, ...]
  pattern: str
  pattern_words: str
  hf_name: Callable[[str], str]
  config_to_hf: Callable[[Fields], dict[str, Any]]
  config_from_hf: Callable[[Fields], dict[str, Any]]
  fields: Declared
  ignored: Declared
  fixed: Mapping[str, Fields]
  needed: Mapping[str, tuple[str, ...]]
  multiples: Mapping[str, str] = types.MappingProxyType({})
  experts_apart: bool = False
  unused: re.Pattern[str] | None = None
  remarks: Callable[[Fields], list[str]] = _no_remarks
