"""Routing and experts against a loop over tokens in float64; the grouped product against one
product per group; memory that does not grow with experts.
"""

import re
import sys
import types

import jax
import jax.numpy as jnp
import kernel_stand_ins
import numpy as np
import pytest
from flax import nnx
from jax.extend import backend

from aevo_jax.models.config import MOE_IMPLEMENTATIONS, ModelConfig
from aevo_jax.models.kernels.grouped_matmul import TILE, grouped_matmul
from aevo_jax.models.layers.moe import MoE
from aevo_jax.training.model_setup import adapt_model
from aevo_jax.training.recipe.recipe import Adaptation, Lora

# 'mosaic' runs on GPU and TPU only; 'auto' is one of the others.
HERE = [name for name in MOE_IMPLEMENTATIONS if name not in ('auto', 'mosaic')]
QWEN3 = {
  'family': 'qwen3',
  'pattern': '*E',
  'rope_theta': 1e4,
  'qk_norm': True,
  'mlp_activation': 'swiglu',
  'router': 'softmax',
  'moe_shared_expert_intermediate_size': 0,
}


def config(**fields):
  return ModelConfig(
    **{
      'hidden_size': 12,
      'pattern': 'E',
      'n_routed_experts': 8,
      'num_experts_per_tok': 3,
      'moe_intermediate_size': 10,
      'moe_shared_expert_intermediate_size': 14,
    }
    | fields
  )


def block(c, seed=0):
  """A block whose every parameter is random, the router's bias too."""
  moe, rng = MoE(c, rngs=nnx.Rngs(params=seed)), np.random.default_rng(seed)
  nnx.update(
    moe,
    jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape) * 0.5, jnp.float32), nnx.state(moe)
    ),
  )
  return moe


def by_the_paper(moe, c, x):
  """Token by token, expert by expert (2412.19437, eq. 12-16; 2505.09388 for softmax and gates), in
  float64.
  """

  def get(value):
    return np.asarray(value[...], np.float64)

  def relu2(v):
    return np.maximum(v, 0) ** 2

  def silu(v):
    return v / (1 + np.exp(-v))

  def hidden(v, e):
    return (
      relu2(v @ get(moe.experts.up_proj)[e])
      if c.mlp_activation == 'relu2'
      else (silu(v @ get(moe.experts.gate_proj)[e]) * (v @ get(moe.experts.up_proj)[e]))
    )

  out = []
  for token in np.asarray(x, np.float64):
    logits = token @ get(moe.gate.kernel)
    scores = (
      1 / (1 + np.exp(-logits)) if c.router == 'sigmoid' else np.exp(logits) / np.exp(logits).sum()
    )
    choice = scores + (get(moe.gate.e_score_correction_bias) if c.router == 'sigmoid' else 0)
    groups = choice.reshape(c.n_group, -1)
    best = np.argsort(-np.sort(groups, axis=1)[:, -2:].sum(axis=1))[: c.topk_group]
    eligible = [e for e in range(c.n_routed_experts) if e // groups.shape[1] in best]
    chosen = sorted(eligible, key=lambda e: -choice[e])[: c.num_experts_per_tok]
    total = sum(scores[e] for e in chosen) if c.norm_topk_prob else 1.0
    inner = token if not c.moe_latent_size else token @ get(moe.fc1_latent_proj.kernel)
    y = sum(
      scores[e]
      / total
      * c.routed_scaling_factor
      * (hidden(inner, e) @ get(moe.experts.down_proj)[e])
      for e in chosen
    )
    y = y if not c.moe_latent_size else y @ get(moe.fc2_latent_proj.kernel)
    out.append(
      y
      if moe.shared_experts is None
      else y
      + relu2(token @ get(moe.shared_experts.up_proj.kernel))
      @ get(moe.shared_experts.down_proj.kernel)
    )
  return np.stack(out)


@pytest.mark.parametrize(('inputs', 'outputs'), [(3, 4), (70, 64), (64, 100)])
def test_what_the_kernel_leaves_behind_the_last_group_is_cleared(inputs, outputs, monkeypatch):
  """Widths that are no whole tiles of the kernel are filled up."""
  monkeypatch.setitem(sys.modules, 'tokamax', kernel_stand_ins.modules()['tokamax'])
  shapes = [(9, inputs), (2, inputs, outputs), (9, outputs)]
  x, w, c = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
  sizes = jnp.array([4, 2])

  def loss(implementation):
    return jax.value_and_grad(
      lambda x, w: jnp.sum(c * grouped_matmul(x, w, sizes, implementation)), argnums=(0, 1)
    )(x, w)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    loss('mosaic'),
    loss('ragged_dot'),
  )


def test_a_kernel_that_there_is_not_is_no_other_one(monkeypatch):
  def refuses(*_, **__):
    raise NotImplementedError('Unsupported GPU architecture.')

  monkeypatch.setitem(sys.modules, 'tokamax', types.SimpleNamespace(ragged_dot=refuses))
  with pytest.raises(
    NotImplementedError, match='no kernel for float32 rows of 3 by 4 on a cpu: Unsupported GPU'
  ):
    grouped_matmul(jnp.zeros((2, 3)), jnp.zeros((1, 3, 4)), jnp.array([2]), 'mosaic')


@pytest.mark.parametrize(
  ('platform', 'implementation'), [('gpu', 'mosaic'), ('tpu', 'ragged_dot'), ('cpu', 'tiled')]
)
def test_the_platform_chooses(monkeypatch, platform, implementation):
  device = types.SimpleNamespace(platform=platform)
  monkeypatch.setattr(backend, 'get_default_device', lambda: device)
  monkeypatch.setitem(sys.modules, 'tokamax', kernel_stand_ins.modules()['tokamax'])
  jaxprs = []
  for name in ('auto', implementation):
    traced = jax.make_jaxpr(lambda x, w, n=name: grouped_matmul(x, w, jnp.array([2]), n))
    jaxprs.append(re.sub('0x[0-9a-f]+', '', str(traced(jnp.zeros((2, 3)), jnp.zeros((1, 3, 4))))))
  assert jaxprs[0] == jaxprs[1]


@pytest.mark.parametrize('implementation', HERE)
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'n_group': 4, 'topk_group': 2},
    {'moe_latent_size': 5, 'norm_topk_prob': False, 'routed_scaling_factor': 2.5},
    QWEN3,
    QWEN3 | {'norm_topk_prob': False},
  ],
)
def test_a_block_is_the_papers(fields, implementation):
  c = config(moe_implementation=implementation, **fields)
  moe, x = block(c), np.random.default_rng(1).standard_normal((2, 90, 12)).astype(np.float32)
  expected = by_the_paper(moe, c, x.reshape(-1, 12)).reshape(x.shape)
  np.testing.assert_allclose(
    moe(jnp.asarray(x)), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )


@pytest.mark.parametrize('implementation', HERE)
@pytest.mark.parametrize(
  'sizes', [(TILE, TILE), (0, 5, 0, 2 * TILE - 5, 0), (1, TILE + 7, 3, 0, 2 * TILE, 9), (3,)]
)
def test_grouped_products_and_their_gradients(sizes, implementation):
  """Groups that end inside tiles and at their ends, empty ones, and several in one tile."""
  rng = np.random.default_rng(0)
  x, w = (
    rng.standard_normal((sum(sizes), 6)).astype(np.float32),
    rng.standard_normal((len(sizes), 6, 5)).astype(np.float32),
  )
  g = rng.standard_normal((sum(sizes), 5)).astype(np.float32)
  y, back = jax.vjp(
    lambda a, b: grouped_matmul(a, b, jnp.asarray(sizes, jnp.int32), implementation), x, w
  )
  dx, dw = back(jnp.asarray(g))
  ends = np.cumsum(sizes)
  for e, (size, end) in enumerate(zip(sizes, ends, strict=True)):
    rows = slice(end - size, end)
    np.testing.assert_allclose(y[rows], x[rows] @ w[e], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx[rows], g[rows] @ w[e].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw[e], x[rows].T @ g[rows], rtol=1e-4, atol=1e-4)


def test_memory_grows_with_tokens_and_top_k_and_not_with_experts():
  """Temporary memory of a compiled forward and backward pass, beside the weights and their
  gradients (which are results).
  """

  def temporary(tokens, **fields):
    c = config(
      hidden_size=64, moe_intermediate_size=64, moe_shared_expert_intermediate_size=8, **fields
    )
    graph, state = nnx.split(MoE(c, rngs=nnx.Rngs(params=0)))
    step = jax.jit(jax.grad(lambda s, x: jnp.square(nnx.merge(graph, s)(x)).sum()))
    return step.lower(state, jnp.zeros((tokens, 64))).compile().memory_analysis().temp_size_in_bytes

  few, many = temporary(2048, n_routed_experts=8), temporary(2048, n_routed_experts=64)
  assert many < 1.5 * few, f'{few:,} bytes with 8 experts, {many:,} with 64'
  assert many < 2048 * 64 * 64 * 4 / 2, 'less than an array of tokens, experts and width'
  assert 1.5 < temporary(4096, n_routed_experts=8) / few < 2.5
  assert temporary(2048, n_routed_experts=8, num_experts_per_tok=6) > 1.3 * few


def test_the_routers_bias_chooses_and_gets_no_gradient():
  c = config()
  moe, x = block(c), jnp.asarray(np.random.default_rng(1).standard_normal((40, 12)), jnp.float32)
  gradient = nnx.grad(lambda m: jnp.square(m(x)).sum())(moe)
  assert not np.any(gradient['gate']['e_score_correction_bias'][...]) and np.any(
    gradient['gate']['kernel'][...]
  )
  before = moe.gate(x)
  moe.gate.e_score_correction_bias[...] = moe.gate.e_score_correction_bias[...].at[5].add(10.0)
  after = moe.gate(x)
  assert (np.asarray(after.experts) == 5).any(axis=1).all() and not (
    np.asarray(before.experts) == 5
  ).any(axis=1).all()
  np.testing.assert_allclose(after.weights.sum(axis=1), 1.0, rtol=1e-5)


def test_a_softmax_router_has_no_bias():
  assert 'gate.e_score_correction_bias' not in {
    '.'.join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(block(config(**QWEN3))))
  }


def test_no_way_of_training_trains_the_routers_bias():
  """Weight decay would move it though it has no gradient."""
  for method in ('full', 'lora'):
    _, trained, frozen = adapt_model(
      config(pattern='ME'), Adaptation(method=method), Lora(), None, seed=0
    )
    assert (
      'layers.1.mixer.gate.e_score_correction_bias' in frozen and not trained.keys() & frozen.keys()
    )
    assert ('layers.1.mixer.gate.kernel' in trained) == (method == 'full')


def test_mosaic_without_tokamax_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokamax', None)
  with pytest.raises(
    ImportError, match=r"'mosaic' .* needs tokamax: install aevo-jax\[kernels\], or bind 'tiled'"
  ):
    grouped_matmul(jnp.zeros((2, 3)), jnp.zeros((1, 3, 4)), jnp.array([2]), 'mosaic')


@pytest.mark.parametrize('implementation', HERE)
def test_gradients_of_weights_accumulate_in_float32(implementation):
  """In bfloat16 an expert's gradient is as exact over many tiles of rows as over one."""
  rng = np.random.default_rng(0)
  x, g = (jnp.asarray(rng.standard_normal((64 * TILE, 4)), jnp.bfloat16) for _ in range(2))
  w, sizes = jnp.zeros((1, 4, 4), jnp.bfloat16), jnp.array([64 * TILE])
  found = jax.vjp(lambda w: grouped_matmul(x, w, sizes, implementation), w)[1](g)[0]
  expected = np.float64(x).T @ np.float64(g)
  np.testing.assert_allclose(
    np.float64(found[0]), expected, rtol=0, atol=2**-8 * np.abs(expected).max()
  )
