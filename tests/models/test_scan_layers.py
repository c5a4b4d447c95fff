"""A scanned decoder is the decoder: the same logits, gradients, decoding and optimizer steps, under
every remat policy; and it is smaller to compile.
"""

import dataclasses
import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from aevo_jax.models import lora
from aevo_jax.models.config import REMAT_POLICIES, ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import abstract, logical_axes, outline, unbind
from aevo_jax.models.scan_layers import Scanned, segments, stack, unstack
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_update

CONFIG = ModelConfig(
  vocab_size=13,
  hidden_size=16,
  pattern='-M*EM*E',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=4,
  intermediate_size=24,
  mamba_num_heads=4,
  mamba_head_dim=6,
  n_groups=2,
  ssm_state_size=8,
  chunk_size=4,
  n_routed_experts=4,
  moe_intermediate_size=8,
  moe_shared_expert_intermediate_size=8,
  moe_implementation='ragged_dot',
)  # the quicker one to compile
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 13, (2, 15)).astype(np.int32)
SEGMENTS = np.repeat([[1, 2, 0]], [6, 7, 2], axis=1).repeat(2, axis=0).astype(np.int32)


@functools.cache
def written_out():
  structure, params = unbind(create(CONFIG, seed=0))
  return structure, {
    name: value + 0.1 * RNG.standard_normal(value.shape, np.float32)
    for name, value in params.items()
  }


@functools.cache
def scanned(policy='none'):
  return unbind(Scanned(abstract(dataclasses.replace(CONFIG, remat_policy=policy))))[0], stack(
    written_out()[1], CONFIG.pattern
  )


@functools.partial(jax.jit, static_argnums=0)
def gradient(structure, params):
  def loss(p):
    logits, loads = structure.bind(p).with_loads(TOKENS, SEGMENTS)
    return jnp.sum(
      jnp.cos(jnp.arange(13.0)) * jax.nn.log_softmax(logits) * (SEGMENTS > 0)[..., None]
    ), (logits, loads)

  return jax.grad(loss, has_aux=True)(params)


@hypothesis.given(st.text('M-*E', min_size=1, max_size=24))
def test_segments_are_the_pattern(pattern):
  cut = segments(pattern)
  assert ''.join(unit * repeats for _, unit, repeats in cut) == pattern
  assert [s.start for s in cut] == np.cumsum([0, *(len(s.unit) * s.repeats for s in cut)])[
    :-1
  ].tolist()


def test_a_repeated_period_is_one_segment_and_published_patterns_shrink():
  assert segments('*-' * 28) == ((0, '*-', 28),)
  assert segments('M-*E') == ((0, 'M-*E', 1),)
  assert [(s.unit, s.repeats) for s in segments(CONFIG.pattern)] == [('-', 1), ('M*E', 2)]
  nano = 'MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME'
  assert [(s.unit, s.repeats) for s in segments(nano)] == [
    ('MEMEM*E', 5),
    ('ME', 3),
    ('M*E', 1),
    ('ME', 4),
  ]


def test_stack_and_unstack_are_inverse_and_agree_with_the_structure():
  params, stacked = written_out()[1], scanned()[1]
  back = unstack(stacked, CONFIG.pattern)
  assert back.keys() == params.keys() and all(
    np.array_equal(back[name], params[name]) for name in params
  )
  np.testing.assert_array_equal(
    stacked['segments.1.2.mixer.experts.up_proj'][1], params['layers.6.mixer.experts.up_proj']
  )
  model = Scanned(abstract(CONFIG))
  assert {name: value.shape for name, value in unbind(model)[1].items()} == {
    name: value.shape for name, value in stacked.items()
  }
  assert logical_axes(model)['segments.1.0.mixer.in_proj.kernel'] == (
    'layers',
    'embed',
    'mamba_inner',
  )


@pytest.mark.parametrize('policy', REMAT_POLICIES)
def test_logits_loads_and_gradients_are_the_written_out_ones(policy):
  grads, (logits, loads) = gradient(*written_out())
  scanned_grads, (scanned_logits, scanned_loads) = gradient(*scanned(policy))
  np.testing.assert_allclose(scanned_logits, logits, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(scanned_loads, loads)
  for name, value in unstack(scanned_grads, CONFIG.pattern).items():
    np.testing.assert_allclose(
      value, grads[name], rtol=0, atol=1e-5 * max(np.abs(grads[name]).max(), 1), err_msg=name
    )


def test_bfloat16_computes_near_float32_on_float32_masters():
  config = dataclasses.replace(CONFIG, pattern='M-*')
  rng = np.random.default_rng(6)
  params = {
    name: value + 0.1 * rng.standard_normal(value.shape, np.float32)
    for name, value in unbind(create(config, seed=0))[1].items()
  }
  grads, (logits, _) = gradient(unbind(abstract(config))[0], params)
  low_grads, (low, _) = gradient(
    unbind(abstract(dataclasses.replace(config, compute_dtype='bfloat16')))[0], params
  )
  assert (
    all(value.dtype == jnp.float32 for value in low_grads.values()) and low.dtype == jnp.float32
  )
  at = SEGMENTS > 0
  error = np.abs(low - logits)[at].max() / np.abs(logits)[at].max()
  assert 1e-4 < error < 0.05, error  # really in bfloat16, and right

  # One parameter of four numbers may be off by a fifth, and by how much depends on the CPU's own
  # bfloat16 products; the gradient as a whole may not.
  def norm(gradients):
    return np.sqrt(sum(np.square(g).sum() for g in gradients))

  assert norm(low_grads[name] - value for name, value in grads.items()) < 0.05 * norm(
    grads.values()
  )
  for name, value in grads.items():
    cosine = (
      (low_grads[name] * value).sum() / np.linalg.norm(low_grads[name]) / np.linalg.norm(value)
    )
    assert cosine > 0.95, (name, cosine)


def test_loads_count_tokens_and_leave_padding_out():
  loads = np.asarray(gradient(*written_out())[1][1])
  assert loads.shape == (2, 4)
  np.testing.assert_array_equal(
    loads.sum(axis=1), CONFIG.num_experts_per_tok * (SEGMENTS > 0).sum()
  )


def test_remat_without_a_scan_gives_the_same_gradients():
  grads, _ = gradient(*written_out())
  structure = unbind(abstract(dataclasses.replace(CONFIG, remat_policy='block')))[0]
  for name, value in gradient(structure, written_out()[1])[0].items():
    np.testing.assert_allclose(
      value, grads[name], rtol=0, atol=1e-5 * max(np.abs(grads[name]).max(), 1), err_msg=name
    )


def temporary(pattern, policy):
  """Bytes of temporary memory of a scanned gradient, compiled for a length at which activations
  outweigh parameters.
  """
  config = dataclasses.replace(
    CONFIG,
    pattern=pattern,
    hidden_size=64,
    intermediate_size=256,
    mamba_num_heads=8,
    mamba_head_dim=16,
    chunk_size=32,
    remat_policy=policy,
  )
  structure, shapes = unbind(Scanned(abstract(config)))
  tokens = jax.ShapeDtypeStruct((2, 256), np.int32)
  grad = jax.grad(lambda p, t, s: structure.bind(p)(t, s).sum())
  return jax.jit(grad).lower(shapes, tokens, tokens).compile().memory_analysis().temp_size_in_bytes


def test_policies_trade_memory():
  """Each policy keeps less than the one before."""
  none, dots, minimal, block = (temporary('M*M*', policy) for policy in REMAT_POLICIES)
  assert none > 1.1 * dots and dots > 1.1 * block, (none, dots, block)
  assert dots >= minimal > block


@pytest.mark.parametrize('policy', ['minimal_offloaded', 'full', 'minimal_with_context'])
def test_maxtexts_names_change_no_gradient(policy):
  """One of them keeps products in the host's memory, which a CPU has too."""
  config = ModelConfig(pattern='*-', hidden_size=32, intermediate_size=64, vocab_size=40)
  params = unbind(create(config, 0))[1]
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 16)))
  segments = jnp.ones_like(tokens)

  def of(chosen):
    outlined = outline(dataclasses.replace(config, remat_policy=chosen))[0]

    def loss(params):
      return jnp.sum(jnp.cos(outlined.bind(params)(tokens, segments)))

    return jax.jit(jax.grad(loss))(params)

  recomputed = of(policy)
  for name, value in of('none').items():
    np.testing.assert_allclose(recomputed[name], value, atol=1e-5)


def test_policies_hold_where_nothing_repeats():
  """XLA writes a loop of one repeat out; recomputation must survive it."""
  assert temporary('*-M', 'none') > 1.1 * temporary('*-M', 'block')


def test_prefill_and_steps_are_the_written_out_ones():
  tokens = jnp.asarray(TOKENS[:, :7])
  valid = jnp.asarray(np.arange(7) >= np.array([[0], [3]]))

  @functools.partial(jax.jit, static_argnums=0)
  def decode(structure, params):
    model = structure.bind(params)
    logits, state = model.prefill(tokens, valid, 2)
    out = [logits]
    for i in range(2):
      logits, state = model.step(jnp.asarray(TOKENS[:, 7 + i]), state)
      out.append(logits)
    return jnp.stack(out)

  np.testing.assert_allclose(decode(*scanned()), decode(*written_out()), rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_an_optimizer_step_is_the_written_out_one(name):
  """Muon too: matrices are orthogonalized one by one, experts as well, and stacked vectors are not
  taken for matrices.
  """
  tx = transformation(Optimizer(name=name, weight_decay=0.1))
  params = {
    name: value
    for name, value in written_out()[1].items()
    if name.endswith(
      ('embedding', 'norm.scale', 'in_proj.kernel', 'q_proj.kernel', 'up_proj', '.D')
    )
  }
  grads = {name: RNG.standard_normal(value.shape, np.float32) for name, value in params.items()}
  update = jax.jit(make_update(tx, ema_decay=0.5))

  def after(params, grads):
    return update(TrainState.create(params, tx, 0.5), grads, np.float32(1e-2))

  expected, found = (
    after(params, grads),
    after(stack(params, CONFIG.pattern), stack(grads, CONFIG.pattern)),
  )
  for which in ('params', 'ema'):
    for name, value in unstack(getattr(found, which), CONFIG.pattern).items():
      np.testing.assert_allclose(
        value, getattr(expected, which)[name], rtol=0, atol=1e-6, err_msg=name
      )


def test_adapters_on_a_part_of_what_repeats_are_refused():
  model = abstract(CONFIG)
  lora.attach(model, rank=2, alpha=4.0, targets=r'layers\.2\..*q_proj', seed=0)
  with pytest.raises(
    ValueError, match=re.escape('layers.2 and the layers that repeat it have different adapters')
  ):
    Scanned(model)


def test_adapters_are_stacked_with_their_layers():
  model = abstract(CONFIG)
  lora.attach(model, rank=2, alpha=4.0, targets='attention', seed=0)
  params = unbind(model)[1]
  stacked = unbind(Scanned(model))[1]
  np.testing.assert_array_equal(
    stacked['segments.1.1.mixer.q_proj.lora_a'],
    stack(params, CONFIG.pattern)['segments.1.1.mixer.q_proj.lora_a'],
  )
