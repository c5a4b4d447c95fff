"""Nemotron-H in Hugging Face: every block is a layer, `model.layers.i.mixer`.

config.json gives the pattern as hybrid_override_pattern or as a list of block types.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from aevo_jax.config.constraints import OneOf
from aevo_jax.models.families import config_json
from aevo_jax.models.families.config_json import Field, read, refuse, require
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
_LIMIT = Annotated[float, Interval(ge=0)]
_MINIMUM = Annotated[float, Interval(ge=0, le=1e6)]
_FIELDS = {
  'vocab_size': Field(config_json.SIZE),
  'hidden_size': Field(config_json.SIZE),
  'layer_norm_epsilon': Field(config_json.EPSILON),
  'max_position_embeddings': Field(config_json.POSITIONS),
  'num_hidden_layers': Field(config_json.LAYERS, nullable=True),
  'hybrid_override_pattern': Field(str, nullable=True),
  'layers_block_type': Field(list[str], nullable=True, spelt=('layer_types',)),
  'num_attention_heads': Field(config_json.SIZE),
  'num_key_value_heads': Field(config_json.SIZE),
  'head_dim': Field(config_json.SIZE),
  'attention_bias': Field(bool),
  'sliding_window': Field(config_json.SIZE, nullable=True),
  'intermediate_size': Field(config_json.SIZE),
  'mlp_bias': Field(bool),
  'mlp_hidden_act': Field(Annotated[str, OneOf((_ONLY['mlp_hidden_act'],))]),
  'mamba_num_heads': Field(config_json.SIZE),
  'mamba_head_dim': Field(config_json.SIZE),
  'n_groups': Field(config_json.SIZE, spelt=('mamba_n_groups',)),
  'ssm_state_size': Field(config_json.SIZE),
  'conv_kernel': Field(config_json.SIZE, spelt=('mamba_d_conv',)),
  'chunk_size': Field(config_json.SIZE, spelt=('mamba_chunk_size',)),
  'use_bias': Field(bool),
  'use_conv_bias': Field(bool, spelt=('mamba_conv_bias',)),
  'mamba_hidden_act': Field(Annotated[str, OneOf((_ONLY['mamba_hidden_act'],))]),
  'time_step_limit': Field(
    tuple[_LIMIT, _LIMIT], default=(0.0, math.inf), spelt=('mamba_dt_limit',)
  ),
  'time_step_min': Field(_MINIMUM, default=1e-3, spelt=('mamba_dt_min',)),
  'n_routed_experts': Field(config_json.SIZE, spelt=('num_local_experts',)),
  'num_experts_per_tok': Field(config_json.SIZE),
  'moe_intermediate_size': Field(config_json.SIZE),
  'moe_shared_expert_intermediate_size': Field(config_json.SIZE_OR_ZERO),
  'moe_latent_size': Field(config_json.SIZE, nullable=True),
  'n_shared_experts': Field(Annotated[int, OneOf((_ONLY['n_shared_experts'],))]),
  'n_group': Field(config_json.SIZE),
  'topk_group': Field(config_json.SIZE),
  'norm_topk_prob': Field(bool),
  'routed_scaling_factor': Field(config_json.FACTOR),
  'tie_word_embeddings': Field(Annotated[bool, OneOf((_ONLY['tie_word_embeddings'],))]),
}
# Initialization, training, speed, multi-token prediction, and what NVIDIA's code does not read.
_IGNORED = {
  'expand': config_json.NUMBER,
  'hidden_dropout': config_json.NUMBER,
  'mamba_dt_init_floor': config_json.NUMBER,
  'mamba_dt_max': config_json.NUMBER,
  'mamba_expand': config_json.NUMBER,
  'mamba_proj_bias': config_json.FLAG,
  'mamba_ssm_cache_dtype': config_json.TEXT,
  'moe_shared_expert_overlap': config_json.FLAG,
  'mtp_hybrid_override_pattern': config_json.TEXT,
  'mtp_layers_block_type': config_json.TEXTS,
  'norm_eps': config_json.NUMBER,
  'num_logits_to_keep': config_json.COUNT,
  'num_nextn_predict_layers': config_json.COUNT,
  'partial_rotary_factor': config_json.NUMBER,
  'rescale_prenorm_residual': config_json.FLAG,
  'residual_in_fp32': config_json.FLAG,
  'rope_theta': config_json.NUMBER,
  'time_step_floor': config_json.NUMBER,
  'time_step_max': config_json.NUMBER,
  'use_mamba_kernels': config_json.FLAG,
}
_NOTHING_BELOW = 1e-20  # no softplus in float32 of a trained model is as small
_TYPES = 'layers_block_type (layer_types)'
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
    ConfigJsonError: a field is missing, of another type or out of its range, or asks for what the
      decoder does not compute.
  """
  values = read(fields, _FIELDS)
  pattern = _pattern(values)
  required = [*_OF_ALL]
  known = {*_OF_ALL, *_OPTIONS}
  for kind, names in _OF_BLOCK.items():
    known.update(names)
    if kind in pattern:
      required += names
  require(values, required)
  low, high = values['time_step_limit']
  if not low < high:
    refuse([f'time_step_limit = {[low, high]} (only a lower limit below the upper one)'])
  if high >= _NO_LIMIT:
    high = math.inf
  config = {name: values[name] for name in known if name in values}
  for name in _OPTIONAL_SIZES:
    config[name] = values.get(name, 0)
  return config | {'pattern': pattern, 'time_step_low': low, 'time_step_high': high}


def _pattern(values: Mapping[str, Any]) -> str:
  """Returns the blocks, in whichever way config.json gives them."""
  spelt = {}
  if 'hybrid_override_pattern' in values:
    spelt['hybrid_override_pattern'] = values['hybrid_override_pattern']
  if 'layers_block_type' in values:
    types = values['layers_block_type']
    unknown = sorted(set(types) - _SYMBOLS.keys())
    if unknown:
      raise config_json.ConfigJsonError(
        f'config.json names block types {unknown} in {_TYPES}; this reader knows {sorted(_SYMBOLS)}'
      )
    spelt[_TYPES] = ''.join(_SYMBOLS[t] for t in types)
  if not spelt:
    raise config_json.ConfigJsonError(f"config.json lacks ['hybrid_override_pattern'] or {_TYPES}")
  name, pattern = next(iter(spelt.items()))
  layers = values.get('num_hidden_layers', len(pattern))
  problems = []
  if not re.fullmatch('[M*E-]+', pattern):
    problems.append(f'{name} = {pattern!r} (only blocks M, *, - and E, one at least)')
  if len(set(spelt.values())) > 1:
    problems.append(f'{" and ".join(spelt)} (only one of them, or the same blocks)')
  if layers != len(pattern):
    problems.append(f'num_hidden_layers = {layers} (only {len(pattern)}, as many as {name} has)')
  refuse(problems)
  return pattern


def remarks(fields: Mapping[str, Any]) -> list[str]:
  """Says where transformers' forward pass cuts mamba's dt otherwise than this decoder.

  Args:
    fields: a config.json that `config_from_hf` reads.

  Returns:
    A sentence, or none where nothing is cut anywhere.
  """
  values = read(fields, _FIELDS)
  low, high = values['time_step_limit']
  theirs = values['time_step_min']
  is_cut = max(low, theirs) > _NOTHING_BELOW or high < _NO_LIMIT
  if 'M' not in _pattern(values) or not is_cut:
    return []
  return [
    f"mamba's dt is cut to time_step_limit = [{low:g}, {high:g}] here and in NVIDIA's code. "
    f'transformers cuts it to [{theirs:g}, inf] (time_step_min) in its forward pass and not at all '
    'when it decodes token by token, vLLM never does: where a dt lies outside these limits, their '
    'log-probabilities are not ours'
  ]


FAMILY = Family(
  model_types=('nemotron_h',),
  pattern=r'[M*E-]+',
  pattern_words='blocks of any kind',
  hf_name=hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fields=_FIELDS,
  ignored=_IGNORED,
  fixed={
    '': {'tie_word_embeddings': False},
    '*': {'rope_theta': 0.0, 'qk_norm': False},
    '-E': {'mlp_activation': 'relu2'},
    'E': {'router': 'sigmoid'},
  },
  needed={'E': ('moe_shared_expert_intermediate_size',)},
  unused=re.compile(r'mtp\..+'),  # multi-token prediction
  remarks=remarks,
)
