"""The base's layout on disk: names, orientation and refusals."""

import dataclasses
import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aevo_jax.models import weights as weights_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.hf.stream import Reader
from aevo_jax.models.params import unbind

CONFIG = ModelConfig(
  vocab_size=11,
  hidden_size=12,
  pattern='M*-',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=5,
  intermediate_size=20,
  mamba_num_heads=2,
  mamba_head_dim=8,
  n_groups=2,
  ssm_state_size=3,
  conv_kernel=4,
  chunk_size=8,
  max_position_embeddings=64,
)

# Names and shapes of transformers' NemotronHForCausalLM with this configuration. Linear weights are
# [out, in].
HF_SHAPES = {
  'model.embeddings.weight': (11, 12),
  'lm_head.weight': (11, 12),
  'model.norm_f.weight': (12,),
  'model.layers.0.norm.weight': (12,),
  'model.layers.1.norm.weight': (12,),
  'model.layers.2.norm.weight': (12,),
  'model.layers.0.mixer.in_proj.weight': (46, 12),  # gate 16, x 16, B 6, C 6, dt 2
  'model.layers.0.mixer.conv1d.weight': (28, 1, 4),
  'model.layers.0.mixer.conv1d.bias': (28,),
  'model.layers.0.mixer.A_log': (2,),
  'model.layers.0.mixer.D': (2,),
  'model.layers.0.mixer.dt_bias': (2,),
  'model.layers.0.mixer.norm.weight': (16,),
  'model.layers.0.mixer.out_proj.weight': (12, 16),
  'model.layers.1.mixer.q_proj.weight': (20, 12),
  'model.layers.1.mixer.k_proj.weight': (10, 12),
  'model.layers.1.mixer.v_proj.weight': (10, 12),
  'model.layers.1.mixer.o_proj.weight': (12, 20),
  'model.layers.2.mixer.up_proj.weight': (20, 12),
  'model.layers.2.mixer.down_proj.weight': (12, 20),
}


@pytest.fixture(scope='module')
def params():
  """Distinct values everywhere."""
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=value.shape).astype(np.float32)
    for name, value in unbind(create(CONFIG, seed=0))[1].items()
  }


@pytest.fixture
def directory(tmp_path, params):
  """A saved base."""
  checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, params, CONFIG)
  (tmp_path / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0))
  )
  return tmp_path, params


def test_names_shapes_and_orientation_are_hugging_faces(directory):
  path, params = directory
  stored = load_file(path / 'model.safetensors')
  assert {name: value.shape for name, value in stored.items()} == HF_SHAPES
  assert {value.dtype for value in stored.values()} == {np.dtype('float32')}
  assert (
    stored['model.layers.0.mixer.in_proj.weight'][45, 3]
    == params['layers.0.mixer.in_proj.kernel'][3, 45]
  )
  assert (
    stored['model.layers.0.mixer.conv1d.weight'][27, 0, 1]
    == params['layers.0.mixer.conv_kernel'][1, 27]
  )
  np.testing.assert_array_equal(stored['model.embeddings.weight'], params['embedding'])


def test_round_trip_is_exact_and_saving_again_gives_the_same_bytes(directory):
  path, params = directory
  loaded = weights_lib.load(path / checkpoint.WEIGHTS, checkpoint.read_config(path))
  assert checkpoint.read_config(path) == CONFIG and loaded.keys() == params.keys()
  for name, value in params.items():
    assert (
      np.asarray(loaded[name]).tobytes() == value.tobytes() and loaded[name].shape == value.shape
    ), name
  checkpoint.save_weights(path / 'again.safetensors', loaded, CONFIG)
  assert (path / 'again.safetensors').read_bytes() == (path / checkpoint.WEIGHTS).read_bytes()


def test_older_names_of_tensors_and_blocks_are_read(tmp_path):
  config = ModelConfig(
    **{
      **dataclasses.asdict(CONFIG),
      'pattern': 'ME*-',
      'n_routed_experts': 3,
      'moe_intermediate_size': 6,
      'moe_latent_size': 4,
    }
  )
  rng = np.random.default_rng(0)
  params = {
    name: rng.normal(size=value.shape).astype(np.float32)
    for name, value in unbind(create(config, seed=0))[1].items()
  }
  checkpoint.save_weights(tmp_path / 'new.safetensors', params, config)
  old = {}
  for name, value in load_file(tmp_path / 'new.safetensors').items():
    name = name.replace('model.', 'backbone.', 1)
    if '.experts.' in name:
      stem, leaf = name.rsplit('.', 1)
      old |= {f'{stem}.{e}.{leaf}.weight': np.ascontiguousarray(value[e]) for e in range(3)}
    else:
      old[name] = value
  assert old['backbone.layers.1.mixer.experts.2.up_proj.weight'].shape == (
    6,
    4,
  )  # [out, in], as torch has it
  save_file(old, tmp_path / 'old.safetensors')
  loaded = weights_lib.load(tmp_path / 'old.safetensors', config)
  assert loaded.keys() == params.keys() and all(
    np.array_equal(loaded[name], params[name]) for name in params
  )

  fields = checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  del fields['hybrid_override_pattern']
  for types in (
    ['mamba', 'moe', 'attention', 'mlp'],
    ['linear_attention', 'moe', 'full_attention', 'mlp'],
  ):
    assert checkpoint.config_from_hf(fields | {'layers_block_type': types}) == config
  with pytest.raises(ValueError, match=r"block types \['gru'\]"):
    checkpoint.config_from_hf(fields | {'layers_block_type': ['mamba', 'gru']})
  with pytest.raises(ValueError, match='hybrid_override_pattern'):
    checkpoint.config_from_hf(fields)

  del old['backbone.layers.1.mixer.experts.1.up_proj.weight']
  save_file(old, tmp_path / 'old.safetensors')
  with pytest.raises(ValueError, match=r'experts\.up_proj has experts \[0, 2\]'):
    weights_lib.load(tmp_path / 'old.safetensors', config)


def test_a_config_that_this_decoder_does_not_compute_is_refused():
  fields = checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0)
  for changed in (
    {'mlp_hidden_act': 'silu'},
    {'tie_word_embeddings': True},
    {'n_shared_experts': 2},
  ):
    with pytest.raises(ValueError, match=f'{next(iter(changed))} = '):
      checkpoint.config_from_hf(fields | changed)


def test_every_tensor_that_does_not_fit_is_named(directory):
  path, _ = directory
  stored = load_file(path / checkpoint.WEIGHTS)
  del stored['model.layers.1.mixer.q_proj.weight'], stored['lm_head.weight']
  stored['model.layers.1.mixer.q_proj.bias'] = np.zeros(20, np.float32)
  stored['model.layers.2.mixer.up_proj.weight'] = np.zeros((12, 20), np.float32)  # not transposed
  stored['model.layers.0.mixer.conv1d.weight'] = np.zeros(
    (28, 4), np.float32
  )  # a dimension too few
  save_file(stored, path / checkpoint.WEIGHTS)
  with pytest.raises(ValueError) as error:
    weights_lib.load(path / checkpoint.WEIGHTS, CONFIG)
  message = str(error.value)
  for part in (
    str(path / checkpoint.WEIGHTS),
    'missing lm_head.weight',
    'missing model.layers.1.mixer.q_proj.weight',
    'unexpected model.layers.1.mixer.q_proj.bias',
    'model.layers.2.mixer.up_proj.weight has shape (12, 20)',
    'model.layers.0.mixer.conv1d.weight has shape (28, 4)',
  ):
    assert part in message
  assert 'k_proj' not in message


def test_config_is_strict_json_and_comes_back(directory):
  path, _ = directory

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  fields = json.loads((path / checkpoint.CONFIG).read_text(), parse_constant=refuse)
  assert checkpoint.read_config(path) == checkpoint.config_from_hf(fields) == CONFIG
  assert (
    fields['architectures'] == ['NemotronHForCausalLM'] and fields['model_type'] == 'nemotron_h'
  )
  assert 0 < fields['time_step_min'] < 1e-20, (
    'transformers would clamp dt at 1e-3, and its logits differ from ours by 1e-3'
  )
  assert (fields['hybrid_override_pattern'], fields['num_hidden_layers']) == ('M*-', 3)
  assert (fields['eos_token_id'], fields['pad_token_id'], fields['bos_token_id']) == (2, 0, None)


@pytest.mark.parametrize('spelt', ['{"__float__": "Infinity"}', 'Infinity', '1e999'])
def test_infinity_is_read_however_it_is_spelt(directory, spelt):
  """transformers 5 writes an object where JSON has no number."""
  path, _ = directory
  fields = json.loads((path / checkpoint.CONFIG).read_text()) | {'time_step_limit': [0.5, 'HERE']}
  (path / checkpoint.CONFIG).write_text(json.dumps(fields).replace('"HERE"', spelt))
  config = checkpoint.read_config(path)
  assert (config.time_step_low, config.time_step_high) == (0.5, math.inf)
  assert Reader(path).config == config


@pytest.mark.parametrize('text', ['', '[1]', '{"a": 1', '{"time_step_limit": {"__float__": "x"}}'])
def test_a_config_that_is_no_object_is_refused_by_its_path(directory, text):
  path, _ = directory
  (path / checkpoint.CONFIG).write_text(text)
  for read in (checkpoint.read_config, Reader):
    with pytest.raises(ValueError, match=r'config\.json (is no JSON|holds no JSON object)'):
      read(path)


def test_a_config_is_true_of_what_is_saved():
  model = {'model_type': 'nemotron_h', 'vocab_size': 7}
  fields = model | {'torch_dtype': 'bfloat16', 'num_nextn_predict_layers': 1}
  assert checkpoint.config_as_saved(fields) == model | {
    'torch_dtype': 'float32',
    'num_nextn_predict_layers': 0,
  }
  assert checkpoint.config_as_saved(model | {'dtype': 'float16'}) == model | {'dtype': 'float32'}
  assert fields['torch_dtype'] == 'bfloat16'


MIXED = {'bfloat16': 90, 'float32': 10}
# (labels, numbers of each dtype, labels of what is written)
LABELS = [
  ({}, {'float32': 1}, {}),
  ({'torch_dtype': None}, {'float32': 1}, {'torch_dtype': None}),
  ({'torch_dtype': 'float32'}, {'float32': 1}, {'torch_dtype': 'float32'}),
  ({'torch_dtype': 'int8'}, {'float32': 1}, {'torch_dtype': 'float32'}),
  ({'dtype': 'torch.float32'}, {'float32': 1}, {'dtype': 'float32'}),
  ({'torch_dtype': 'int8', 'dtype': 'float16'}, {'float32': 1}, {'torch_dtype': 'float32'}),
  ({'torch_dtype': 'float32', 'dtype': 'float16'}, {'float32': 1}, {'torch_dtype': 'float32'}),
  (
    {'torch_dtype': None, 'dtype': 'int8'},
    {'float32': 1},
    {'torch_dtype': None, 'dtype': 'float32'},
  ),
  ({'torch_dtype': 'float32', 'dtype': 'float32'}, {'float32': 1}, 'as they are'),
  ({'torch_dtype': 'float32'}, MIXED, 'as they are'),
  ({'torch_dtype': 'float16'}, MIXED, {'torch_dtype': 'bfloat16'}),
]


@pytest.mark.parametrize(('labels', 'dtypes', 'written'), LABELS)
def test_the_label_is_a_dtype_of_the_weights(labels, dtypes, written):
  model = {'model_type': 'llama', 'vocab_size': 7}
  held = checkpoint.config_as_held(model | labels, dtypes)
  expected = labels if written == 'as they are' else written
  shown = {name: value for name, value in held.items() if name not in model}
  assert shown == expected


def test_integers_are_spelt_as_integers():
  fields = {
    'model_type': 'nemotron_h',
    'vocab_size': 122.0,
    'hidden_size': 128.0,
    'mamba_n_groups': 2.0,  # an older spelling
    'layer_norm_epsilon': 1.0,
    'eos_token_id': [2.0, 4],
    'time_step_limit': [0.0, 1.0],
    'unheard_of': 3.0,
  }
  held = checkpoint.config_as_held(fields, {'float32': 1})
  changed = {name for name, value in held.items() if repr(value) != repr(fields[name])}
  assert held == fields
  assert changed == {'vocab_size', 'hidden_size', 'mamba_n_groups', 'eos_token_id'}


def test_config_of_another_model_or_with_gaps_is_refused():
  fields = checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0)
  with pytest.raises(ValueError, match="model_type 'bert'"):
    checkpoint.config_from_hf(fields | {'model_type': 'bert'})
  with pytest.raises(ValueError, match=r"lacks \['head_dim', 'n_groups'\]"):
    checkpoint.config_from_hf(
      {name: value for name, value in fields.items() if name not in ('head_dim', 'n_groups')}
    )
