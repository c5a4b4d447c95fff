"""A checkpoint that Hugging Face saved is imported, computes the same logits, is exported, and
loads in Hugging Face as the same model.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aevo_jax.models import weights
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline, unbind
from aevo_jax.substrate import hf_export, hf_import

pytestmark = pytest.mark.parity

CONFIG = ModelConfig(
  vocab_size=19,
  hidden_size=16,
  pattern='ME*-',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  intermediate_size=20,
  mamba_num_heads=4,
  mamba_head_dim=6,
  n_groups=2,
  ssm_state_size=4,
  chunk_size=8,
  n_routed_experts=6,
  num_experts_per_tok=2,
  moe_intermediate_size=12,
  moe_shared_expert_intermediate_size=16,
  routed_scaling_factor=2.5,
)
MASK = (np.arange(11) < np.array([[11], [7]])).astype(np.int32)
TOKENS = np.random.default_rng(0).integers(1, 19, MASK.shape).astype(np.int32)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A random model in a single file, as we write it."""
  directory, rng = tmp_path_factory.mktemp('made'), np.random.default_rng(1)
  params = {
    name: np.asarray(value) + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
    for name, value in unbind(create(CONFIG, 0))[1].items()
  }
  checkpoint.save_weights(directory / checkpoint.WEIGHTS, params, CONFIG)
  (directory / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0))
  )
  return directory


@jax.jit
def forward(params):
  return outline(CONFIG)[0].bind(params)(TOKENS, MASK)


def tensors(directory) -> dict[str, tuple]:
  return {
    name: (value.dtype, value.tobytes())
    for path in directory.glob('*.safetensors')
    for name, value in load_file(path).items()
  }


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_what_hugging_face_saves_comes_back_to_it(made, interop, theirs, tmp_path, dtype):
  reply = interop(do='save', model=made, out=tmp_path / 'saved', max_shard_size='3KB', dtype=dtype)
  assert reply['ok'], reply['error']
  assert len(list((tmp_path / 'saved').glob('model-*.safetensors'))) > 3
  assert (
    dataclasses.replace(
      checkpoint.read_config(tmp_path / 'saved'), compute_dtype=CONFIG.compute_dtype
    )
    == CONFIG
  )
  hf_import.import_hf(tmp_path / 'saved', tmp_path / 'base')

  expected = theirs(tmp_path / 'saved', TOKENS, MASK)
  ours = np.asarray(forward(weights.load(tmp_path / 'saved')))
  at = MASK.astype(bool)
  assert np.abs(ours - expected)[at].max() <= 2e-4 * np.abs(expected[at]).max()

  hf_export.export_hf(tmp_path / 'base', tmp_path / 'out', max_shard_size=5000)
  assert tensors(tmp_path / 'out') == tensors(tmp_path / 'saved')
  np.testing.assert_array_equal(theirs(tmp_path / 'out', TOKENS, MASK), expected)


def test_hugging_face_reads_our_export_of_older_names(made, theirs, tmp_path):
  """`backbone.` and experts one by one, with a block of multi-token prediction, as NVIDIA's
  checkpoints have them.
  """
  old = tmp_path / 'old'
  old.mkdir()
  (old / 'config.json').write_bytes((made / 'config.json').read_bytes())
  renamed = {'mtp.layers.0.norm.weight': np.ones(16, np.float32)}
  for name, value in load_file(made / 'model.safetensors').items():
    name = name.replace('model.', 'backbone.', 1)
    if '.experts.' in name:
      stem, leaf = name.rsplit('.', 1)
      renamed |= {f'{stem}.{e}.{leaf}.weight': np.ascontiguousarray(value[e]) for e in range(6)}
    else:
      renamed[name] = value
  save_file(renamed, old / 'model.safetensors', metadata={'format': 'pt'})
  hf_import.import_hf(old, tmp_path / 'base')
  hf_export.export_hf(tmp_path / 'base', tmp_path / 'out', max_shard_size=5000)
  np.testing.assert_array_equal(theirs(tmp_path / 'out', TOKENS, MASK), theirs(made, TOKENS, MASK))
