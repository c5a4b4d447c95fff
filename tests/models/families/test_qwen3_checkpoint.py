"""Qwen3's names, shapes and config.json: those that transformers 5.19 saves, those of published
checkpoints, and what is refused.
"""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline

CONFIG = ModelConfig(
  family='qwen3',
  pattern='*E*-',
  vocab_size=19,
  hidden_size=16,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  rope_theta=5000.0,
  qk_norm=True,
  intermediate_size=24,
  mlp_activation='swiglu',
  n_routed_experts=4,
  num_experts_per_tok=2,
  moe_intermediate_size=12,
  moe_shared_expert_intermediate_size=0,
  router='softmax',
  norm_topk_prob=False,
  layer_norm_epsilon=1e-6,
  max_position_embeddings=32768,
)
DENSE = dataclasses.replace(
  CONFIG,
  pattern='*-*-',
  n_routed_experts=8,
  moe_intermediate_size=128,
  moe_shared_expert_intermediate_size=128,
  router='sigmoid',
  norm_topk_prob=True,
  tie_word_embeddings=True,
)

# What transformers 5.19's save_pretrained wrote for such a model. Linear weights are [out, in].
_LAYER = {
  'input_layernorm': (16,),
  'post_attention_layernorm': (16,),
  'self_attn.q_norm': (8,),
  'self_attn.k_norm': (8,),
  'self_attn.q_proj': (32, 16),
  'self_attn.k_proj': (16, 16),
  'self_attn.v_proj': (16, 16),
  'self_attn.o_proj': (16, 32),
}
_EXPERT = {'gate_proj': (12, 16), 'up_proj': (12, 16), 'down_proj': (16, 12)}
HF_SHAPES = (
  {'model.embed_tokens.weight': (19, 16), 'model.norm.weight': (16,), 'lm_head.weight': (19, 16)}
  | {f'model.layers.{i}.{name}.weight': shape for i in (0, 1) for name, shape in _LAYER.items()}
  | {
    f'model.layers.0.mlp.experts.{e}.{name}.weight': shape
    for e in range(4)
    for name, shape in _EXPERT.items()
  }
  | {
    'model.layers.0.mlp.gate.weight': (4, 16),
    'model.layers.1.mlp.gate_proj.weight': (24, 16),
    'model.layers.1.mlp.up_proj.weight': (24, 16),
    'model.layers.1.mlp.down_proj.weight': (16, 24),
  }
)
# And its config.json, without what says nothing of the model.
SAVED = {
  'attention_bias': False,
  'decoder_sparse_step': 1,
  'dtype': 'float32',
  'head_dim': 8,
  'hidden_act': 'silu',
  'hidden_size': 16,
  'intermediate_size': 24,
  'max_position_embeddings': 32768,
  'mlp_only_layers': [1],
  'model_type': 'qwen3_moe',
  'moe_intermediate_size': 12,
  'norm_topk_prob': False,
  'num_attention_heads': 4,
  'num_experts_per_tok': 2,
  'num_hidden_layers': 2,
  'num_key_value_heads': 2,
  'num_local_experts': 4,
  'output_router_logits': False,
  'rms_norm_eps': 1e-06,
  'rope_parameters': {'rope_theta': 5000.0, 'rope_type': 'default'},
  'router_aux_loss_coef': 0.001,
  'sliding_window': None,
  'tie_word_embeddings': False,
  'use_sliding_window': False,
  'vocab_size': 19,
}
SAVED_DENSE = {
  'attention_bias': False,
  'head_dim': 8,
  'hidden_act': 'silu',
  'hidden_size': 16,
  'intermediate_size': 24,
  'layer_types': ['sliding_attention', 'sliding_attention'],
  'max_position_embeddings': 32768,
  'max_window_layers': 0,
  'model_type': 'qwen3',
  'num_attention_heads': 4,
  'num_hidden_layers': 2,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-06,
  'rope_parameters': {'rope_theta': 5000.0, 'rope_type': 'default'},
  'sliding_window': 3,
  'tie_word_embeddings': True,
  'use_sliding_window': True,
  'vocab_size': 19,
}


def parameters(config):
  """Distinct values everywhere."""
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape.shape).astype(np.float32)
    for name, shape in outline(config)[1].items()
  }


def written(config, directory):
  params = parameters(config)
  checkpoint.save_weights(directory / 'model.safetensors', params, config)
  return params, load_file(directory / 'model.safetensors')


def assert_read(path, config, params):
  loaded = weights_lib.load(path, config)
  assert loaded.keys() == params.keys()
  for name, value in params.items():
    np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def test_names_shapes_and_orientation_are_hugging_faces(tmp_path):
  params, stored = written(CONFIG, tmp_path)
  assert {name: value.shape for name, value in stored.items()} == HF_SHAPES
  assert (
    stored['model.layers.0.mlp.experts.2.up_proj.weight'][5, 7]
    == params['layers.1.mixer.experts.up_proj'][2, 7, 5]
  )
  assert (
    stored['model.layers.1.mlp.gate_proj.weight'][20, 3]
    == params['layers.3.mixer.gate_proj.kernel'][3, 20]
  )
  assert (
    stored['model.layers.0.post_attention_layernorm.weight'][4] == params['layers.1.norm.scale'][4]
  )
  assert_read(tmp_path / 'model.safetensors', CONFIG, params)


def test_experts_as_transformers_keeps_them_are_read(tmp_path):
  params, stored = written(CONFIG, tmp_path)

  def each(leaf):
    return [stored.pop(f'model.layers.0.mlp.experts.{e}.{leaf}.weight') for e in range(4)]

  gate, up, down = each('gate_proj'), each('up_proj'), each('down_proj')
  stored['model.layers.0.mlp.experts.gate_up_proj'] = np.stack(
    [np.concatenate(pair) for pair in zip(gate, up, strict=True)]
  )  # [e, 2f, d]
  stored['model.layers.0.mlp.experts.down_proj'] = np.stack(down)
  save_file(stored, tmp_path / 'stacked.safetensors')
  assert_read(tmp_path / 'stacked.safetensors', CONFIG, params)


def test_a_tied_head_is_not_written_and_is_read_only_if_it_is_the_embedding(tmp_path):
  params, stored = written(DENSE, tmp_path)
  assert 'lm_head.weight' not in stored and 'lm_head.kernel' not in params
  save_file(
    stored | {'lm_head.weight': stored['model.embed_tokens.weight']}, tmp_path / 'both.safetensors'
  )
  assert_read(tmp_path / 'both.safetensors', DENSE, params)
  save_file(
    stored | {'lm_head.weight': stored['model.embed_tokens.weight'] + 1},
    tmp_path / 'other.safetensors',
  )
  with pytest.raises(ValueError, match=r'lm_head.weight is not the embedding'):
    weights_lib.load(tmp_path / 'other.safetensors', DENSE)


def test_config_json_of_transformers_is_read():
  assert checkpoint.config_from_hf(SAVED) == CONFIG
  assert checkpoint.config_from_hf(SAVED_DENSE) == dataclasses.replace(DENSE, sliding_window=3)


def test_config_json_of_a_published_model_is_read():
  published = {
    'architectures': ['Qwen3MoeForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 151643,
    'decoder_sparse_step': 1,
    'eos_token_id': 151645,
    'head_dim': 128,
    'hidden_act': 'silu',
    'hidden_size': 2048,
    'initializer_range': 0.02,
    'intermediate_size': 6144,
    'max_position_embeddings': 40960,
    'max_window_layers': 48,
    'mlp_only_layers': [],
    'model_type': 'qwen3_moe',
    'moe_intermediate_size': 768,
    'norm_topk_prob': True,
    'num_attention_heads': 32,
    'num_experts': 128,
    'num_experts_per_tok': 8,
    'num_hidden_layers': 48,
    'num_key_value_heads': 4,
    'output_router_logits': False,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 1000000.0,
    'router_aux_loss_coef': 0.001,
    'sliding_window': None,
    'tie_word_embeddings': False,
    'torch_dtype': 'bfloat16',
    'use_cache': True,
    'use_sliding_window': False,
    'vocab_size': 151936,
  }
  config = checkpoint.config_from_hf(published)
  assert (
    config.pattern,
    config.rope_theta,
    config.n_routed_experts,
    config.norm_topk_prob,
    config.sliding_window,
  ) == ('*E' * 48, 1e6, 128, True, 0)


@pytest.mark.parametrize(
  'config',
  [
    CONFIG,
    DENSE,
    dataclasses.replace(CONFIG, sliding_window=7, attention_bias=True, norm_topk_prob=True),
    dataclasses.replace(DENSE, sliding_window=7),
  ],
)
def test_config_json_comes_back(config):
  fields = checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  assert checkpoint.config_from_hf(json.loads(json.dumps(fields, allow_nan=False))) == config
  assert (
    fields['model_type'] == ('qwen3_moe' if 'E' in config.pattern else 'qwen3')
    and fields['num_hidden_layers'] == 2
  )
  assert (fields['eos_token_id'], fields['pad_token_id'], fields['bos_token_id']) == (2, 0, None)


@pytest.mark.parametrize(
  'changed, expected',
  [
    (
      {'mlp_only_layers': [], 'num_hidden_layers': 4, 'decoder_sparse_step': 2},
      {'pattern': '*-*E*-*E'},
    ),
    ({'mlp_only_layers': None, 'decoder_sparse_step': 1}, {'pattern': '*E*E'}),
    ({'num_local_experts': 0}, {'pattern': '*-*-'}),
    ({'rope_parameters': None, 'rope_theta': 77}, {'rope_theta': 77.0}),
    (
      {'rope_scaling': {'type': 'default'}, 'rope_parameters': None, 'rope_theta': 77},
      {'rope_theta': 77.0},
    ),
    ({'use_sliding_window': True, 'sliding_window': 9}, {'sliding_window': 9}),
    ({'use_sliding_window': False, 'sliding_window': 9}, {'sliding_window': 0}),
    ({'head_dim': None}, {'head_dim': 4}),
  ],
)
def test_spellings_of_a_config(changed, expected):
  config = checkpoint.config_from_hf(SAVED | changed)
  assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, "type 'yarn'.*remove rope_scaling"),
    (
      {'rope_parameters': {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 1e4}},
      "type 'linear'",
    ),
    (
      {
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4, 'partial_rotary_factor': 0.5}
      },
      'partial_rotary_factor = 0.5',
    ),
    ({'rope_parameters': None}, r"lacks \['rope_theta'\]"),
    (
      {'layer_types': ['full_attention', 'sliding_attention']},
      r"\['full_attention', 'sliding_attention'\].*one window for all layers",
    ),
    ({'layer_types': None, 'max_window_layers': 1}, 'max_window_layers = 1'),
    ({'use_sliding_window': False}, r"\['sliding_attention'\].*sliding_window = None"),
    ({'hidden_act': 'gelu'}, "hidden_act = 'gelu'"),
    (
      SAVED
      | {
        'use_sliding_window': True,
        'sliding_window': 9,
        'layer_types': None,
        'max_window_layers': 2,
      },
      r"\['full_attention'\].*sliding_window = 9",
    ),
  ],
)
def test_a_config_that_this_decoder_does_not_compute_is_refused(changed, message):
  with pytest.raises(ValueError, match=message):
    checkpoint.config_from_hf(SAVED_DENSE | changed)


def test_what_a_config_lacks_is_named():
  with pytest.raises(ValueError, match=r"lacks \['rms_norm_eps', 'moe_intermediate_size'\]"):
    checkpoint.config_from_hf(
      {
        name: value
        for name, value in SAVED.items()
        if name not in ('rms_norm_eps', 'moe_intermediate_size')
      }
    )
  with pytest.raises(ValueError, match=r"lacks \['num_experts'\]"):
    checkpoint.config_from_hf(
      {name: value for name, value in SAVED.items() if name != 'num_local_experts'}
    )
