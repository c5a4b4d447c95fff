"""Every field of config.json is read in its type and range, or refused in a sentence that names it.

`CONFIGS` has a full config.json of each kind, as published or as transformers 5 saves it, and
`MUTATIONS` what else may stand in a field. A mutated config is refused by the field's name, or is
one of `ACCEPTED`.
"""

import json
import math

import pytest
from full_configs import CONFIGS

from aevo_jax.models.families import config_json, registry
from aevo_jax.models.families.config_json import ConfigJsonError
from aevo_jax.models.hf import checkpoint

# What may stand in any field. Those that a test's field has in earnest are skipped.
MUTATIONS = {
  'null': None,
  'true': True,
  'false': False,
  'zero': 0,
  'negative': -1,
  'fraction': 1.5,
  'nan': math.nan,
  'infinity': math.inf,
  'minus_infinity': -math.inf,
  'huge': 10**30,
  'beyond_float': 10**400,
  'text': 'text',
  'number_as_text': '4',
  'empty_text': '',
  'empty_list': [],
  'list': [4],
  'list_of_text': ['text'],
  'nested_list': [[4]],
  'empty_object': {},
  'object': {'text': 4},
}

_NUMBERS = {'zero', 'negative', 'huge', 'null'}
# The mutations that a field that changes nothing may hold, by its type.
OF_TYPE = {
  bool: {'true', 'false', 'null'},
  str: {'text', 'number_as_text', 'empty_text', 'null'},
  int: _NUMBERS | {'beyond_float'},
  float: _NUMBERS | {'fraction', 'nan', 'infinity', 'minus_infinity'},
  dict: {'object', 'empty_object', 'null'},
  list[str]: {'list_of_text', 'empty_list', 'null'},
}
_ALL_EXPERTS = {'pattern': '*E*E', 'intermediate_size': 512}  # which no block reads
# (config, field, mutation): the fields of ModelConfig that differ from those of the valid config.
ACCEPTED = {
  ('llama', 'attention_bias', 'true'): {'attention_bias': True},
  ('llama', 'head_dim', 'null'): {},  # hidden_size / num_attention_heads
  ('llama', 'mlp_bias', 'true'): {'mlp_bias': True},
  ('llama', 'num_key_value_heads', 'null'): {'num_key_value_heads': 4},
  ('llama', 'rope_scaling', 'empty_object'): {},
  ('llama', 'rope_theta', 'fraction'): {'rope_theta': 1.5},
  ('llama', 'tie_word_embeddings', 'true'): {'tie_word_embeddings': True},
  ('qwen3', 'attention_bias', 'true'): {'attention_bias': True},
  ('qwen3', 'head_dim', 'null'): {'head_dim': 128},  # transformers' default
  ('qwen3', 'layer_types', 'null'): {},  # by max_window_layers
  ('qwen3', 'num_key_value_heads', 'null'): {'num_key_value_heads': 4},
  ('qwen3', 'tie_word_embeddings', 'true'): {'tie_word_embeddings': True},
  ('qwen3_moe', 'attention_bias', 'true'): {'attention_bias': True},
  ('qwen3_moe', 'head_dim', 'null'): {},
  ('qwen3_moe', 'mlp_only_layers', 'null'): _ALL_EXPERTS,
  ('qwen3_moe', 'mlp_only_layers', 'empty_list'): _ALL_EXPERTS,
  ('qwen3_moe', 'mlp_only_layers', 'list'): _ALL_EXPERTS,  # of two layers, none is the fifth
  ('qwen3_moe', 'norm_topk_prob', 'true'): {'norm_topk_prob': True},
  ('qwen3_moe', 'num_key_value_heads', 'null'): {'num_key_value_heads': 4},
  ('qwen3_moe', 'tie_word_embeddings', 'true'): {'tie_word_embeddings': True},
  ('nemotron_h', 'attention_bias', 'true'): {'attention_bias': True},
  ('nemotron_h', 'mlp_bias', 'true'): {'mlp_bias': True},
  ('nemotron_h', 'moe_latent_size', 'null'): {'moe_latent_size': 0},
  ('nemotron_h', 'norm_topk_prob', 'false'): {'norm_topk_prob': False},
  ('nemotron_h', 'num_hidden_layers', 'null'): {},
  ('nemotron_h', 'routed_scaling_factor', 'fraction'): {'routed_scaling_factor': 1.5},
  ('nemotron_h', 'sliding_window', 'null'): {'sliding_window': 0},
  ('nemotron_h', 'time_step_min', 'fraction'): {},  # only remarked
  ('nemotron_h', 'time_step_min', 'zero'): {},
  ('nemotron_h', 'use_bias', 'true'): {'use_bias': True},
  ('nemotron_h', 'use_conv_bias', 'false'): {'use_conv_bias': False},
  ('nemotron_h_5', 'mamba_conv_bias', 'false'): {'use_conv_bias': False},
  ('nemotron_h_5', 'mamba_dt_min', 'fraction'): {},
  ('nemotron_h_5', 'mamba_dt_min', 'zero'): {},
}
# What a config.json may leave out, because transformers has a default for it, or an older spelling.
OPTIONAL = {
  'llama': (
    'attention_bias head_dim hidden_act max_position_embeddings mlp_bias num_key_value_heads '
    'rms_norm_eps rope_interleaved rope_scaling rope_theta tie_word_embeddings'
  ),
  'qwen3': (
    'attention_bias head_dim hidden_act layer_types max_window_layers num_key_value_heads '
    'tie_word_embeddings'
  ),
  'qwen3_moe': (
    'attention_bias decoder_sparse_step head_dim hidden_act mlp_only_layers norm_topk_prob '
    'num_key_value_heads sliding_window tie_word_embeddings use_sliding_window'
  ),
  'nemotron_h': (
    'attention_bias mamba_hidden_act mlp_bias mlp_hidden_act moe_latent_size n_group '
    'n_shared_experts norm_topk_prob num_hidden_layers routed_scaling_factor sliding_window '
    'tie_word_embeddings time_step_limit time_step_min topk_group use_bias use_conv_bias'
  ),
  'nemotron_h_5': 'mamba_conv_bias mamba_dt_limit mamba_dt_min',
}
# (config, change, what the sentence says): values that are right alone.
TOGETHER = [
  ('llama', {'num_key_value_heads': 3}, 'num_attention_heads (4) must be a multiple of num_key'),
  ('llama', {'hidden_size': 33}, 'hidden_size = 33 (only multiples of num_attention_heads = 4)'),
  ('llama', {'head_dim': 7}, 'head_dim (7)'),
  ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor = 0.5 (only 1.0, or null)'),
  ('llama', {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, "type 'yarn' (rope_scaling."),
  ('llama', {'rope_scaling': {'rope_type': 8}}, 'rope_scaling.rope_type = 8 (only a string)'),
  ('llama', {'rope_scaling': {'type': None}}, 'rope_scaling.type = None (only a string)'),
  ('llama', {'rope_scaling': {'factor': 8.0}}, 'rope_scaling.factor (only rope_type, '),
  ('llama', {'rope_parameters': {'rope_theta': -1.0}}, 'rope_parameters.rope_theta = -1.0 (only a'),
  ('llama', {'rope_theta': None}, "lacks ['rope_theta']"),
  ('llama', {'hidden_act': 'gelu'}, "hidden_act = 'gelu' (only 'silu')"),
  (
    'llama',
    {'num_hidden_layers': 10**6},
    'num_hidden_layers = 1000000 (only an integer in [1, 409',
  ),
  ('llama', {'hidden_size': '33', 'vocab_size': 1.5}, "hidden_size = '33' (only an integer"),
  ('llama', {'hidden_size': '33', 'vocab_size': 1.5}, 'vocab_size = 1.5 (only an integer'),
  ('qwen3', {'layer_types': ['sliding_attention']}, 'layer_types of 1 layers (only as many as'),
  ('qwen3', {'layer_types': ['full_attention'] * 3}, 'layer_types of 3 layers (only as many as'),
  ('qwen3', {'layer_types': ['linear_attention'] * 2}, "items are 'full_attention' or 'sliding_at"),
  ('qwen3', {'sliding_window': None}, 'sliding_window = None (only an integer while use_sliding'),
  ('qwen3', {'num_key_value_heads': 8}, 'num_key_value_heads (8)'),
  (
    'qwen3_moe',
    {'num_experts_per_tok': 5},
    'num_experts_per_tok (5) must not exceed the 4 experts',
  ),
  ('qwen3_moe', {'num_experts': 5}, 'num_experts = 5 and num_local_experts = 4 (only one of them'),
  ('nemotron_h', {'num_hidden_layers': 5}, 'num_hidden_layers = 5 (only 4, as many as hybrid_'),
  ('nemotron_h', {'hybrid_override_pattern': 'M*X-'}, "hybrid_override_pattern = 'M*X-' (only blo"),
  ('nemotron_h', {'layers_block_type': ['mamba'] * 4}, 'hybrid_override_pattern and layers_block_'),
  ('nemotron_h', {'mamba_d_conv': 3}, 'conv_kernel = 4 and mamba_d_conv = 3 (only one of them'),
  ('nemotron_h', {'n_groups': 3}, 'mamba_num_heads (4) must be a multiple of n_groups (3)'),
  ('nemotron_h', {'n_group': 4}, 'n_routed_experts (6) must be a multiple of n_group (4)'),
  ('nemotron_h', {'topk_group': 3}, 'topk_group (3)'),
  ('nemotron_h', {'time_step_limit': [0.5, 0.1]}, 'time_step_limit = [0.5, 0.1] (only a lower'),
  ('nemotron_h', {'time_step_limit': [0.5]}, 'time_step_limit = [0.5] (only a list of 2 items'),
  ('nemotron_h', {'time_step_limit': [0, math.nan]}, 'time_step_limit = [0, nan] (only a list of'),
  ('nemotron_h', {'n_shared_experts': 2}, 'n_shared_experts = 2 (only 1)'),
  ('nemotron_h', {'moe_shared_expert_intermediate_size': 0}, 'moe_shared_expert_intermediate_size'),
  (
    'nemotron_h_5',
    {'layer_types': ['moe', 'gru']},
    "block types ['gru'] in layers_block_type (lay",
  ),
  ('nemotron_h', {'model_type': ['nemotron_h']}, "model_type ['nemotron_h']"),
  ('nemotron_h', {'model_type': None}, 'model_type None'),
]
# How checkpoints say that their numbers are not the weights.
QUANTISED = [
  ({'quantization_config': {'quant_method': 'fp8'}}, "quantization_config.quant_method = 'fp8'"),
  ({'quantization_config': {'quant_method': 'gptq', 'bits': 4}}, "quant_method = 'gptq'"),
  ({'quantization_config': {'quant_method': 'awq'}}, "quant_method = 'awq'"),
  ({'quantization_config': {'quant_method': 'bitsandbytes'}}, "quant_method = 'bitsandbytes'"),
  ({'quantization_config': {'quant_method': 'compressed-tensors'}}, "= 'compressed-tensors'"),
  ({'quantization_config': {'quant_method': 'modelopt'}}, "quant_method = 'modelopt'"),
  ({'quantization_config': {'load_in_4bit': True}}, "quantization_config = {'load_in_4bit': True}"),
  ({'quantization_config': 'fp8'}, "quantization_config = 'fp8'"),
  ({'quantization': {'group_size': 64, 'bits': 4}}, "quantization = {'group_size': 64"),  # MLX
  ({'compression_config': {'quant_method': 'sparseml'}}, "compression_config.quant_method = 'spar"),
]


def family_of(fields):
  return registry.FAMILIES[registry.of_model_type(fields['model_type'])]


def spellings(fields) -> set[str]:
  """The fields of a config.json that are read."""
  read = set()
  for name, field in family_of(fields).fields.items():
    read |= {name, *field.spelt}
  return read & fields.keys()


def outcome(fields):
  """The error's sentence, or the fields of the model that was read."""
  try:
    return vars(checkpoint.config_from_hf(fields))
  except ConfigJsonError as error:
    return str(error)


configs = pytest.mark.parametrize('name', CONFIGS)


@configs
def test_a_value_of_another_type_or_outside_its_range_is_refused_by_its_field(name):
  valid = CONFIGS[name]
  expected = outcome(valid)
  assert isinstance(expected, dict), expected
  for field in sorted(spellings(valid)):
    for mutation, value in MUTATIONS.items():
      if type(value) is type(valid[field]) and value == valid[field]:
        continue
      got = outcome(valid | {field: value})
      accepted = ACCEPTED.get((name, field, mutation))
      where = f'{field} = {value!r}: {got}'
      if accepted is not None:
        assert got == expected | accepted, where
      elif (field, mutation) == ('num_local_experts', 'zero') and name == 'qwen3_moe':
        assert got['pattern'] == '*-*-', where
      else:
        assert isinstance(got, str) and field in got and '\n' not in got, where


@configs
def test_a_number_is_read_however_json_spells_it(name):
  valid = CONFIGS[name]
  for field in spellings(valid):
    value = valid[field]
    if type(value) is int:
      assert outcome(valid | {field: float(value)}) == outcome(valid), field


@configs
def test_a_field_that_is_missing_is_named(name):
  valid = CONFIGS[name]
  optional = set(OPTIONAL[name].split())
  assert optional <= spellings(valid)
  for field in spellings(valid):
    got = outcome({key: value for key, value in valid.items() if key != field})
    if field in optional:
      assert isinstance(got, dict), got
    else:
      # By the name of today, where the file has an older one.
      names = [field]
      for current, declared in family_of(valid).fields.items():
        if field in declared.spelt:
          names.append(current)
      assert isinstance(got, str) and any(n in got for n in names), f'{field}: {got}'


@configs
def test_every_field_is_read_or_known_to_change_nothing(name):
  valid = CONFIGS[name]
  family = family_of(valid)
  assert not config_json.unknown(valid, family.fields, family.ignored)
  ignored = {**config_json.IGNORED, **family.ignored}
  assert not ignored.keys() & family.fields.keys()
  del ignored['model_type']
  expected = outcome(valid)
  for field, declared in ignored.items():
    for mutation, value in MUTATIONS.items():
      got = outcome(valid | {field: value})
      if mutation in OF_TYPE[declared.type]:
        assert got == expected, f'{field} = {value!r}: {got}'
      else:
        assert f'{field} = ' in got and 'correct it there' in got, f'{field} = {value!r}: {got}'


# What others read in a field that changes nothing here.
FLAWS_ELSEWHERE = [
  ('use_cache', 'yes', 'only true or false, or null'),
  ('use_cache', 1, 'only true or false, or null'),
  ('torch_dtype', 16, 'only a string, or null'),
  ('architectures', 'LlamaForCausalLM', 'only a list whose items are a string, or null'),
  ('initializer_range', '0.02', 'only a number, or null'),
  ('eos_token_id', 99999, 'only an integer in [0, 18], or null'),
  ('eos_token_id', 19, 'only an integer in [0, 18], or null'),
  ('eos_token_id', [2, 19], 'only a list whose items are an integer in [0, 18], or null'),
  ('eos_token_id', [2, 'a'], 'only a list whose items are an integer in [0, 18], or null'),
  ('eos_token_id', True, 'only an integer in [0, 18], or null'),
  ('pad_token_id', -1, 'only an integer in [0, 18], or null'),
  ('pad_token_id', [0], 'only an integer in [0, 18], or null'),
  ('bos_token_id', 'x', 'only an integer in [0, 18], or null'),
  ('bos_token_id', 1.5, 'only an integer in [0, 18], or null'),
]


@pytest.mark.parametrize(('field', 'value', 'only'), FLAWS_ELSEWHERE)
@configs
def test_what_only_others_read_is_refused_by_its_field(name, field, value, only):
  got = outcome(CONFIGS[name] | {field: value})
  assert isinstance(got, str) and f'{field} = {value!r} ({only})' in got, got


@configs
def test_every_id_of_the_vocabulary_may_end_a_completion(name):
  valid = outcome(CONFIGS[name])
  for ids in (0, 18, 18.0, [0, 18], [], None):
    assert outcome(CONFIGS[name] | {'eos_token_id': ids}) == valid


@pytest.mark.parametrize(('name', 'change', 'message'), TOGETHER)
def test_values_that_do_not_go_together_are_refused_by_name(name, change, message):
  got = outcome(CONFIGS[name] | change)
  assert isinstance(got, str) and message in got, got


@pytest.mark.parametrize(('change', 'message'), QUANTISED)
@configs
def test_quantised_weights_are_refused_by_their_method(name, change, message):
  got = outcome(CONFIGS[name] | change)
  assert isinstance(got, str), got
  assert message in got and 'from before quantisation' in got and 'remove' in got


@pytest.mark.parametrize(
  'file', ['hf_quant_config.json', 'quantize_config.json', 'quant_config.json']
)
def test_a_file_that_says_quantised_beside_plain_weights_is_named(tmp_path, file):
  (tmp_path / checkpoint.CONFIG).write_text(json.dumps(CONFIGS['llama']))
  checkpoint.read_config(tmp_path)
  (tmp_path / file).write_text('{}')
  with pytest.raises(ConfigJsonError, match=f'{file} says that the weights are quantised'):
    checkpoint.read_config(tmp_path)


def test_a_config_nested_beyond_reading_is_refused(tmp_path):
  (tmp_path / checkpoint.CONFIG).write_text('{"a": ' + '[' * 100_000 + ']' * 100_000 + '}')
  with pytest.raises(ConfigJsonError, match=r'config\.json is no JSON'):
    checkpoint.read_config(tmp_path)


# time_step_limit and time_step_min, and what is remarked of them: '' is nothing.
TIME_STEPS = [
  ({'time_step_limit': [0.0, math.inf], 'time_step_min': 0.001}, 'inf] (time_step_min)'),
  ({'time_step_limit': [0.1, math.inf], 'time_step_min': 0.1}, 'not at all when it decodes'),
  ({'time_step_limit': [0.0, 5.0], 'time_step_min': 0.0}, 'time_step_limit = [0, 5] here'),
  ({'time_step_limit': [0.0, 3.4028235e38], 'time_step_min': 1e-30}, ''),
  ({'time_step_limit': [0.0, math.inf], 'time_step_min': 0.001, 'pattern': '*E*-'}, ''),
]


@pytest.mark.parametrize(('change', 'message'), TIME_STEPS)
def test_where_others_cut_dt_otherwise_is_remarked(tmp_path, change, message):
  fields = CONFIGS['nemotron_h'] | change
  fields['hybrid_override_pattern'] = fields.pop('pattern', 'M*E-')
  (tmp_path / checkpoint.CONFIG).write_text(json.dumps(fields))
  remarks = ' '.join(checkpoint.remarks(tmp_path))
  assert message in remarks if message else not remarks


def test_fields_that_are_not_known_are_remarked(tmp_path):
  (tmp_path / checkpoint.CONFIG).write_text(json.dumps(CONFIGS['llama'] | {'no_rope_layers': [1]}))
  assert 'not known here and change nothing: no_rope_layers' in checkpoint.remarks(tmp_path)[0]
