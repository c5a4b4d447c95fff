"""Qwen3 (2505.09388) in Hugging Face, dense and with experts: a layer there, attention and what
follows it, is two blocks here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aevo_jax.models.families.config_json import allow_only, require

if TYPE_CHECKING:
  from aevo_jax.models.config import ModelConfig

_DENSE, _SPARSE = 'qwen3', 'qwen3_moe'
MODEL_TYPES = (_DENSE, _SPARSE)
PATTERN = r'(\*[-E])+', "'*-' and '*E', one of them a layer"
FIXED = {
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
}
NEEDED = {'*': ('rope_theta',)}
EXPERTS_APART = True  # as published, and as transformers saves them

# Their names and ours.
_OF_ALL = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_attention_heads': 'num_attention_heads',
  'num_key_value_heads': 'num_key_value_heads',
  'rms_norm_eps': 'layer_norm_epsilon',
  'max_position_embeddings': 'max_position_embeddings',
}
_OF_BLOCK = {
  '-': {'intermediate_size': 'intermediate_size'},
  'E': {
    'num_experts': 'n_routed_experts',
    'num_experts_per_tok': 'num_experts_per_tok',
    'moe_intermediate_size': 'moe_intermediate_size',
  },
}
_OPTIONS = ('attention_bias', 'tie_word_embeddings')  # false where a config leaves them out
_PARTS = (
  {'norm': 'input_layernorm', 'mixer': 'self_attn'},
  {'norm': 'post_attention_layernorm', 'mixer': 'mlp'},
)
_OUTSIDE = {'norm_f': 'model.norm', 'lm_head': 'lm_head'}
_LEAVES = {'scale': 'weight', 'kernel': 'weight'}


def hf_name(name: str) -> str:
  """'layers.3.mixer.up_proj.kernel' -> 'model.layers.1.mlp.up_proj.weight'."""
  if name == 'embedding':
    return 'model.embed_tokens.weight'
  stem, _, leaf = name.rpartition('.')
  if stem in _OUTSIDE:
    return f'{_OUTSIDE[stem]}.{_LEAVES.get(leaf, leaf)}'
  _, block, part, *inner = stem.split('.')
  layer, half = divmod(int(block), 2)
  # Experts have no module of their own: their leaf is the tensor.
  return '.'.join(
    [
      'model.layers',
      str(layer),
      _PARTS[half][part],
      *inner,
      leaf if inner == ['experts'] else _LEAVES.get(leaf, leaf),
    ]
  )


def config_to_hf(config: 'ModelConfig') -> dict[str, Any]:
  """A config.json that Hugging Face and vLLM read."""
  mlps, window = config.pattern[1::2], config.sliding_window
  spelt = _OF_ALL | _OF_BLOCK['-'] | (_OF_BLOCK['E'] if 'E' in mlps else {})
  fields = (
    {theirs: getattr(config, ours) for theirs, ours in spelt.items()}
    | {name: getattr(config, name) for name in _OPTIONS}
    | {
      'num_hidden_layers': len(mlps),
      'head_dim': config.head_dim,
      'hidden_act': 'silu',
      'rope_theta': config.rope_theta,
      'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': config.rope_theta,
      },  # transformers 5; those before it read rope_theta
      'use_sliding_window': bool(window),
      'sliding_window': window or None,
      'max_window_layers': 0 if window else len(mlps),
    }
  )
  if 'E' not in mlps:
    return fields | {'architectures': ['Qwen3ForCausalLM'], 'model_type': _DENSE}
  return fields | {
    'architectures': ['Qwen3MoeForCausalLM'],
    'model_type': _SPARSE,
    'norm_topk_prob': config.norm_topk_prob,
    'decoder_sparse_step': 1,
    'mlp_only_layers': [i for i, kind in enumerate(mlps) if kind == '-'],
    'output_router_logits': False,
  }


def config_from_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
  if 'num_local_experts' in fields:  # as transformers 5 saves it
    fields = {'num_experts': fields['num_local_experts']} | fields
  require(fields, ('num_hidden_layers',))
  pattern = _pattern(fields)
  spelt = _OF_ALL | {
    theirs: ours
    for kind, names in _OF_BLOCK.items()
    if kind in pattern
    for theirs, ours in names.items()
  }
  require(fields, spelt)
  allow_only(fields, {'hidden_act': 'silu'})
  read = (
    {ours: fields[theirs] for theirs, ours in spelt.items()}
    | {name: fields.get(name, False) for name in _OPTIONS}
    | {
      'pattern': pattern,
      'qk_norm': True,
      'mlp_activation': 'swiglu',
      'rope_theta': _rope_theta(fields),
      'sliding_window': _window(fields, len(pattern) // 2),
      'head_dim': fields.get('head_dim')
      or (
        128
        if fields['model_type'] == _DENSE
        else fields['hidden_size'] // fields['num_attention_heads']
      ),
    }
  )
  if 'E' in pattern:
    read |= {
      'router': 'softmax',
      'moe_shared_expert_intermediate_size': 0,
      'norm_topk_prob': fields.get('norm_topk_prob', False),
    }
  return read


def _pattern(fields: Mapping[str, Any]) -> str:
  """A layer has experts unless it is listed among those without, or lies between two steps."""
  layers = range(fields['num_hidden_layers'])
  if fields['model_type'] == _DENSE:
    return '*-' * len(layers)
  require(fields, ('num_experts',))
  dense, step = fields.get('mlp_only_layers') or [], fields.get('decoder_sparse_step', 1)
  return ''.join(
    '*-' if not fields['num_experts'] or i in dense or (i + 1) % step else '*E' for i in layers
  )


def _rope_theta(fields: Mapping[str, Any]) -> float:
  rope = fields.get('rope_scaling') or fields.get('rope_parameters') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise ValueError(
      f'config.json asks for rotary positions of type {kind!r}, which this decoder does '
      'not compute (only "default"): '
      'remove rope_scaling for the context that the model was trained with'
    )
  allow_only(rope, {'partial_rotary_factor': 1.0})
  require(fields | rope, ('rope_theta',))
  return float(rope.get('rope_theta', fields.get('rope_theta')))


def _window(fields: Mapping[str, Any], layers: int) -> int:
  """The sliding window of every layer, 0 for none."""
  window, dense = (
    fields.get('sliding_window') if fields.get('use_sliding_window') else None,
    fields['model_type'] == _DENSE,
  )
  first = fields.get('max_window_layers', 28 if dense else 0) if window else layers
  kinds = set(
    fields.get('layer_types')
    or ['full_attention' if i < first else 'sliding_attention' for i in range(layers)]
  )
  if window and kinds == {'sliding_attention'}:
    return window
  # With experts, transformers 5 slides in every layer, whatever max_window_layers says; those
  # before it did not.
  if kinds == {'full_attention'} and (dense or not window):
    return 0
  raise ValueError(
    f'config.json gives its layers attention of types {sorted(kinds)} (layer_types, or '
    f'max_window_layers = {first}) with sliding_window = {window}; '
    'this decoder computes one window for all layers, or none'
  )
