"""Qwen3 (2505.09388) in Hugging Face, dense and with experts.

A layer there, attention and what follows it, is two blocks here.
"""

from collections.abc import Mapping
from typing import Any

from aevo_jax.models.families import transformer
from aevo_jax.models.families.config_json import allow_only, require
from aevo_jax.models.families.family import Family

_DENSE = 'qwen3'
_SPARSE = 'qwen3_moe'
# Their names and ours.
_OF_BLOCK = {
  '-': transformer.MLP_SIZES,
  'E': {
    'num_experts': 'n_routed_experts',
    'num_experts_per_tok': 'num_experts_per_tok',
    'moe_intermediate_size': 'moe_intermediate_size',
  },
}
_OPTIONS = ('attention_bias', 'tie_word_embeddings')  # false where a config leaves them out


def config_to_hf(values: Mapping[str, Any]) -> dict[str, Any]:
  """Writes a config.json that Hugging Face and vLLM read.

  Args:
    values: the fields of a ModelConfig of this family.

  Returns:
    The fields of config.json, but for token ids and dtype.
  """
  mlps = values['pattern'][1::2]
  window = values['sliding_window']
  spelt = transformer.SIZES | _OF_BLOCK['-']
  if 'E' in mlps:
    spelt |= _OF_BLOCK['E']
  fields = {theirs: values[ours] for theirs, ours in spelt.items()}
  fields |= {name: values[name] for name in _OPTIONS}
  fields |= {
    'num_hidden_layers': len(mlps),
    'head_dim': values['head_dim'],
    'hidden_act': 'silu',
    **transformer.rope_to_hf(values['rope_theta']),
    'use_sliding_window': bool(window),
    'sliding_window': window or None,
    'max_window_layers': len(mlps),
  }
  if window:
    fields['max_window_layers'] = 0
  if 'E' not in mlps:
    return fields | {'architectures': ['Qwen3ForCausalLM'], 'model_type': _DENSE}
  return fields | {
    'architectures': ['Qwen3MoeForCausalLM'],
    'model_type': _SPARSE,
    'norm_topk_prob': values['norm_topk_prob'],
    'decoder_sparse_step': 1,
    'mlp_only_layers': [i for i, kind in enumerate(mlps) if kind == '-'],
    'output_router_logits': False,
  }


def config_from_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Reads config.json.

  Args:
    fields: its content, as published or as transformers 5 saves it.

  Returns:
    Fields of ModelConfig; those that are missing have its defaults.

  Raises:
    ValueError: a field is missing, or asks for what the decoder does not compute.
  """
  if 'num_local_experts' in fields:  # as transformers 5 saves it
    fields = {'num_experts': fields['num_local_experts'], **fields}
  require(fields, ('num_hidden_layers',))
  pattern = _pattern(fields)
  spelt = dict(transformer.SIZES)
  for kind, names in _OF_BLOCK.items():
    if kind in pattern:
      spelt |= names
  require(fields, spelt)
  allow_only(fields, {'hidden_act': 'silu'})
  values = {ours: fields[theirs] for theirs, ours in spelt.items()}
  values |= {name: fields.get(name, False) for name in _OPTIONS}
  values |= {
    'pattern': pattern,
    'qk_norm': True,
    'mlp_activation': 'swiglu',
    'rope_theta': transformer.rope_from_hf(fields),
    'sliding_window': _window(fields, len(pattern) // 2),
    'head_dim': fields.get('head_dim') or _default_head_dim(fields),
  }
  if 'E' in pattern:
    values |= {
      'router': 'softmax',
      'moe_shared_expert_intermediate_size': 0,
      'norm_topk_prob': fields.get('norm_topk_prob', False),
    }
  return values


def _default_head_dim(fields: Mapping[str, Any]) -> int:
  """Returns the head width that transformers takes where config.json names none."""
  if fields['model_type'] == _DENSE:
    return 128
  return fields['hidden_size'] // fields['num_attention_heads']


def _pattern(fields: Mapping[str, Any]) -> str:
  """Returns the blocks; a layer has experts unless it is listed as dense or lies between steps."""
  layers = range(fields['num_hidden_layers'])
  if fields['model_type'] == _DENSE:
    return '*-' * len(layers)
  require(fields, ('num_experts',))
  dense = fields.get('mlp_only_layers') or []
  step = fields.get('decoder_sparse_step', 1)
  pattern = ''
  for i in layers:
    is_dense = not fields['num_experts'] or i in dense or (i + 1) % step
    pattern += '*-' if is_dense else '*E'
  return pattern


def _window(fields: Mapping[str, Any], layers: int) -> int:
  """Returns the sliding window of every layer, 0 for none."""
  is_dense = fields['model_type'] == _DENSE
  window = None
  first = layers
  if fields.get('use_sliding_window'):
    window = fields.get('sliding_window')
  if window:
    first = fields.get('max_window_layers', 28 if is_dense else 0)
  derived = ['full_attention' if i < first else 'sliding_attention' for i in range(layers)]
  types = set(fields.get('layer_types') or derived)
  if window and types == {'sliding_attention'}:
    return window
  # With experts, transformers 5 slides in every layer, whatever max_window_layers says; those
  # before it did not.
  if types == {'full_attention'} and (is_dense or not window):
    return 0
  raise ValueError(
    f'config.json gives its layers attention of types {sorted(types)} (layer_types, or '
    f'max_window_layers = {first}) with sliding_window = {window}; '
    'this decoder computes one window for all layers, or none'
  )


FAMILY = Family(
  model_types=(_DENSE, _SPARSE),
  pattern=r'(\*[-E])+',
  pattern_words="'*-' and '*E', one of them a layer",
  hf_name=transformer.hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fixed={
    '*': {'qk_norm': True},
    '-E': {'mlp_activation': 'swiglu', 'mlp_bias': False},
    'E': {
      'router': 'softmax',
      'moe_shared_expert_intermediate_size': 0,
      'moe_latent_size': 0,
      'n_group': 1,
      'topk_group': 1,
      'routed_scaling_factor': 1.0,
    },
  },
  needed={'*': ('rope_theta',)},
  experts_apart=True,  # as published, and as transformers saves them
)
