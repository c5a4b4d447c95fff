"""Adapters: a fresh one changes nothing, a merged one is the adapted model, and only they are
trained.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import is_adapter, unbind
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer, TrainConfig
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

CONFIG = ModelConfig(
  vocab_size=13,
  hidden_size=16,
  pattern='M-*',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  intermediate_size=24,
  mamba_num_heads=2,
  mamba_head_dim=8,
  ssm_state_size=8,
  chunk_size=8,
)
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 9)).astype(np.int32)
SEGMENTS = np.ones_like(TOKENS)
RANK, ALPHA = 3, 12.0
ATTENTION = [f'layers.2.mixer.{name}_proj' for name in 'koqv']


@functools.partial(jax.jit, static_argnums=0)
def forward(structure, params):
  return structure.bind(params)(TOKENS, SEGMENTS)


@functools.cache
def adapted(targets='all'):
  decoder = create(CONFIG, seed=0)
  names = lora.attach(decoder, rank=RANK, alpha=ALPHA, targets=targets, seed=1)
  return names, *unbind(decoder)


@functools.cache
def trained():
  """Adapter parameters as after training: B is no longer zero."""
  _, _, params = adapted()
  rng = np.random.default_rng(2)
  return {
    name: jnp.asarray(0.3 * rng.normal(size=value.shape), jnp.float32)
    if name.endswith('lora_b')
    else value
    for name, value in params.items()
  }


def test_a_fresh_adapter_is_the_base():
  base_structure, base = unbind(create(CONFIG, seed=0))
  names, structure, params = adapted()
  assert {name for name in params if not is_adapter(name)} == base.keys()
  # Two programs, whose sums XLA may round differently.
  np.testing.assert_allclose(
    forward(structure, params), forward(base_structure, base), rtol=1e-5, atol=1e-6
  )
  for name in names:
    rows, columns = base[f'{name}.kernel'].shape
    assert params[f'{name}.lora_a'].shape == (rows, RANK) and params[f'{name}.lora_b'].shape == (
      RANK,
      columns,
    )
    assert not params[f'{name}.lora_b'].any() and params[f'{name}.lora_a'].all()
  assert len({params[f'{name}.lora_a'][0, 0].item() for name in names}) == len(names), (
    'each map draws its own A'
  )


def test_merge_is_w_plus_alpha_over_rank_a_b():
  names, _, _ = adapted()
  params = trained()
  merged = lora.merge(params, ALPHA / RANK)
  assert not any(map(is_adapter, merged))
  for name in names:
    w, a, b = (
      np.asarray(params[f'{name}.{leaf}'], np.float64) for leaf in ('kernel', 'lora_a', 'lora_b')
    )
    np.testing.assert_allclose(merged[f'{name}.kernel'], w + 4.0 * a @ b, rtol=1e-5, atol=1e-6)
  untouched = merged.keys() - {f'{name}.kernel' for name in names}
  assert all(np.array_equal(merged[name], params[name]) for name in untouched)


def test_the_merged_model_is_the_adapted_one():
  _, structure, fresh = adapted()
  base_structure, _ = unbind(create(CONFIG, seed=0))
  logits = forward(structure, trained())
  np.testing.assert_allclose(
    forward(base_structure, lora.merge(trained(), ALPHA / RANK)), logits, rtol=0, atol=5e-5
  )
  assert np.abs(logits - forward(structure, fresh)).max() > 0.1, (
    'the adapter did nothing, so this compared nothing'
  )


def test_only_adapters_are_trained():
  _, structure, params = adapted()
  adapters = {name: value for name, value in params.items() if is_adapter(name)}
  frozen = {name: value for name, value in params.items() if not is_adapter(name)}
  before = {name: np.array(value) for name, value in frozen.items()}
  tx = transformation(Optimizer(weight_decay=0.0, learning_rate=1e-2, schedule='constant'))
  batch = {'tokens': TOKENS, 'segment_ids': SEGMENTS, 'weights': np.ones(TOKENS.shape, np.float32)}
  state, _ = jax.jit(make_train_step(structure, tx, TrainConfig()))(
    TrainState.create(adapters, tx, 0.0), frozen, batch, np.float32(1e-2)
  )
  assert state.params.keys() == adapters.keys() and all(map(is_adapter, state.params))
  for name, value in state.params.items():
    # dL/dA = s x^T (dL/dy B^T) vanishes while B is zero; dL/dB does not.
    moved = np.abs(value - adapters[name]).max()
    assert moved == 0 if name.endswith('lora_a') else moved > 1e-4, name
  for name, value in frozen.items():
    np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
  'targets, expected',
  [
    ('attention', ATTENTION),
    ('mamba', ['layers.0.mixer.in_proj', 'layers.0.mixer.out_proj']),
    ('mlp', ['layers.1.mixer.down_proj', 'layers.1.mixer.up_proj']),
    ('attention_mlp', ['layers.1.mixer.down_proj', 'layers.1.mixer.up_proj', *ATTENTION]),
    (
      'all',
      [
        'layers.0.mixer.in_proj',
        'layers.0.mixer.out_proj',
        'layers.1.mixer.down_proj',
        'layers.1.mixer.up_proj',
        *ATTENTION,
      ],
    ),
    (r'layers\.2\..*q_proj', ['layers.2.mixer.q_proj']),
    ('lm_head', ['lm_head']),
  ],
)
def test_targets(targets, expected):
  names, _, params = adapted(targets)
  assert names == expected
  assert {name.rpartition('.')[0] for name in params if is_adapter(name)} == set(expected)


def test_targets_of_a_gated_mlp():
  config = ModelConfig(
    family='qwen3',
    vocab_size=13,
    hidden_size=16,
    pattern='*-',
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    rope_theta=1e4,
    qk_norm=True,
    intermediate_size=24,
    mlp_activation='swiglu',
  )
  mlp = [f'layers.1.mixer.{name}_proj' for name in ('down', 'gate', 'up')]
  assert lora.attach(create(config, seed=0), rank=2, alpha=1.0, targets='mlp', seed=0) == mlp
  assert (
    lora.attach(create(config, seed=0), rank=2, alpha=1.0, targets='attention_mlp', seed=0)
    == [f'layers.0.mixer.{name}_proj' for name in 'koqv'] + mlp
  )


def test_what_cannot_be_adapted_is_an_error_that_names_it():
  decoder = create(CONFIG, seed=0)
  with pytest.raises(
    ValueError,
    match=r"lora\.targets = 'gate_proj' matches none of .*layers\.0\.mixer\.in_proj.*attention",
  ):
    lora.attach(decoder, rank=2, alpha=1.0, targets='gate_proj', seed=0)
  with pytest.raises(ValueError, match=r'lora\.rank must be >= 1, got 0'):
    lora.attach(decoder, rank=0, alpha=1.0, targets='all', seed=0)
  with pytest.raises(ValueError, match=r"lora\.targets = '\(q' is no regular expression"):
    lora.attach(decoder, rank=2, alpha=1.0, targets='(q', seed=0)
  assert not any(map(is_adapter, unbind(decoder)[1]))
