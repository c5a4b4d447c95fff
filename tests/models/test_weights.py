"""The same weights from a safetensors file, from shards and from an import: stacked or not, in the
dtype asked for, each on its devices; and trained alike.
"""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from aevo_jax.checkpoint.digest import logical_digest
from aevo_jax.models import scan_layers, weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import resident_dtype, unbind
from aevo_jax.substrate import hf_import
from aevo_jax.training.model_setup import adapt_model
from aevo_jax.training.recipe.recipe import Adaptation, Lora

CONFIG = ModelConfig(
  vocab_size=16,
  hidden_size=8,
  pattern='M*M*E',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=4,
  intermediate_size=8,
  mamba_num_heads=2,
  mamba_head_dim=4,
  ssm_state_size=4,
  chunk_size=4,
  n_routed_experts=4,
  moe_intermediate_size=4,
  moe_shared_expert_intermediate_size=4,
)
SCANNED = dataclasses.replace(CONFIG, scan=True, compute_dtype='bfloat16')


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
  """{kind: directory} and the parameters."""
  folder = tmp_path_factory.mktemp('bases')
  rng = np.random.default_rng(0)
  params = {
    name: rng.standard_normal(value.shape).astype(np.float32)
    for name, value in unbind(create(CONFIG, 0))[1].items()
  }
  one, shards = folder / 'one', folder / 'shards'
  for directory in (one, shards):
    directory.mkdir()
    (directory / 'config.json').write_text(
      json.dumps(checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0))
    )
  checkpoint.save_weights(one / checkpoint.WEIGHTS, params, CONFIG)
  tensors = load_file(one / checkpoint.WEIGHTS)
  shard = {
    name: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, name in enumerate(sorted(tensors))
  }
  for file in set(shard.values()):
    save_file({name: tensors[name] for name in tensors if shard[name] == file}, shards / file)
  (shards / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': shard}))
  hf_import.import_hf(shards, folder / 'imported')
  return {'one': one, 'shards': shards, 'imported': folder / 'imported'}, params


@pytest.mark.parametrize('kind', ['one', 'shards', 'imported'])
def test_they_are_what_was_written(bases, kind):
  directories, params = bases
  assert logical_digest(weights.load(directories[kind], CONFIG)) == logical_digest(params)
  spread = NamedSharding(jax.make_mesh((1,), ('x',)), PartitionSpec('x'))

  def dtype(name, stored):
    return resident_dtype(name, jnp.dtype('bfloat16'), frozen=stored == np.float32)

  found = weights.load(
    directories[kind], SCANNED, dtype=dtype, shardings={'segments.0.1.mixer.q_proj.kernel': spread}
  )
  expected = scan_layers.stack(
    {name: jnp.asarray(value) for name, value in params.items()}, CONFIG.pattern
  )
  assert (
    found.keys() == expected.keys() and found['segments.0.1.mixer.q_proj.kernel'].sharding == spread
  )
  for name, value in found.items():
    kept = name.endswith(('A_log', '.D', 'dt_bias', 'e_score_correction_bias'))
    assert value.dtype == (jnp.float32 if kept else jnp.bfloat16), name
    np.testing.assert_array_equal(value, expected[name].astype(value.dtype), err_msg=name)


@pytest.mark.parametrize('stored', ['float32', 'bfloat16'])
def test_under_an_adapter_the_base_lies_as_it_is_stored(bases, stored):
  """Whatever the computation's dtype, so that merging changes nothing else. Loaded stacked or
  stacked later, the adapted model is the same.
  """
  _, params = bases

  def adapt(base):
    return adapt_model(SCANNED, Adaptation('lora'), Lora(rank=2, targets='attention'), base, 0)

  given = {name: jnp.asarray(value, stored) for name, value in params.items()}
  structure, trained, frozen = adapt(given)
  again = adapt(scan_layers.stack(given, CONFIG.pattern))
  assert structure == again[0] and all(value.dtype == jnp.float32 for value in trained.values())
  assert {name: value.dtype for name, value in frozen.items()} == {
    name: resident_dtype(name, jnp.dtype(stored), frozen=True) for name in frozen
  }
  assert logical_digest(trained | frozen) == logical_digest(again[1] | again[2])
  assert {name.split('.')[-2] for name in trained} == {'q_proj', 'k_proj', 'v_proj', 'o_proj'}


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('kind', ['one', 'file'])
def test_weights_that_are_not_finite_are_refused(bases, tmp_path, kind, value):
  directories, params = bases
  name = sorted(params)[3]
  bad = params | {name: params[name].copy()}
  bad[name].flat[-1] = value
  shutil.copyfile(directories['one'] / 'config.json', tmp_path / 'config.json')
  checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, bad, CONFIG)
  path = tmp_path if kind == 'one' else tmp_path / checkpoint.WEIGHTS
  for config in (CONFIG, SCANNED):
    with pytest.raises(ValueError, match=rf'not finite in {re.escape(name)}; take an undamaged'):
      weights.load(path, config)
  with pytest.raises(ValueError, match=r'not finite in '):
    hf_import.import_hf(tmp_path, tmp_path / 'imported')
  assert not (tmp_path / 'imported').exists()


def test_an_import_of_another_model_is_refused(bases):
  directories, _ = bases
  with pytest.raises(ValueError, match=r'does not hold the model of its config.json: .*no array'):
    weights.load(directories['imported'], dataclasses.replace(CONFIG, pattern='M*M*EM'))
  with pytest.raises(
    ValueError,
    match=r'embedding \(16, 8\) where the model of its config.json has embedding \(32, 8\)',
  ):
    weights.load(directories['imported'], dataclasses.replace(CONFIG, vocab_size=32))
