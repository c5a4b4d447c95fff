"""Layers of attention and an MLP in Hugging Face, as Llama spells them and most families since.

A layer there is two blocks here. Whether heads are normed, maps are biased or an MLP has experts
changes no name, so families share what is here.
"""

from collections.abc import Mapping
from typing import Any

from aevo_jax.models.families.config_json import allow_only, require

# Fields of config.json, and ours.
SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_attention_heads': 'num_attention_heads',
  'num_key_value_heads': 'num_key_value_heads',
  'rms_norm_eps': 'layer_norm_epsilon',
  'max_position_embeddings': 'max_position_embeddings',
}
MLP_SIZES = {'intermediate_size': 'intermediate_size'}
_PARTS = (
  {'norm': 'input_layernorm', 'mixer': 'self_attn'},
  {'norm': 'post_attention_layernorm', 'mixer': 'mlp'},
)
_OUTSIDE = {'norm_f': 'model.norm', 'lm_head': 'lm_head'}
_LEAVES = {'scale': 'weight', 'kernel': 'weight'}


def hf_name(name: str) -> str:
  """Spells a parameter as these families' checkpoints do.

  Args:
    name: ours, such as 'layers.3.mixer.up_proj.kernel'.

  Returns:
    The stored name, such as 'model.layers.1.mlp.up_proj.weight'.
  """
  if name == 'embedding':
    return 'model.embed_tokens.weight'
  stem, _, leaf = name.rpartition('.')
  stored_leaf = _LEAVES.get(leaf, leaf)
  if stem in _OUTSIDE:
    return f'{_OUTSIDE[stem]}.{stored_leaf}'
  _, block, part, *inner = stem.split('.')
  layer, half = divmod(int(block), 2)
  # Experts have no module of their own: their leaf is the tensor.
  if inner == ['experts']:
    stored_leaf = leaf
  return '.'.join(['model.layers', str(layer), _PARTS[half][part], *inner, stored_leaf])


def rope_to_hf(theta: float) -> dict[str, Any]:
  """Writes the rotary positions into config.json.

  Args:
    theta: the base of the frequencies.

  Returns:
    The fields that transformers 5 reads (rope_parameters) and that those before it read.
  """
  return {
    'rope_theta': theta,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': theta},
  }


def rope_from_hf(fields: Mapping[str, Any]) -> float:
  """Reads the rotary positions from config.json.

  Args:
    fields: its content, of transformers 5 or before it.

  Returns:
    The base of the frequencies.

  Raises:
    ValueError: the base is missing, or positions are scaled or partial.
  """
  rope = fields.get('rope_scaling') or fields.get('rope_parameters') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise ValueError(
      f'config.json asks for rotary positions of type {kind!r}, which this decoder does '
      'not compute (only "default"): '
      'remove rope_scaling for the context that the model was trained with'
    )
  allow_only(rope, {'partial_rotary_factor': 1.0})
  require({**fields, **rope}, ('rope_theta',))
  return float(rope.get('rope_theta', fields.get('rope_theta')))
