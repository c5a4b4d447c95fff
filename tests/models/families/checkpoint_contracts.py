"""The contract of every family of models: a tiny checkpoint in its spelling, and its formula.

`CONTRACTS` has a row for each family.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy_forward import Forward, nemotron_h, transformer

Shapes = dict[str, tuple[int, ...]]


class Contract(NamedTuple):
  """What a family must read, compute and write.

  Attributes:
    config_json: of a tiny model, as its own library writes it.
    shapes: the tensors of that model, stored name -> shape.
    forward: (config_json, tensors in float64, tokens [t]) -> logits [t, vocabulary].
    refused: changes of config_json, and what the error says of each.
  """

  config_json: Mapping[str, Any]
  shapes: Shapes
  forward: Forward
  refused: tuple[tuple[Mapping[str, Any], str], ...]


# Two layers of width 16, attention with 4 heads of width 6 that share 2 keys, and an MLP of 24.
TINY = {
  'vocab_size': 19,
  'hidden_size': 16,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 6,
  'intermediate_size': 24,
  'max_position_embeddings': 512,
}
_ATTENTION = {'q_proj': (24, 16), 'k_proj': (12, 16), 'v_proj': (12, 16), 'o_proj': (16, 24)}
_MLP = {'gate_proj': (24, 16), 'up_proj': (24, 16), 'down_proj': (16, 24)}


def maps(prefix: str, weights: Shapes, bias: bool) -> Shapes:
  """Linear maps [out, in], and the biases of all of them."""
  shapes = {f'{prefix}.{name}.weight': shape for name, shape in weights.items()}
  if bias:
    shapes |= {f'{prefix}.{name}.bias': shape[:1] for name, shape in weights.items()}
  return shapes


def transformer_shapes(
  *, qk_norm: bool = False, attention_bias: bool = False, mlp_bias: bool = False, tied: bool = False
) -> Shapes:
  """The tensors of a tiny transformer that spells its layers as Llama does."""
  shapes: Shapes = {'model.embed_tokens.weight': (19, 16), 'model.norm.weight': (16,)}
  if not tied:
    shapes['lm_head.weight'] = (19, 16)
  for layer in ('model.layers.0', 'model.layers.1'):
    shapes[f'{layer}.input_layernorm.weight'] = (16,)
    shapes[f'{layer}.post_attention_layernorm.weight'] = (16,)
    shapes |= maps(f'{layer}.self_attn', _ATTENTION, attention_bias)
    shapes |= maps(f'{layer}.mlp', _MLP, mlp_bias)
    if qk_norm:
      shapes[f'{layer}.self_attn.q_norm.weight'] = (6,)
      shapes[f'{layer}.self_attn.k_norm.weight'] = (6,)
  return shapes


def nemotron_h_shapes() -> Shapes:
  """The tensors of a tiny Nemotron-H `*-`, with the biases of its attention."""
  shapes: Shapes = {
    'model.embeddings.weight': (19, 16),
    'model.norm_f.weight': (16,),
    'lm_head.weight': (19, 16),
    'model.layers.0.norm.weight': (16,),
    'model.layers.1.norm.weight': (16,),
  }
  shapes |= maps('model.layers.0.mixer', _ATTENTION, bias=True)
  ungated = {name: shape for name, shape in _MLP.items() if name != 'gate_proj'}
  return shapes | maps('model.layers.1.mixer', ungated, bias=False)


CONTRACTS = {
  'nemotron_h': Contract(
    config_json=TINY
    | {
      'model_type': 'nemotron_h',
      'hybrid_override_pattern': '*-',
      'layer_norm_epsilon': 1e-4,
      'attention_bias': True,
      'sliding_window': 4,
    },
    shapes=nemotron_h_shapes(),
    forward=nemotron_h,
    refused=(({'mlp_hidden_act': 'silu'}, "mlp_hidden_act = 'silu'"),),
  ),
  'qwen3': Contract(
    config_json=TINY
    | {
      'model_type': 'qwen3',
      'num_hidden_layers': 2,
      'rms_norm_eps': 1e-4,
      'rope_theta': 100.0,
      'hidden_act': 'silu',
      'tie_word_embeddings': True,
    },
    shapes=transformer_shapes(qk_norm=True, tied=True),
    forward=transformer,
    refused=(({'hidden_act': 'gelu'}, "hidden_act = 'gelu'"),),
  ),
  'llama': Contract(
    config_json=TINY
    | {
      'model_type': 'llama',
      'num_hidden_layers': 2,
      'rms_norm_eps': 1e-4,
      'rope_theta': 100.0,
      'hidden_act': 'silu',
      'attention_bias': True,
      'mlp_bias': True,
      'tie_word_embeddings': False,
    },
    shapes=transformer_shapes(attention_bias=True, mlp_bias=True),
    forward=transformer,
    refused=(
      ({'hidden_act': 'gelu'}, "hidden_act = 'gelu'"),
      ({'rope_scaling': {'rope_type': 'llama3'}}, "rope_type = 'llama3'"),
    ),
  ),
}
