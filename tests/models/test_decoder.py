"""Decode equals full forward, packed equals separate, and every parameter is named for sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.models import lora
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import logical_axes, unbind
from aevo_jax.training.losses.sft import Loss, sft_loss
from aevo_jax.training.tokens.token_logprobs import per_token
from aevo_jax.training.tokens.token_stats import of_logits
from aevo_jax.training.train_step import normalised

LENGTH, NEW, ROOM = 11, 8, 10
QWEN3 = {
  'family': 'qwen3',
  'rope_theta': 100.0,
  'qk_norm': True,
  'mlp_activation': 'swiglu',
  'router': 'softmax',
  'moe_shared_expert_intermediate_size': 0,
}
PROMPTS = (
  1,
  2,
  7,
  11,
  # real tokens of each left-padded row; chunks are 4 long, so prompts and decoding end inside and
  # across chunks
)


def config(pattern='M-*-', **fields):
  return ModelConfig(
    **{
      'vocab_size': 13,
      'hidden_size': 16,
      'pattern': pattern,
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'head_dim': 4,
      'intermediate_size': 24,
      'mamba_num_heads': 4,
      'mamba_head_dim': 6,
      'n_groups': 2,
      'ssm_state_size': 8,
      'chunk_size': 4,
    }
    | fields
  )


@functools.cache
def model(pattern='M-*-', **fields):
  """A decoder and its jitted forward."""
  structure, params = unbind(create(config(pattern, **fields), seed=0))
  return (
    structure,
    params,
    jax.jit(lambda params, tokens, segments: structure.bind(params)(tokens, segments)),
  )


def decode(pattern, tokens, **fields):
  """Logits [b, NEW + 1, v] of a prefill on left-padded prompts and NEW steps of known tokens."""
  structure, params, _ = model(pattern, **fields)
  left = np.zeros((len(PROMPTS), LENGTH), np.int32)
  for row, prompt in enumerate(PROMPTS):
    left[row, LENGTH - prompt :] = tokens[row, :prompt]
  logits, state = jax.jit(lambda p, t, v: structure.bind(p).prefill(t, v, ROOM))(
    params, left, np.arange(LENGTH) >= LENGTH - np.array(PROMPTS)[:, None]
  )
  step, out = jax.jit(lambda p, t, s: structure.bind(p).step(t, s)), [logits]
  for i in range(NEW):
    logits, state = step(
      params, jnp.asarray([tokens[row, prompt + i] for row, prompt in enumerate(PROMPTS)]), state
    )
    out.append(logits)
  return np.stack(out, axis=1)


def full_forward(pattern, tokens, **fields):
  """The same places' logits from whole rows, each starting at place 0, without any cache."""
  _, params, forward = model(pattern, **fields)
  logits = np.asarray(forward(params, tokens, np.ones_like(tokens)))
  return np.stack([logits[row, prompt - 1 : prompt + NEW] for row, prompt in enumerate(PROMPTS)])


@pytest.mark.parametrize(
  ('pattern', 'fields'),
  [
    ('M', {}),
    ('*', {}),
    ('-', {}),
    ('E', {}),
    ('*-M-', {}),
    ('M-*-M-*-', {}),
    ('ME*E', {'moe_latent_size': 6, 'n_group': 4, 'topk_group': 2}),
    ('M*', {'sliding_window': 3, 'time_step_low': 0.05, 'time_step_high': 0.06}),
    ('M*-E', {'attention_bias': True, 'mlp_bias': True, 'use_bias': True, 'use_conv_bias': False}),
    ('*-*E', QWEN3),
    ('*-*-', QWEN3 | {'sliding_window': 3, 'attention_bias': True, 'tie_word_embeddings': True}),
  ],
)
def test_decode_is_the_full_forward(pattern, fields):
  tokens = np.random.default_rng(0).integers(0, 13, (len(PROMPTS), LENGTH + NEW)).astype(np.int32)
  np.testing.assert_allclose(
    decode(pattern, tokens, **fields), full_forward(pattern, tokens, **fields), rtol=0, atol=1e-5
  )


def test_a_sliding_window_sees_its_own_tokens_only():
  # Two attention blocks with a window of 3: a token reaches the 2 places after it, and through the
  # second block 4.
  _, params, forward = model('**', sliding_window=3)
  tokens = np.random.default_rng(1).integers(0, 13, (1, 12)).astype(np.int32)
  changed = tokens.copy()
  changed[0, 3] = (tokens[0, 3] + 1) % 13
  moved = np.abs(
    np.asarray(forward(params, tokens, np.ones_like(tokens)))
    - np.asarray(forward(params, changed, np.ones_like(tokens)))
  ).max(axis=-1)[0]
  assert (moved[3:8] > 1e-5).all() and not moved[:3].any() and not moved[8:].any()


def test_dt_stays_within_its_limits():
  # A model whose dt is cut to (almost) one value is one whose dt_bias does not matter.
  _, params, forward = model('M', time_step_low=0.05, time_step_high=0.050001)
  _, _, free = model('M')
  tokens = np.arange(12, dtype=np.int32)[None]
  segments = np.ones_like(tokens)
  moved = {
    name: value + 1.0 if name.endswith('dt_bias') else value for name, value in params.items()
  }
  np.testing.assert_allclose(
    forward(params, tokens, segments), forward(moved, tokens, segments), rtol=0, atol=1e-5
  )
  assert (
    np.abs(
      np.asarray(free(params, tokens, segments)) - np.asarray(free(moved, tokens, segments))
    ).max()
    > 1e-3
  )


def test_decode_in_bfloat16_is_the_full_forward_as_far_as_bfloat16_goes():
  tokens = np.random.default_rng(0).integers(0, 13, (len(PROMPTS), LENGTH + NEW)).astype(np.int32)
  exact = full_forward('M*', tokens)
  decoded, full = (
    decode('M*', tokens, compute_dtype='bfloat16'),
    full_forward('M*', tokens, compute_dtype='bfloat16'),
  )
  assert decoded.dtype == np.float32
  # bfloat16 keeps 8 bits, so sums over values of order 1 differ by some hundredths.
  assert (
    np.abs(decoded - full).mean() < 0.03 * exact.std()
    and np.abs(decoded - exact).mean() < 0.03 * exact.std()
  )


def test_logits_depend_on_the_past_only():
  _, params, forward = model()
  tokens = np.random.default_rng(1).integers(0, 13, (1, 12)).astype(np.int32)
  changed = tokens.copy()
  changed[0, 7] = (tokens[0, 7] + 1) % 13
  before, after = (np.asarray(forward(params, t, np.ones_like(t))) for t in (tokens, changed))
  np.testing.assert_array_equal(before[:, :7], after[:, :7])
  assert (np.abs(before[:, 7:] - after[:, 7:]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize(('pattern', 'fields'), [('M-*-', {}), ('*-*E', QWEN3)])
def test_packed_rows_are_separate_sequences(pattern, fields):
  _, params, forward = model(pattern, **fields)
  rng, lengths = np.random.default_rng(2), (5, 9, 5, 5)  # only the first begins where a chunk does
  sequences = [rng.integers(0, 13, n).astype(np.int32) for n in lengths]
  weights = [rng.uniform(0.1, 2, n).astype(np.float32) for n in lengths]
  total = sum(lengths) + 3
  packed = {
    'tokens': np.zeros((1, total), np.int32),
    'weights': np.zeros((1, total), np.float32),
    'segment_ids': np.zeros((1, total), np.int32),
  }
  starts = np.cumsum((0, *lengths))
  for i, (sequence, weight) in enumerate(zip(sequences, weights, strict=True)):
    here = slice(starts[i], starts[i + 1])
    packed['tokens'][0, here], packed['weights'][0, here], packed['segment_ids'][0, here] = (
      sequence,
      weight,
      i + 1,
    )
  packed_logits = np.asarray(forward(params, packed['tokens'], packed['segment_ids']))
  asked = normalised(packed)
  packed_loss = sft_loss(
    per_token(of_logits, jnp.asarray(packed_logits), asked['tokens'], asked['weights']),
    asked,
    Loss(),
  )[0]

  # Each sequence alone, unpadded: no segment can reach it.
  loss = count = 0.0
  for i, (sequence, weight) in enumerate(zip(sequences, weights, strict=True)):
    logits = np.asarray(forward(params, sequence[None], np.ones((1, len(sequence)), np.int32)))
    np.testing.assert_allclose(
      packed_logits[:, starts[i] : starts[i + 1]], logits, rtol=0, atol=1e-5
    )
    logits64 = logits[0, :-1].astype(np.float64)
    log_probs = logits64 - np.log(np.exp(logits64).sum(-1, keepdims=True))
    loss -= (weight[1:] * log_probs[np.arange(len(sequence) - 1), sequence[1:]]).sum()
    count += weight[1:].sum()
  np.testing.assert_allclose(packed_loss, loss / count, rtol=0, atol=1e-5)


def test_every_parameter_names_its_axes():
  decoder = create(config('M-*-E'), seed=0)
  lora.attach(decoder, rank=2, alpha=4.0, targets='all', seed=0)
  _, params = unbind(decoder)
  axes = logical_axes(decoder)
  assert axes.keys() == params.keys()
  assert {name: len(a) for name, a in axes.items()} == {name: p.ndim for name, p in params.items()}
  assert axes['layers.4.mixer.experts.up_proj'] == ('experts', 'embed', 'mlp')
  assert axes['embedding'] == ('vocab', 'embed') and axes['layers.2.mixer.k_proj.kernel'] == (
    'embed',
    'kv_heads',
  )
  assert axes['layers.0.mixer.out_proj.lora_a'] == ('mamba_inner', 'lora_rank') and axes[
    'layers.1.mixer.up_proj.lora_b'
  ] == ('lora_rank', 'mlp')


def test_structures_of_one_configuration_are_equal():
  """So that one compiled program serves every trial."""
  (first, params), (second, others) = (
    unbind(create(config(), seed=0)),
    unbind(create(config(), seed=1)),
  )
  assert first == second and hash(first) == hash(second)
  assert any((params[name] != others[name]).any() for name in params)
  assert unbind(create(config('M-M-'), seed=0))[0] != first


def test_bind_uses_the_arrays_it_is_given():
  structure, params, _ = model()
  _, again = unbind(structure.bind({name: value + 1 for name, value in params.items()}))
  assert again.keys() == params.keys()
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], value + 1)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'time_step_low': 0.2, 'time_step_high': 0.1}, r'time_step_low.*0\.2 and 0\.1'),
    ({'n_routed_experts': 6, 'n_group': 4}, r'n_routed_experts \(6\).*n_group \(4\)'),
    (
      {'n_routed_experts': 8, 'n_group': 4, 'num_experts_per_tok': 3},
      r'num_experts_per_tok \(3\).*2 experts',
    ),
    ({'moe_implementation': 'dense'}, r"moe_implementation.*'dense'"),
    ({'pattern': 'M-x-'}, r"model\.pattern 'M-x-'.*'x'"),
    ({'pattern': ''}, r'model\.pattern.*nothing'),
    ({'num_attention_heads': 3}, r'model\.num_attention_heads \(3\).*num_key_value_heads \(2\)'),
    ({'mamba_num_heads': 3}, r'model\.mamba_num_heads \(3\).*n_groups \(2\)'),
    ({'compute_dtype': 'float16'}, r"model\.compute_dtype.*'float16'"),
    ({'chunk_size': 0}, r'model\.chunk_size must be >= 1, got 0'),
  ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=message):
    config(**fields)
