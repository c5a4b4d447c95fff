"""Adapters of experts against a loop over tokens in float64; which targets include them; the draws
of A.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aevo_jax.models import lora
from aevo_jax.models.config import MOE_IMPLEMENTATIONS, ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import is_adapter, unbind
from aevo_jax.training.model_setup import adapt_model
from aevo_jax.training.recipe.recipe import Adaptation, Lora

CONFIG = ModelConfig(
  vocab_size=13,
  hidden_size=12,
  pattern='E*',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  n_routed_experts=6,
  num_experts_per_tok=2,
  moe_intermediate_size=10,
  moe_shared_expert_intermediate_size=14,
)
RANK, SCALE = 3, 2.0
EXPERTS = ['layers.0.mixer.experts.down_proj', 'layers.0.mixer.experts.up_proj']
SHARED = ['layers.0.mixer.shared_experts.down_proj', 'layers.0.mixer.shared_experts.up_proj']
ATTENTION = [f'layers.1.mixer.{name}_proj' for name in 'koqv']


@functools.cache
def model(targets='all_and_experts'):
  """Names of the adapted maps, structure, fresh parameters."""
  decoder = create(CONFIG, seed=0)
  return lora.attach(decoder, rank=RANK, alpha=RANK * SCALE, targets=targets, seed=1), *unbind(
    decoder
  )


@functools.cache
def trained():
  """Parameters as after training: B is no longer zero."""
  rng = np.random.default_rng(2)
  return {
    name: jnp.asarray(0.5 * rng.normal(size=value.shape), jnp.float32)
    if name.endswith('lora_b')
    else value
    for name, value in model()[2].items()
  }


@pytest.mark.parametrize(
  'implementation', [name for name in MOE_IMPLEMENTATIONS if name not in ('auto', 'mosaic')]
)  # which runs on GPU and TPU only
def test_an_adapted_block_is_experts_with_w_plus_scale_a_b(implementation):
  _, structure, _ = model()
  moe = structure.bind(trained()).layers[0].mixer
  moe.experts.implementation = implementation
  x = np.random.default_rng(3).standard_normal((90, 12)).astype(np.float32)
  routing = moe.gate(jnp.asarray(x))

  def get(name):
    return np.asarray(trained()[f'layers.0.mixer.experts.{name}'], np.float64)

  up, down = (
    get(name) + SCALE * get(f'adapters.{name}.lora_a') @ get(f'adapters.{name}.lora_b')
    for name in ('up_proj', 'down_proj')
  )
  expected = np.stack(
    [
      sum(
        w * (np.maximum(token @ up[e], 0) ** 2 @ down[e])
        for e, w in zip(experts, weights, strict=True)
      )
      for token, experts, weights in zip(
        np.asarray(x, np.float64),
        np.asarray(routing.experts),
        np.asarray(routing.weights, np.float64),
        strict=False,
      )
    ]
  )
  ours = moe.experts(jnp.asarray(x), routing)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  moe.experts.adapters.clear()
  assert (
    np.abs(moe.experts(jnp.asarray(x), routing) - expected).max() > 0.1 * np.abs(expected).max()
  ), 'the adapter did nothing, so this compared nothing'


def test_a_fresh_adapter_changes_nothing_and_a_merged_one_is_the_adapted_weight():
  names, _, fresh = model()
  assert names == sorted(EXPERTS + SHARED + ATTENTION)
  merged = lora.merge(trained(), SCALE)
  assert merged.keys() == unbind(create(CONFIG, 0))[1].keys()
  for name in EXPERTS:
    adapter = name.replace('experts.', 'experts.adapters.')
    a, b = fresh[f'{adapter}.lora_a'], fresh[f'{adapter}.lora_b']
    assert (
      a.shape == (6, *fresh[name].shape[1:2], RANK)
      and b.shape == (6, RANK, *fresh[name].shape[2:])
      and a.all()
      and not b.any()
    )
    w, a, b = (
      np.asarray(trained()[n], np.float64) for n in (name, f'{adapter}.lora_a', f'{adapter}.lora_b')
    )
    np.testing.assert_allclose(
      merged[name], w + SCALE * np.einsum('edr,erf->edf', a, b), rtol=1e-5, atol=1e-6
    )
    assert np.abs(np.asarray(merged[name]) - w).max() > 0.1


def test_only_adapters_are_trained_and_gradients_reach_every_chosen_expert():
  structure, params, frozen = adapt_model(
    CONFIG,
    Adaptation(method='lora'),
    Lora(rank=2, targets='experts'),
    unbind(create(CONFIG, 0))[1],
    seed=0,
  )
  assert all(map(is_adapter, params)) and len(params) == 4 and not any(map(is_adapter, frozen))
  tokens = np.random.default_rng(0).integers(0, 13, (4, 30)).astype(np.int32)
  gradient = jax.jit(
    jax.grad(
      lambda p: jnp.square(structure.bind({**p, **frozen})(tokens, np.ones_like(tokens))).sum()
    )
  )(params)
  for name, value in gradient.items():
    assert np.abs(value).max(axis=(1, 2)).all() == name.endswith('lora_b'), (
      name
    )  # dL/dA vanishes while B is zero


@pytest.mark.parametrize(
  'targets, expected',
  [
    ('all', SHARED + ATTENTION),
    ('mlp', SHARED),
    ('attention', ATTENTION),
    ('attention_mlp', SHARED + ATTENTION),
    ('experts', EXPERTS),
    ('all_and_experts', EXPERTS + SHARED + ATTENTION),
    (r'^model\.layers\.0\.mixer\.experts\.up_proj$', EXPERTS[1:]),
    (r'^model\.layers\.1\..*\.q_proj', ATTENTION[2:3]),
  ],
)
def test_only_targets_that_say_so_include_experts(targets, expected):
  assert model(targets)[0] == sorted(expected)


def test_a_is_drawn_by_the_maps_place_among_the_chosen():
  names, _, params = model('attention')
  for index, name in enumerate(names):
    rows = params[f'{name}.kernel'].shape[0]
    drawn = np.random.default_rng([1, index]).standard_normal((rows, RANK), np.float32) / math.sqrt(
      rows
    )
    np.testing.assert_array_equal(params[f'{name}.lora_a'], drawn)


def test_memory_does_not_grow_with_adapted_experts():
  def temporary(experts):
    c = ModelConfig(
      hidden_size=64,
      pattern='E',
      n_routed_experts=experts,
      moe_intermediate_size=64,
      moe_shared_expert_intermediate_size=8,
    )
    decoder = create(c, 0)
    lora.attach(decoder, rank=4, alpha=4.0, targets='experts', seed=0)
    graph, state = nnx.split(decoder.layers[0].mixer)
    step = jax.jit(lambda s, x: nnx.merge(graph, s)(x))
    return step.lower(state, jnp.zeros((1024, 64))).compile().memory_analysis().temp_size_in_bytes

  few, many = temporary(8), temporary(64)
  assert many < 1.5 * few and many < 1024 * 64 * 64 * 4 / 2, (few, many)
