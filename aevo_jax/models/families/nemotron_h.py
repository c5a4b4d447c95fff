"""Nemotron-H in Hugging Face: every block is a layer, `model.layers.i.mixer`.

config.json gives the pattern as hybrid_override_pattern or as a list of block types.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from aevo_jax.models.families.config_json import allow_only, require
from aevo_jax.models.families.family import Family

_OF_ALL = ('vocab_size', 'hidden_size', 'layer_norm_epsilon', 'max_position_embeddings')
_OF_BLOCK = {
  '*': ('num_attention_heads', 'num_key_value_heads', 'head_dim'),
  '-': ('intermediate_size',),
  'M': (
    'mamba_num_heads',
    'mamba_head_dim',
    'n_groups',
    'ssm_state_size',
    'conv_kernel',
    'chunk_size',
  ),
  'E': (
    'n_routed_experts',
    'num_experts_per_tok',
    'moe_intermediate_size',
    'moe_shared_expert_intermediate_size',
  ),
}
# With the reference's defaults, which are ours too: a config may leave them out.
_OPTIONS = (
  'attention_bias',
  'mlp_bias',
  'use_bias',
  'use_conv_bias',
  'n_group',
  'topk_group',
  'norm_topk_prob',
  'routed_scaling_factor',
)
_OPTIONAL_SIZES = ('sliding_window', 'moe_latent_size')  # null there, 0 here
# What this decoder computes.
_ONLY = {
  'mlp_hidden_act': 'relu2',
  'mamba_hidden_act': 'silu',
  'tie_word_embeddings': False,
  'n_shared_experts': 1,
}
_NO_LIMIT = float(np.finfo(np.float32).max)  # infinity is not JSON
_SYMBOLS = {
  'mamba': 'M',
  'linear_attention': 'M',
  'attention': '*',
  'full_attention': '*',
  'moe': 'E',
  'mlp': '-',
}
_LEAVES = {
  'scale': 'weight',
  'conv_kernel': 'conv1d.weight',
  'conv_bias': 'conv1d.bias',
  'kernel': 'weight',
}


def hf_name(name: str) -> str:
  """Spells a parameter as Nemotron-H's checkpoints do.

  Args:
    name: ours, such as 'layers.0.mixer.in_proj.kernel'.

  Returns:
    The stored name, such as 'model.layers.0.mixer.in_proj.weight'.
  """
  if name == 'embedding':
    return 'model.embeddings.weight'
  stem, _, leaf = name.rpartition('.')
  if stem.endswith('.experts'):
    return f'model.{name}'
  renamed = f'{stem}.{_LEAVES.get(leaf, leaf)}'
  return renamed if stem == 'lm_head' else f'model.{renamed}'


def config_to_hf(values: Mapping[str, Any]) -> dict[str, Any]:
  """Writes a config.json that Hugging Face and vLLM read.

  Args:
    values: the fields of a ModelConfig of this family.

  Returns:
    The fields of config.json, but for token ids and dtype.
  """
  names = [*_OF_ALL]
  for of_block in _OF_BLOCK.values():
    names += of_block
  fields = {name: values[name] for name in (*names, *_OPTIONS)}
  for name in _OPTIONAL_SIZES:
    fields[name] = values[name] or None
  mamba_inner = values['mamba_num_heads'] * values['mamba_head_dim']
  return (
    fields
    | _ONLY
    | {
      'architectures': ['NemotronHForCausalLM'],
      'model_type': 'nemotron_h',
      'hybrid_override_pattern': values['pattern'],
      'num_hidden_layers': len(values['pattern']),
      'mamba_proj_bias': values['use_bias'],
      'time_step_limit': [values['time_step_low'], min(values['time_step_high'], _NO_LIMIT)],
      # transformers clamps dt from below at time_step_min (NVIDIA's code and vLLM do not, nor do
      # we); 0 would make its initializer take log 0.
      'time_step_min': max(values['time_step_low'], 1e-30),
      'expand': mamba_inner // values['hidden_size'] or 1,
      'residual_in_fp32': False,
    }
  )


def config_from_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Reads config.json.

  Args:
    fields: its content.

  Returns:
    Fields of ModelConfig; those that are missing have its defaults.

  Raises:
    ValueError: a field is missing, or asks for what the decoder does not compute.
  """
  pattern = _pattern(fields)
  required = [*_OF_ALL]
  known = {*_OF_ALL, *_OPTIONS}
  for kind, names in _OF_BLOCK.items():
    known.update(names)
    if kind in pattern:
      required += names
  require(fields, required)
  allow_only(fields, _ONLY)
  low, high = fields.get('time_step_limit', (0.0, math.inf))
  if high >= _NO_LIMIT:
    high = math.inf
  values = {name: fields[name] for name in known if name in fields}
  for name in _OPTIONAL_SIZES:
    values[name] = fields.get(name) or 0
  return values | {
    'pattern': pattern,
    'time_step_low': float(low),
    'time_step_high': float(high),
  }


def _pattern(fields: Mapping[str, Any]) -> str:
  if 'hybrid_override_pattern' in fields:
    return fields['hybrid_override_pattern']
  types = fields.get('layers_block_type', fields.get('layer_types'))
  if types is None:
    raise ValueError("config.json lacks ['hybrid_override_pattern'] or ['layers_block_type']")
  unknown = sorted(set(types) - _SYMBOLS.keys())
  if unknown:
    raise ValueError(
      f'config.json names block types {unknown}; this reader knows {sorted(_SYMBOLS)}'
    )
  return ''.join(_SYMBOLS[t] for t in types)


FAMILY = Family(
  model_types=('nemotron_h',),
  pattern=r'[M*E-]+',
  pattern_words='blocks of any kind',
  hf_name=hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fixed={
    '': {'tie_word_embeddings': False},
    '*': {'rope_theta': 0.0, 'qk_norm': False},
    '-E': {'mlp_activation': 'relu2'},
    'E': {'router': 'sigmoid'},
  },
  needed={'E': ('moe_shared_expert_intermediate_size',)},
  unused=re.compile(r'mtp\..+'),  # multi-token prediction
)
