"""Llama (2302.13971, 2307.09288) in Hugging Face, and what is published as one, such as SmolLM2."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from aevo_jax.config.constraints import OneOf
from aevo_jax.models.families import transformer
from aevo_jax.models.families.config_json import (
  COUNT,
  FLAG,
  ConfigJsonError,
  Field,
  read,
  require,
)
from aevo_jax.models.families.family import Family

_SIZES = transformer.SIZES | transformer.MLP_SIZES
_OPTIONS = ('attention_bias', 'mlp_bias', 'tie_word_embeddings')
# Defaults are what transformers takes where a config leaves a field out.
_FIELDS = transformer.FIELDS | {
  'max_position_embeddings': transformer.FIELDS['max_position_embeddings']._replace(default=2048),
  'rms_norm_eps': transformer.FIELDS['rms_norm_eps']._replace(default=1e-6),
  'mlp_bias': Field(bool, default=False),
  'rope_interleaved': Field(Annotated[bool, OneOf((False,))], default=False),
}


def config_to_hf(values: Mapping[str, Any]) -> dict[str, Any]:
  """Writes a config.json that Hugging Face and vLLM read.

  Args:
    values: the fields of a ModelConfig of this family.

  Returns:
    The fields of config.json, but for token ids and dtype.
  """
  fields = {theirs: values[ours] for theirs, ours in _SIZES.items()}
  fields |= {name: values[name] for name in _OPTIONS}
  return fields | {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'num_hidden_layers': len(values['pattern']) // 2,
    'head_dim': values['head_dim'],
    'hidden_act': 'silu',
    **transformer.rope_to_hf(values['rope_theta']),
  }


def config_from_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Reads config.json.

  Args:
    fields: its content, as published or as transformers 5 saves it.

  Returns:
    Fields of ModelConfig; those that are missing have transformers' defaults.

  Raises:
    ConfigJsonError: a field is missing, of another type or out of its range, or asks for what the
      decoder does not compute.
  """
  values = read(fields, _FIELDS)
  require(values, ('num_hidden_layers', 'hidden_size', 'num_attention_heads'))
  heads = values['num_attention_heads']
  # Models from before grouped queries have as many keys as queries.
  values = {'num_key_value_heads': heads, **values}
  if 'rope_theta' not in fields:
    values['rope_theta'] = 10000.0
  require(values, _SIZES)
  config = {ours: values[theirs] for theirs, ours in _SIZES.items()}
  config |= {name: values[name] for name in _OPTIONS}
  return config | {
    'pattern': '*-' * values['num_hidden_layers'],
    'mlp_activation': 'swiglu',
    'rope_theta': _theta(values),
    'head_dim': values.get('head_dim') or max(values['hidden_size'] // heads, 1),
  }


def _theta(values: Mapping[str, Any]) -> float:
  """Returns the base of the frequencies."""
  rope = values.get('rope_scaling') or values.get('rope_parameters') or {}
  # Llama 3.1 is trained with scaled positions, so that it is wrong without them.
  if rope.get('rope_type') == 'llama3':
    raise ConfigJsonError(
      "config.json asks for rope_type = 'llama3' in rope_scaling, which this decoder does not "
      'compute, and with which this model was trained; take one without scaled positions'
    )
  return transformer.rope_from_hf(values)


FAMILY = Family(
  model_types=('llama',),
  pattern=r'(\*-)+',
  pattern_words="'*-', one of them a layer",
  hf_name=transformer.hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fields=_FIELDS,
  ignored={'is_llama_config': FLAG, 'pretraining_tp': COUNT},
  fixed={
    '*': {'qk_norm': False, 'sliding_window': 0},
    '-': {'mlp_activation': 'swiglu'},
  },
  needed={'*': ('rope_theta',)},
  multiples={'hidden_size': 'num_attention_heads'},  # transformers insists, whatever head_dim is
  unused=re.compile(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq'),  # Llama 2 holds them
)
