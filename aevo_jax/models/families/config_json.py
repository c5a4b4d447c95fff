"""The typed reader of config.json: a family declares each field once, with its type and range.

    FIELDS = {
      'hidden_size': Field(SIZE),
      'head_dim': Field(SIZE, nullable=True),
      'hidden_act': Field(Annotated[str, OneOf(('silu',))], default='silu'),
    }

JSON has one type of numbers, so 8.0 is read as 8 and 8 as 8.0. Nothing else is converted.
"""

import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from annotated_types import Interval

from aevo_jax.config import constraints

SIZE = Annotated[int, Interval(ge=1, le=2**24)]  # of a dimension, and numbers of heads and experts
SIZE_OR_ZERO = Annotated[int, Interval(ge=0, le=2**24)]
LAYERS = Annotated[int, Interval(ge=1, le=2**12)]
POSITIONS = Annotated[int, Interval(ge=1, le=2**31 - 1)]
EPSILON = Annotated[float, Interval(gt=0, le=1)]
THETA = Annotated[float, Interval(gt=0, le=1e15)]
FACTOR = Annotated[float, Interval(gt=0, le=1e6)]

# By which a config.json says that the weights are quantised: transformers, MLX, llm-compressor.
_QUANTISED = ('quantization_config', 'quantization', 'compression_config')
UNQUANTISED = (
  'Take the checkpoint from before quantisation, or dequantise it and save it again (in '
  'transformers: model.dequantize(), model.save_pretrained(...)).'
)
_SHOWN = 60  # characters of a value that is wrong
_ABSENT = object()
_WORDS: dict[Any, str] = {
  int: 'an integer',
  float: 'a number',
  bool: 'true or false',
  str: 'a string',
  list: 'a list',
  dict: 'an object',
}


class ConfigJsonError(ValueError):
  """config.json is not of a model that we compute; the message names field, found and expected."""


class Field(NamedTuple):
  """One field of config.json.

  Attributes:
    type: int, float, bool, str, dict, a list or tuple of these, or one of them Annotated with
      bounds or `OneOf`.
    default: where config.json leaves the field out; without it, the field is left out.
    nullable: null stands for a field that is left out.
    spelt: other names of it, in older files or as another version saves it.
  """

  type: Any
  default: Any = _ABSENT
  nullable: bool = False
  spelt: tuple[str, ...] = ()


Declared = Mapping[str, Field]

FLAG = Field(bool, nullable=True)
NUMBER = Field(float, nullable=True)
TEXT = Field(str, nullable=True)
OBJECT = Field(dict, nullable=True)
COUNT = Field(int, nullable=True)
TEXTS = Field(list[str], nullable=True)
# What transformers writes into every config.json and what no forward pass of ours depends on:
# training's dropout and losses, initialization, classes of heads, bookkeeping. It is held to its
# type, since transformers and vLLM read it in what is exported. So are the ids of tokens.
IGNORED: Declared = {
  '_attn_implementation': TEXT,
  '_name_or_path': TEXT,
  'architectures': TEXTS,
  'attention_dropout': NUMBER,
  'auto_map': OBJECT,
  'chunk_size_feed_forward': COUNT,
  'dtype': TEXT,
  'id2label': OBJECT,
  'initializer_range': NUMBER,
  'is_encoder_decoder': FLAG,
  'label2id': OBJECT,
  'model_type': TEXT,
  'output_attentions': FLAG,
  'output_hidden_states': FLAG,
  'output_router_logits': FLAG,
  'problem_type': TEXT,
  'return_dict': FLAG,
  'torch_dtype': TEXT,
  'transformers_version': TEXT,
  'use_cache': FLAG,
}
TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


class Values(NamedTuple):
  """What was read, and what could not be: 'FIELD = FOUND (only EXPECTED)' for each field."""

  values: dict[str, Any]
  problems: list[str]


def read(fields: Mapping[str, Any], declared: Declared, prefix: str = '') -> dict[str, Any]:
  """Reads the declared fields of config.json, and checks each that is there.

  Args:
    fields: config.json or an object in it.
    declared: the fields by their names.
    prefix: of the object, for errors, such as 'rope_parameters.'.

  Returns:
    The values by the declared names. Fields that are missing have their defaults or are missing.

  Raises:
    ConfigJsonError: a value of another type or outside its range, or two spellings of one field
      that differ. Every such field is in the message.
  """
  values, problems = typed(fields, declared, prefix)
  refuse(problems)
  return values


def typed(fields: Mapping[str, Any], declared: Declared, prefix: str = '') -> Values:
  """Reads as `read` does from any JSON object, and returns the problems."""
  values = {}
  problems = []
  for name, field in declared.items():
    present = {}
    for spelling in (name, *field.spelt):
      value = fields.get(spelling, _ABSENT)
      if value is _ABSENT or (value is None and field.nullable):
        continue
      try:
        present[spelling] = _typed(value, field.type)
      except TypeError:
        problems.append(f'{prefix}{spelling} = {_shown(value)} (only {_expected(field)})')
    if len(set(map(repr, present.values()))) > 1:
      both = ' and '.join(f'{prefix}{key} = {_shown(value)}' for key, value in present.items())
      problems.append(f'{both} (only one of them, or equal values)')
    elif present:
      values[name] = next(iter(present.values()))
    elif field.default is not _ABSENT:
      values[name] = field.default
  return Values(values, problems)


def refuse(problems: list[str]) -> None:
  """Raises a ConfigJsonError of `problems`, 'FIELD = FOUND (only EXPECTED)', if there are any."""
  if problems:
    raise ConfigJsonError(
      f'config.json asks for what this decoder does not compute: {", ".join(problems)}'
    )


def require(values: Mapping[str, Any], names: Iterable[str]) -> None:
  """Checks that some fields were there.

  Args:
    values: what `read` returned.
    names: the fields that a model needs.

  Raises:
    ConfigJsonError: with the names of those that are missing.
  """
  missing = [name for name in names if name not in values]
  if missing:
    raise ConfigJsonError(f'config.json lacks {missing}')


def unknown(fields: Mapping[str, Any], declared: Declared, ignored: Iterable[str]) -> list[str]:
  """Lists the fields that are neither read nor known to change nothing.

  Args:
    fields: config.json.
    declared: the fields that are read.
    ignored: the fields of this family that change nothing, beside `IGNORED`.

  Returns:
    Their names, sorted.
  """
  known = {*declared, *IGNORED, *TOKEN_IDS, *ignored, *_QUANTISED}
  for field in declared.values():
    known.update(field.spelt)
  return sorted(fields.keys() - known)


def passed_over(fields: Mapping[str, Any], ignored: Declared, vocab_size: int) -> Declared:
  """Declares what is not computed with: `IGNORED`, a family's own fields, and ids of tokens.

  Args:
    fields: config.json. Several tokens may end a completion: eos_token_id is a list, or an id.
    ignored: the fields of the family.
    vocab_size: rows of the embedding.

  Returns:
    The fields by their names.
  """
  id_ = Annotated[int, Interval(ge=0, le=vocab_size - 1)]
  ids: dict[str, Field] = {}
  for name in TOKEN_IDS:
    several = name == 'eos_token_id' and isinstance(fields.get(name), list)
    ids[name] = Field(list[id_] if several else id_, nullable=True)
  return {**IGNORED, **ignored, **ids}


def check_passed_over(fields: Mapping[str, Any], ignored: Declared, vocab_size: int) -> None:
  """Checks what is not computed with, for those who read the config.json of an export.

  Args:
    fields: config.json.
    ignored: the fields of the family.
    vocab_size: rows of the embedding.

  Raises:
    ConfigJsonError: a value of another type, or an id that has no embedding.
  """
  problems = typed(fields, passed_over(fields, ignored, vocab_size)).problems
  if problems:
    raise ConfigJsonError(
      f'config.json has what cannot be right, correct it there: {", ".join(problems)}'
    )


def with_integers(fields: Mapping[str, Any], declared: Declared) -> dict[str, Any]:
  """Spells integers as others insist on: 128 where config.json has 128.0.

  Args:
    fields: config.json, which was read.
    declared: its fields.

  Returns:
    The same numbers.
  """
  spelt = dict(fields)
  for name, field in declared.items():
    for spelling in (name, *field.spelt):
      if spelling in spelt:
        spelt[spelling] = _as_integers(spelt[spelling], field.type)
  return spelt


def _as_integers(value: Any, kind: Any) -> Any:
  origin = typing.get_origin(kind)
  if origin is Annotated:
    return _as_integers(value, kind.__origin__)
  if origin is list and isinstance(value, list):
    return [_as_integers(item, typing.get_args(kind)[0]) for item in value]
  if kind is int and type(value) is float and value.is_integer():
    return int(value)
  return value


def _typed(value: Any, kind: Any) -> Any:
  """Returns a value in its declared type; TypeError if it is of another or outside its range."""
  origin = typing.get_origin(kind)
  if origin is Annotated:
    typed = _typed(value, kind.__origin__)
    constraint = constraints.of_annotation(kind, 'config.json')
    if constraint is not None and not constraint.allows(typed):
      raise TypeError
    return typed
  if origin in (list, tuple):
    return _sequence(value, origin, typing.get_args(kind))
  if kind is int and type(value) is float and value.is_integer():
    return int(value)
  if kind is float and type(value) is int:
    return _as_float(value)
  if type(value) is not kind:
    raise TypeError
  return value


def _sequence(value: Any, origin: type, kinds: tuple[Any, ...]) -> list | tuple:
  """Reads a list of one type of items, or a tuple with a type for each item."""
  if not isinstance(value, list | tuple):
    raise TypeError
  if origin is list:
    return [_typed(item, kinds[0]) for item in value]
  if len(value) != len(kinds):
    raise TypeError
  return tuple(map(_typed, value, kinds))


def _as_float(value: int) -> float:
  try:
    return float(value)
  except OverflowError as error:
    raise TypeError from error


def _expected(field: Field) -> str:
  """Words what a field may hold."""
  words = _words(field.type)
  return f'{words}, or null' if field.nullable else words


def _words(kind: Any) -> str:
  origin = typing.get_origin(kind)
  if origin is Annotated:
    constraint = constraints.of_annotation(kind, 'config.json')
    if constraint is None:
      return _words(kind.__origin__)
    if constraint.options is not None:
      return ' or '.join(map(repr, constraint.options))
    range_ = constraint.words().removeprefix('be ').replace('lie in', 'in')
    return f'{_words(kind.__origin__)} {range_}'
  if origin is list:
    return f'a list whose items are {_words(typing.get_args(kind)[0])}'
  if origin is tuple:
    return f'a list of {len(typing.get_args(kind))} items, each {_words(typing.get_args(kind)[0])}'
  return _WORDS[kind]


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def refuse_quantised(fields: Mapping[str, Any]) -> None:
  """Refuses a config.json that says that the weights are quantised.

  Args:
    fields: config.json.

  Raises:
    ConfigJsonError: naming the field and its method.
  """
  for name in _QUANTISED:
    found = fields.get(name)
    if found is None:
      continue
    if isinstance(found, Mapping) and 'quant_method' in found:
      name = f'{name}.quant_method'
      found = found['quant_method']
    raise ConfigJsonError(
      f'config.json says that the weights are quantised: {name} = {_shown(found)} (only weights '
      f'in float32, bfloat16 or float16 are read). {UNQUANTISED} If the weights beside it are '
      f'plain already, remove {name.partition(".")[0]} from config.json'
    )
