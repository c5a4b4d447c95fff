"""Qwen3 (2505.09388) in Hugging Face, dense and with experts.

A layer there, attention and what follows it, is two blocks here.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Interval

from aevo_jax.config.constraints import OneOf
from aevo_jax.models.families import config_json, transformer
from aevo_jax.models.families.config_json import Field, read, refuse, require
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
_OPTIONS = ('attention_bias', 'tie_word_embeddings')
_ATTENTION = ('full_attention', 'sliding_attention')
# Defaults are what transformers takes where a config leaves a field out.
_FIELDS = transformer.FIELDS | {
  'use_sliding_window': Field(bool, default=False),
  'sliding_window': Field(config_json.SIZE, nullable=True),
  'max_window_layers': Field(Annotated[int, Interval(ge=0, le=2**12)]),
  'layer_types': Field(list[Annotated[str, OneOf(_ATTENTION)]], nullable=True),
  'num_experts': Field(config_json.SIZE_OR_ZERO, spelt=('num_local_experts',)),
  'num_experts_per_tok': Field(config_json.SIZE),
  'moe_intermediate_size': Field(config_json.SIZE),
  'norm_topk_prob': Field(bool, default=False),
  'decoder_sparse_step': Field(config_json.SIZE, default=1),
  'mlp_only_layers': Field(list[Annotated[int, Interval(ge=0, le=2**12)]], nullable=True),
}


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
    ConfigJsonError: a field is missing, of another type or out of its range, or asks for what the
      decoder does not compute.
  """
  values = read(fields, _FIELDS)
  require(values, ('num_hidden_layers',))
  is_dense = fields['model_type'] == _DENSE
  pattern = '*-' * values['num_hidden_layers']
  if not is_dense:
    pattern = _sparse_pattern(values)
  spelt = dict(transformer.SIZES)
  for kind, names in _OF_BLOCK.items():
    if kind in pattern:
      spelt |= names
  if 'num_attention_heads' in values:
    values = {'num_key_value_heads': values['num_attention_heads'], **values}
  require(values, spelt)
  config = {ours: values[theirs] for theirs, ours in spelt.items()}
  config |= {name: values[name] for name in _OPTIONS}
  config |= {
    'pattern': pattern,
    'qk_norm': True,
    'mlp_activation': 'swiglu',
    'rope_theta': transformer.rope_from_hf(values),
    'sliding_window': _window(values, is_dense),
    'head_dim': values.get('head_dim') or _default_head_dim(values, is_dense),
  }
  if 'E' in pattern:
    config |= {
      'router': 'softmax',
      'moe_shared_expert_intermediate_size': 0,
      'norm_topk_prob': values['norm_topk_prob'],
    }
  return config


def _default_head_dim(values: Mapping[str, Any], is_dense: bool) -> int:
  """Returns the head width that transformers takes where config.json names none."""
  if is_dense:
    return 128
  return max(values['hidden_size'] // values['num_attention_heads'], 1)


def _sparse_pattern(values: Mapping[str, Any]) -> str:
  """Returns the blocks; a layer has experts unless it is listed as dense or lies between steps."""
  require(values, ('num_experts',))
  dense = values.get('mlp_only_layers', ())
  pattern = ''
  for i in range(values['num_hidden_layers']):
    is_mlp = i in dense or (i + 1) % values['decoder_sparse_step']
    pattern += '*-' if is_mlp or not values['num_experts'] else '*E'
  return pattern


def _window(values: Mapping[str, Any], is_dense: bool) -> int:
  """Returns the sliding window of every layer, 0 for none."""
  layers = values['num_hidden_layers']
  window = None
  first = layers
  if values['use_sliding_window']:
    window = values.get('sliding_window')
    if window is None:
      refuse(['sliding_window = None (only an integer while use_sliding_window = True)'])
    first = values.get('max_window_layers', 28 if is_dense else 0)
  derived = ['full_attention' if i < first else 'sliding_attention' for i in range(layers)]
  listed = values.get('layer_types', derived)
  if len(listed) != layers:
    refuse([f'layer_types of {len(listed)} layers (only as many as num_hidden_layers = {layers})'])
  types = set(listed)
  if window and types == {'sliding_attention'}:
    return window
  # With experts, transformers 5 slides in every layer, whatever max_window_layers says; those
  # before it did not.
  if types == {'full_attention'} and (is_dense or not window):
    return 0
  raise config_json.ConfigJsonError(
    f'config.json gives its layers attention of types {sorted(types)} (layer_types, or '
    f'max_window_layers = {first}) with sliding_window = {window} and '
    f'use_sliding_window = {window is not None}; '
    'this decoder computes one window for all layers, or none'
  )


FAMILY = Family(
  model_types=(_DENSE, _SPARSE),
  pattern=r'(\*[-E])+',
  pattern_words="'*-' and '*E', one of them a layer",
  hf_name=transformer.hf_name,
  config_to_hf=config_to_hf,
  config_from_hf=config_from_hf,
  fields=_FIELDS,
  ignored={'router_aux_loss_coef': config_json.NUMBER},
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
