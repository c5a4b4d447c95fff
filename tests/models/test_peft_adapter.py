"""Adapters in PEFT's form: names, orientation, the way back, refusals. tests/parity/test_peft.py
has the real library load them.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import peft_adapter
from aevo_jax.models.params import abstract, is_adapter, unbind

CONFIG = ModelConfig(
  vocab_size=13,
  hidden_size=6,
  pattern='ME*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=4,
  intermediate_size=10,
  mamba_num_heads=2,
  mamba_head_dim=4,
  ssm_state_size=4,
  n_routed_experts=3,
  moe_intermediate_size=5,
  moe_shared_expert_intermediate_size=7,
)
LORA = SimpleNamespace(rank=2, alpha=8.0)
P = 'base_model.model.model.layers'


def adapters(targets='all_and_experts', rank=2) -> dict[str, np.ndarray]:
  """Random adapter parameters by our names."""
  model = abstract(CONFIG)
  lora.attach(model, rank=rank, alpha=8.0, targets=targets, seed=0)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(value.shape).astype(np.float32)
    for name, value in sorted(unbind(model)[1].items())
    if is_adapter(name)
  }


@pytest.fixture
def saved(tmp_path):
  params = adapters()
  peft_adapter.save(
    tmp_path / 'adapter', params | {'embedding': np.zeros(3)}, CONFIG, LORA, 'some/base'
  )
  return SimpleNamespace(
    path=tmp_path / 'adapter',
    params=params,
    stored=load_file(tmp_path / 'adapter' / 'adapter_model.safetensors'),
  )


def edit(path, **changed):
  path = path / 'adapter_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_names_shapes_and_places_are_pefts(saved):
  p, stored = saved.params, saved.stored
  assert {
    key: value.shape for key, value in stored.items() if 'layers.1' in key or 'in_proj' in key
  } == {
    f'{P}.0.mixer.in_proj.lora_A.weight': (2, 6),
    f'{P}.0.mixer.in_proj.lora_B.weight': (26, 2),
    f'{P}.1.mixer.experts.base_layer.lora_A.weight': (6, 6),
    f'{P}.1.mixer.experts.base_layer.lora_B.weight': (5, 6),  # up_proj
    f'{P}.1.mixer.experts.lora_A.weight': (6, 5),
    f'{P}.1.mixer.experts.lora_B.weight': (6, 6),  # down_proj
    f'{P}.1.mixer.shared_experts.up_proj.lora_A.weight': (2, 6),
    f'{P}.1.mixer.shared_experts.up_proj.lora_B.weight': (7, 2),
    f'{P}.1.mixer.shared_experts.down_proj.lora_A.weight': (2, 7),
    f'{P}.1.mixer.shared_experts.down_proj.lora_B.weight': (6, 2),
  }
  assert len(stored) == len(p)
  assert (
    stored[f'{P}.2.mixer.q_proj.lora_A.weight'][1, 5] == p['layers.2.mixer.q_proj.lora_a'][5, 1]
  )
  # PEFT's own reading of stacked experts: A as [e, r, in], B as [out, r, e], delta = einsum('o r e,
  # e r i -> e o i').
  a = stored[f'{P}.1.mixer.experts.lora_A.weight'].reshape(3, 2, 5)
  b = stored[f'{P}.1.mixer.experts.lora_B.weight'].reshape(6, 2, 3)
  experts = 'layers.1.mixer.experts.adapters.down_proj'
  np.testing.assert_allclose(
    np.einsum('ore,eri->eio', b, a),
    p[f'{experts}.lora_a'] @ p[f'{experts}.lora_b'],
    rtol=1e-5,
    atol=1e-6,
  )


def test_config_names_what_is_adapted(saved):
  fields = json.loads((saved.path / 'adapter_config.json').read_text())
  assert (
    fields['peft_type'],
    fields['r'],
    fields['lora_alpha'],
    fields['base_model_name_or_path'],
  ) == ('LORA', 2, 8, 'some/base')
  assert fields['target_parameters'] == [
    'model.layers.1.mixer.experts.down_proj',
    'model.layers.1.mixer.experts.up_proj',
  ]
  assert (
    'model.layers.0.mixer.out_proj' in fields['target_modules']
    and len(fields['target_modules']) == 2 + 2 + 4 + 2
  )


@pytest.mark.parametrize(
  'targets', ['attention', 'mamba', 'experts', r'experts\.up_proj$', 'all_and_experts']
)
def test_the_way_back_is_exact(targets, tmp_path):
  params = adapters(targets)
  peft_adapter.save(tmp_path / 'adapter', params, CONFIG, LORA, 'base')
  loaded = peft_adapter.load(tmp_path / 'adapter', CONFIG)
  assert (loaded.rank, loaded.alpha) == (2, 8) and loaded.params.keys() == params.keys()
  for name, value in params.items():
    assert (
      loaded.params[name].shape == value.shape and loaded.params[name].tobytes() == value.tobytes()
    ), name


def test_targets_are_read_as_peft_writes_them(tmp_path):
  params = adapters('attention')
  peft_adapter.save(tmp_path / 'adapter', params, CONFIG, LORA, 'base')
  for targets in (['q_proj', 'k_proj', 'v_proj', 'o_proj'], r'model\.layers\.2\..*_proj'):
    edit(tmp_path / 'adapter', target_modules=targets)
    assert peft_adapter.load(tmp_path / 'adapter', CONFIG).params.keys() == params.keys()


def test_tensors_that_do_not_fit_are_named(saved):
  stored = dict(saved.stored)
  del stored[f'{P}.2.mixer.q_proj.lora_A.weight']
  stored[f'{P}.2.mixer.x_proj.lora_A.weight'] = np.zeros(2, np.float32)
  stored[f'{P}.1.mixer.experts.lora_B.weight'] = np.zeros((6, 4), np.float32)
  save_file(stored, saved.path / 'adapter_model.safetensors')
  with pytest.raises(peft_adapter.AdapterError) as error:
    peft_adapter.load(saved.path, CONFIG)
  for part in (
    f'missing {P}.2.mixer.q_proj.lora_A.weight',
    f'unexpected {P}.2.mixer.x_proj.lora_A.weight',
    f'{P}.1.mixer.experts.lora_B.weight has shape (6, 4) where (6, 6)',
  ):
    assert part in str(error.value)


@pytest.mark.parametrize(
  'option, value',
  [
    ('use_rslora', True),
    ('use_dora', True),
    ('init_lora_weights', 'pissa'),
    ('corda_config', {'a': 1}),
    ('bias', 'all'),
    ('rank_pattern', {'q_proj': 4}),
    ('modules_to_save', ['lm_head']),
    ('fan_in_fan_out', True),
    ('layers_to_transform', [1]),
    ('exclude_modules', ['q_proj']),
    ('made_up_next_year', 3),
    ('r', '2'),
    ('r', 1.5),
    ('r', True),
    ('r', 0),
    ('lora_alpha', None),
    ('lora_alpha', float('nan')),
    ('target_modules', 4),
    ('target_modules', ['q_proj', 4]),
    ('target_modules', '(q_proj'),
    ('target_parameters', {'up_proj': 2}),
  ],
)
def test_what_is_not_computed_is_refused_by_name(saved, option, value):
  edit(saved.path, **{option: value})
  with pytest.raises(peft_adapter.AdapterError, match=option):
    peft_adapter.load(saved.path, CONFIG)


def test_other_refusals(saved, tmp_path):
  with pytest.raises(
    peft_adapter.AdapterError, match=r'lora.rank is 33 and the submission format allows 32'
  ):
    peft_adapter.save(
      tmp_path / 'high',
      {},
      CONFIG,
      SimpleNamespace(rank=33, alpha=1.0),
      'base',
      max_rank=peft_adapter.CHALLENGE_MAX_RANK,
    )
  with pytest.raises(peft_adapter.AdapterError, match='no adapter among the parameters'):
    peft_adapter.save(tmp_path / 'none', {'embedding': np.zeros(2)}, CONFIG, LORA, 'base')
  with pytest.raises(
    peft_adapter.AdapterError,
    match=r'does not fit the model or lora.rank.*q_proj\.lora_a has shape \(6, 3\) where \(6, 2\)',
  ):
    peft_adapter.save(tmp_path / 'other', adapters('attention', rank=3), CONFIG, LORA, 'base')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['adapter']
  with pytest.raises(FileExistsError):
    peft_adapter.save(saved.path, saved.params, CONFIG, LORA, 'base')
  edit(saved.path, peft_type='IA3')
  with pytest.raises(peft_adapter.AdapterError, match="'IA3'"):
    peft_adapter.load(saved.path, CONFIG)
  (saved.path / 'adapter_model.safetensors').write_bytes(b'\0' * 9)
  with pytest.raises(peft_adapter.AdapterError, match='damaged adapter'):
    peft_adapter.load(saved.path, CONFIG)
  with pytest.raises(peft_adapter.AdapterError, match='is no adapter'):
    peft_adapter.load(tmp_path, CONFIG)
