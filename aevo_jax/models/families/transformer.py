"""Layers of attention and an MLP in Hugging Face, as Llama spells them and most families since.

A layer there is two blocks here. Whether heads are normed, maps are biased or an MLP has experts
changes no name, so families share what is here.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from aevo_jax.config.constraints import OneOf
from aevo_jax.models.families import config_json
from aevo_jax.models.families.config_json import Field

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
_WHOLE = Field(Annotated[float, OneOf((1.0,))])  # every dimension of a head is rotated
# Of config.json.
FIELDS = {
  'vocab_size': Field(config_json.SIZE),
  'hidden_size': Field(config_json.SIZE),
  'intermediate_size': Field(config_json.SIZE),
  'num_hidden_layers': Field(config_json.LAYERS),
  'num_attention_heads': Field(config_json.SIZE),
  'num_key_value_heads': Field(config_json.SIZE, nullable=True),
  'head_dim': Field(config_json.SIZE, nullable=True),
  'hidden_act': Field(Annotated[str, OneOf(('silu',))], default='silu'),
  'max_position_embeddings': Field(config_json.POSITIONS),
  'rms_norm_eps': Field(config_json.EPSILON),
  'attention_bias': Field(bool, default=False),
  'tie_word_embeddings': Field(bool, default=False),
  'rope_theta': Field(config_json.THETA, nullable=True),
  'rope_scaling': Field(dict, nullable=True),
  'rope_parameters': Field(dict, nullable=True),
  'partial_rotary_factor': _WHOLE._replace(nullable=True),
}
_ROPE = {
  'rope_type': Field(str, spelt=('type',)),
  'rope_theta': Field(config_json.THETA),
  'partial_rotary_factor': _WHOLE,
}
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


def rope_from_hf(values: Mapping[str, Any]) -> float:
  """Reads the rotary positions.

  Args:
    values: what was read of config.json by `FIELDS`, of transformers 5 or before it.

  Returns:
    The base of the frequencies.

  Raises:
    ConfigJsonError: the base is missing, or positions are scaled or partial.
  """
  name = 'rope_scaling' if values.get('rope_scaling') else 'rope_parameters'
  fields = values.get(name, {})
  rope = config_json.read(fields, _ROPE, f'{name}.')
  kind = rope.get('rope_type', 'default')
  if kind != 'default':
    raise config_json.ConfigJsonError(
      f'config.json asks for rotary positions of type {kind!r} ({name}.rope_type), which this '
      'decoder does not compute (only "default"): '
      'remove rope_scaling for the context that the model was trained with'
    )
  unknown = sorted(fields.keys() - {*_ROPE, 'type'})
  config_json.refuse([f'{name}.{key} (only {", ".join(_ROPE)})' for key in unknown])
  theta = rope.get('rope_theta', values.get('rope_theta'))
  if theta is None:
    raise config_json.ConfigJsonError(
      "config.json lacks ['rope_theta'], alone or in rope_parameters or rope_scaling"
    )
  return theta
