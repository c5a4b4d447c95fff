"""Llama's config.json as published, and tensors of old checkpoints."""

import json
import math

import numpy as np
import pytest
from checkpoint_contracts import TINY, transformer_shapes
from safetensors.numpy import load_file, save_file

from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline
from aevo_jax.substrate import hf_export, hf_import

SMOLLM2_135M = {
  'architectures': ['LlamaForCausalLM'],
  'attention_bias': False,
  'attention_dropout': 0.0,
  'hidden_act': 'silu',
  'hidden_size': 576,
  'initializer_range': 0.041666666666666664,
  'intermediate_size': 1536,
  'is_llama_config': True,
  'max_position_embeddings': 8192,
  'model_type': 'llama',
  'num_attention_heads': 9,
  'num_hidden_layers': 30,
  'num_key_value_heads': 3,
  'pretraining_tp': 1,
  'rms_norm_eps': 1e-05,
  'rope_interleaved': False,
  'rope_scaling': None,
  'rope_theta': 100000,
  'tie_word_embeddings': True,
  'torch_dtype': 'bfloat16',
  'use_cache': True,
  'vocab_size': 49152,
}
# From before rope_theta and attention_bias were written.
LLAMA2_7B = {
  'architectures': ['LlamaForCausalLM'],
  'hidden_act': 'silu',
  'hidden_size': 4096,
  'initializer_range': 0.02,
  'intermediate_size': 11008,
  'max_position_embeddings': 4096,
  'model_type': 'llama',
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'num_key_value_heads': 32,
  'pretraining_tp': 1,
  'rms_norm_eps': 1e-05,
  'rope_scaling': None,
  'tie_word_embeddings': False,
  'torch_dtype': 'float16',
  'use_cache': True,
  'vocab_size': 32000,
}
LLAMA3_8B = LLAMA2_7B | {
  'attention_bias': False,
  'intermediate_size': 14336,
  'max_position_embeddings': 8192,
  'num_key_value_heads': 8,
  'rope_theta': 500000.0,
  'vocab_size': 128256,
}


@pytest.mark.parametrize(
  ('fields', 'billions', 'theta', 'head_dim'),
  [
    (SMOLLM2_135M, 0.1345, 1e5, 64),
    (LLAMA2_7B, 6.738, 1e4, 128),
    (LLAMA3_8B, 8.03, 5e5, 128),
  ],
  ids=['smollm2_135m', 'llama2_7b', 'llama3_8b'],
)
def test_published_configs_are_read(fields, billions, theta, head_dim):
  """Parameters are as many as published, a tied embedding counted once."""
  config = checkpoint.config_from_hf(fields)
  assert (config.rope_theta, config.head_dim) == (theta, head_dim)
  sizes = [math.prod(shape.shape) for shape in outline(config)[1].values()]
  assert sum(sizes) / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize(
  ('changed', 'expected'),
  [
    ({'rope_theta': None, 'rope_parameters': {'rope_theta': 77.0}}, {'rope_theta': 77.0}),
    ({'num_key_value_heads': 9}, {'num_key_value_heads': 9}),
    ({'head_dim': 32}, {'head_dim': 32}),
    ({'head_dim': None}, {'head_dim': 64}),
    ({'mlp_bias': True}, {'mlp_bias': True}),
  ],
)
def test_spellings_of_a_config(changed, expected):
  config = checkpoint.config_from_hf(SMOLLM2_135M | changed)
  assert {name: getattr(config, name) for name in expected} == expected


def test_what_a_config_leaves_out_is_transformers_default():
  left_out = ('num_key_value_heads', 'rms_norm_eps', 'max_position_embeddings', 'rope_theta')
  fields = {name: value for name, value in LLAMA2_7B.items() if name not in left_out}
  config = checkpoint.config_from_hf(fields)
  assert config.num_key_value_heads == 32
  assert config.layer_norm_epsilon == 1e-6
  assert config.max_position_embeddings == 2048
  assert config.rope_theta == 10000.0


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}}, "rope_type = 'llama3'"),
    ({'rope_scaling': {'type': 'linear', 'factor': 2.0}}, "type 'linear'.*remove rope_scaling"),
    ({'rope_parameters': {'partial_rotary_factor': 0.5}}, 'partial_rotary_factor = 0.5'),
    (
      {'num_attention_heads': 7, 'num_key_value_heads': 7},
      r'hidden_size = 576 \(only multiples of num_attention_heads = 7\)',
    ),
    ({'rope_interleaved': True}, 'rope_interleaved = True'),
  ],
)
def test_a_config_that_this_decoder_does_not_compute_is_refused(changed, message):
  with pytest.raises(ValueError, match=message):
    checkpoint.config_from_hf(SMOLLM2_135M | changed)


def test_what_a_config_lacks_is_named():
  fields = {name: value for name, value in LLAMA2_7B.items() if name != 'intermediate_size'}
  with pytest.raises(ValueError, match=r"lacks \['intermediate_size'\]"):
    checkpoint.config_from_hf(fields)


def test_stored_frequencies_come_back(tmp_path):
  """Llama 2's checkpoints hold inv_freq, which the forward computes from rope_theta."""
  fields = TINY | {'model_type': 'llama', 'num_hidden_layers': 2, 'rms_norm_eps': 1e-5}
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'config.json').write_text(json.dumps(fields))
  rng = np.random.default_rng(0)
  tensors = {
    name: rng.normal(size=shape).astype(np.float16) for name, shape in transformer_shapes().items()
  }
  for layer in (0, 1):
    name = f'model.layers.{layer}.self_attn.rotary_emb.inv_freq'
    tensors[name] = np.array([1.0, 0.05, 0.002], np.float32)
  save_file(tensors, tmp_path / 'in' / 'model.safetensors')
  hf_import.import_hf(tmp_path / 'in', tmp_path / 'base')
  hf_export.export_hf(tmp_path / 'base', tmp_path / 'out')
  written = load_file(tmp_path / 'out' / 'model.safetensors')
  assert {k: (v.dtype, v.tobytes()) for k, v in written.items()} == {
    k: (v.dtype, v.tobytes()) for k, v in tensors.items()
  }
