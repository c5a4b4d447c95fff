"""The PEFT library loads our adapters on our exported base and computes our logits; what it refuses
is stated here too.
"""

import functools
import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.hf import checkpoint, peft_adapter
from aevo_jax.models.params import is_adapter, unbind

pytestmark = pytest.mark.parity

CONFIG = ModelConfig(
  vocab_size=19,
  hidden_size=16,
  pattern='ME*-E',
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
  moe_latent_size=12,
)
LORA = SimpleNamespace(rank=3, alpha=6.0)
TOKENS = np.random.default_rng(0).integers(1, 19, (2, 11)).astype(np.int32)
MASK = np.ones_like(TOKENS)


@functools.cache
def adapted(targets):
  """Structure and parameters of the base with random adapters."""
  model = create(CONFIG, 0)
  lora.attach(model, rank=LORA.rank, alpha=LORA.alpha, targets=targets, seed=0)
  structure, params = unbind(model)
  rng = np.random.default_rng(1)
  return structure, {
    name: 0.3 * rng.standard_normal(value.shape).astype(np.float32)
    if is_adapter(name)
    else np.asarray(value)
    for name, value in params.items()
  }


@functools.partial(jax.jit, static_argnums=0)
def forward(structure, params):
  return structure.bind(params)(TOKENS, MASK)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  directory = tmp_path_factory.mktemp('base')
  checkpoint.save_weights(directory / checkpoint.WEIGHTS, unbind(create(CONFIG, 0))[1], CONFIG)
  (directory / checkpoint.CONFIG).write_text(
    json.dumps(checkpoint.config_to_hf(CONFIG, eos_token_id=2, pad_token_id=0))
  )
  return directory


EVERYTHING = r'(?<!out)_proj$'  # that PEFT loads


@pytest.mark.parametrize(
  'targets', ['attention', r'mixer\.in_proj$', 'mlp', 'experts', r'experts\.up_proj$', EVERYTHING]
)
def test_peft_computes_our_adapted_logits(base, theirs, tmp_path, targets):
  structure, params = adapted(targets)
  peft_adapter.save(tmp_path / 'adapter', params, CONFIG, LORA, str(base))
  expected = theirs(base, TOKENS, MASK, tmp_path / 'adapter')
  ours = np.asarray(forward(structure, params))
  scale = np.abs(expected).max()
  assert np.abs(ours - expected).max() <= 2e-4 * scale
  assert np.abs(expected - theirs(base, TOKENS, MASK)).max() > 0.02 * scale, (
    'the adapter did nothing, so this compared nothing'
  )
  if targets == EVERYTHING:
    merged = lora.merge(params, LORA.alpha / LORA.rank)
    checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, merged, CONFIG)
    (tmp_path / checkpoint.CONFIG).write_bytes((base / checkpoint.CONFIG).read_bytes())
    assert np.abs(theirs(tmp_path, TOKENS, MASK) - expected).max() <= 2e-4 * scale


def test_peft_does_not_load_adapters_of_mambas_out_proj(base, interop, tmp_path):
  """We train them and merge them; docs/models.md says so."""
  _, params = adapted('mamba')
  peft_adapter.save(tmp_path / 'adapter', params, CONFIG, LORA, str(base))
  inputs = tmp_path / 'inputs.safetensors'
  save_file({'tokens': TOKENS, 'mask': MASK}, inputs)
  reply = interop(
    do='logits', model=base, adapter=tmp_path / 'adapter', inputs=inputs, out=tmp_path / 'none'
  )
  assert (
    not reply['ok']
    and "Module 'out_proj' is incompatible with Mamba-based models" in reply['error']
  )
  loaded = peft_adapter.load(tmp_path / 'adapter', CONFIG)
  assert loaded.params.keys() == {name for name in params if is_adapter(name)}


def test_peft_computes_our_adapted_qwen3(theirs, tmp_path):
  golden = pathlib.Path(__file__).parents[1] / 'models' / 'goldens' / 'qwen3'
  config = checkpoint.read_config(golden)
  model = create(config, 0)
  lora.attach(model, rank=LORA.rank, alpha=LORA.alpha, targets='all', seed=0)
  structure, params = unbind(model)
  rng = np.random.default_rng(1)
  params = {
    name: 0.3 * rng.standard_normal(value.shape).astype(np.float32)
    if is_adapter(name)
    else np.asarray(value)
    for name, value in params.items()
  }
  checkpoint.save_weights(
    tmp_path / checkpoint.WEIGHTS,
    {name: value for name, value in params.items() if not is_adapter(name)},
    config,
  )
  (tmp_path / checkpoint.CONFIG).write_bytes((golden / checkpoint.CONFIG).read_bytes())
  peft_adapter.save(tmp_path / 'adapter', params, config, LORA, str(tmp_path))
  expected = theirs(tmp_path, TOKENS, MASK, tmp_path / 'adapter')
  scale = np.abs(expected).max()
  assert np.abs(np.asarray(forward(structure, params)) - expected).max() <= 2e-4 * scale
  assert np.abs(expected - theirs(tmp_path, TOKENS, MASK)).max() > 0.02 * scale, (
    'the adapter did nothing, so this compared nothing'
  )
