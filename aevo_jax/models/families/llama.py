"""Llama (2302.13971, 2307.09288) in Hugging Face, and what is published as one, such as SmolLM2."""

import re
from collections.abc import Mapping
from typing import Any

from aevo_jax.models.families import transformer
from aevo_jax.models.families.config_json import allow_only, require
from aevo_jax.models.families.family import Family

_SIZES = transformer.SIZES | transformer.MLP_SIZES
_OPTIONS = ('attention_bias', 'mlp_bias', 'tie_word_embeddings')  # false where a config has none
# What transformers takes where a config leaves them out.
_DEFAULTS = {'rms_norm_eps': 1e-6, 'max_position_embeddings': 2048, 'rope_theta': 10000.0}


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
    ValueError: a field is missing, or asks for what the decoder does not compute.
  """
  require(fields, ('num_hidden_layers', 'hidden_size', 'num_attention_heads'))
  heads = fields['num_attention_heads']
  # Models from before grouped queries have as many keys as queries.
  fields = {'num_key_value_heads': heads, **_DEFAULTS, **fields}
  require(fields, _SIZES)
  allow_only(fields, {'hidden_act': 'silu', 'rope_interleaved': False})
  # Llama 3.1 is trained with scaled positions, so that it is wrong without them.
  rope = fields.get('rope_scaling') or fields.get('rope_parameters') or {}
  allow_only(rope, {'rope_type': 'default'})
  values = {ours: fields[theirs] for theirs, ours in _SIZES.items()}
  values |= {name: fields.get(name, False) for name in _OPTIONS}
  return values | {
    'pattern': '*-' * fields['num_hidden_layers'],
    'mlp_activation': 'swiglu',
    'rope_theta': transformer.rope_from_hf(fields),
    'head_dim': fields.get('head_dim') or fields['hidden_size'] // heads,
  }


FAMILY = Family(
  model_types=('llama',),
  pattern=r'(\*-)+',
  pattern_words="'*-', one of them a layer",
  hf_name=transformer.hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fixed={
    '*': {'qk_norm': False, 'sliding_window': 0},
    '-': {'mlp_activation': 'swiglu'},
  },
  needed={'*': ('rope_theta',)},
  multiples={'hidden_size': 'num_attention_heads'},  # transformers insists, whatever head_dim is
  unused=re.compile(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq'),  # Llama 2 holds them
)
