"""The chunked scan, the convolution and the whole block against a token-by-token recurrence in
numpy float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.layers import ssd as ssd_lib
from aevo_jax.models.layers.causal_conv import causal_conv
from aevo_jax.models.layers.mamba2 import Mamba2
from aevo_jax.models.layers.ssd import ScanInputs, ssd


def scan(x, dt, a, b, c, segments, chunk):
  """`ssd` with its arrays one by one."""
  return ssd(ScanInputs(x, dt, b, c, segments), a, chunk)


scan_jit = jax.jit(scan, static_argnames='chunk')


def recurrence(x, dt, a, b, c, segments):
  """state_t = exp(dt_t a) state_{t-1} + dt_t x_t B_t^T from zero in each segment; y_t = state_t
  C_t. All float64, one token at a time.
  """
  rows, length, heads, width = x.shape
  groups, size = b.shape[2:]
  y, last = np.zeros(x.shape), np.zeros((rows, heads, width, size))
  for row in range(rows):
    for head in range(heads):
      group = head * groups // heads
      state = np.zeros((width, size))
      for t in range(length):
        if t and segments[row, t] != segments[row, t - 1]:
          state = np.zeros((width, size))
        state = np.exp(dt[row, t, head] * a[head]) * state + dt[row, t, head] * np.outer(
          x[row, t, head], b[row, t, group]
        )
        y[row, t, head] = state @ c[row, t, group]
      last[row, head] = state
  return y, last


def convolution(x, kernel, bias, segments):
  """y[t] = bias + sum_j kernel[j] x[t - (K - 1) + j] over places of t's own segment."""
  rows, length, _ = x.shape
  width = len(kernel)
  y = np.zeros(x.shape) + bias
  for row in range(rows):
    for t in range(length):
      for j in range(width):
        source = t - (width - 1) + j
        if source >= 0 and (segments[row, source : t + 1] == segments[row, t]).all():
          y[row, t] += kernel[j] * x[row, source]
  return y


def segment_rows(rng, rows, length):
  """One plain row; the others cut at random places, ids counting up, the last part possibly padding
  (0).
  """
  segments = np.ones((rows, length), np.int32)
  for row in range(1, rows):
    segments[row] = 1 + np.cumsum(rng.random(length) < 0.3)
    if row == rows - 1 and length > 2:
      segments[row, -2:] = 0
  return segments


def inputs(rng, rows, length, heads, width, groups, size):
  return (
    rng.normal(size=(rows, length, heads, width)),
    rng.uniform(0.01, 0.7, (rows, length, heads)),
    -rng.uniform(0.2, 4, heads),
    rng.normal(size=(rows, length, groups, size)),
    rng.normal(size=(rows, length, groups, size)),
  )


def as_float32(arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


@pytest.mark.parametrize(
  'length, chunk, groups', [(1, 4, 1), (8, 4, 1), (13, 5, 4), (7, 1, 2), (9, 64, 2), (17, 3, 2)]
)
def test_ssd_is_the_recurrence(length, chunk, groups):
  rng = np.random.default_rng(length * 100 + chunk)
  arrays, segments = inputs(rng, 4, length, 4, 3, groups, 5), segment_rows(rng, 4, length)
  expected_y, expected_state = recurrence(*arrays, segments)
  y, state = scan_jit(*as_float32(arrays), jnp.asarray(segments), chunk=chunk)
  np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(state, expected_state, rtol=1e-5, atol=1e-5)


def test_ssd_left_padding_leaves_no_trace():
  rng = np.random.default_rng(0)
  arrays = inputs(rng, 1, 11, 4, 3, 2, 5)
  segments = np.array([[0] * 6 + [1] * 5], np.int32)
  expected_y, expected_state = recurrence(
    *(a if a.ndim == 1 else a[:, 6:] for a in arrays), segments[:, 6:]
  )
  y, state = scan_jit(*as_float32(arrays), jnp.asarray(segments), chunk=4)
  np.testing.assert_allclose(y[:, 6:], expected_y, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(state, expected_state, rtol=1e-5, atol=1e-5)


def test_ssd_gradient_agrees_with_finite_differences_of_the_recurrence():
  rng = np.random.default_rng(1)
  arrays, segments = inputs(rng, 2, 7, 2, 3, 1, 4), segment_rows(rng, 2, 7)
  weights = rng.normal(size=arrays[0].shape)

  def value(*arrays):
    return jnp.sum(scan(*arrays, jnp.asarray(segments), 3)[0] * weights.astype(np.float32))

  gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))(*as_float32(arrays))
  for i, gradient in enumerate(gradients):
    direction, epsilon = rng.normal(size=arrays[i].shape), 1e-6

    sums = []
    for sign in (1, -1):
      moved = list(arrays)
      moved[i] = arrays[i] + sign * epsilon * direction
      sums.append(np.sum(recurrence(*moved, segments)[0] * weights))
    expected = (sums[0] - sums[1]) / (2 * epsilon)
    np.testing.assert_allclose(
      np.sum(np.asarray(gradient, np.float64) * direction), expected, rtol=1e-3
    )


def test_ssd_gradient_is_finite_where_the_decay_underflows():
  rng = np.random.default_rng(2)
  x, dt, a, b, c = as_float32(inputs(rng, 2, 9, 2, 3, 1, 4))
  segments = jnp.asarray(segment_rows(rng, 2, 9))

  def value(x, dt, a, b, c):
    return jnp.sum(scan(x, dt, a, b, c, segments, 4)[0] ** 2)

  for gradient in jax.jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))(x, 100 * dt, 50 * a, b, c):
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('length, width', [(9, 4), (9, 1), (4, 4), (2, 4), (1, 4)])
def test_causal_conv_is_a_sum_over_the_past_of_the_segment(length, width):
  rng = np.random.default_rng(length * 10 + width)
  x, kernel, bias, segments = (
    rng.normal(size=(3, length, 5)),
    rng.normal(size=(width, 5)),
    rng.normal(size=5),
    segment_rows(rng, 3, length),
  )
  y = causal_conv(*as_float32((x, kernel, bias)), jnp.asarray(segments))
  np.testing.assert_allclose(y, convolution(x, kernel, bias, segments), rtol=1e-5, atol=1e-5)


CONFIG = ModelConfig(
  hidden_size=12,
  pattern='M',
  num_attention_heads=2,
  head_dim=4,
  mamba_num_heads=4,
  mamba_head_dim=3,
  n_groups=2,
  ssm_state_size=5,
  chunk_size=4,
  vocab_size=11,
)


prefill = nnx.jit(lambda mixer, *arguments: mixer.prefill(*arguments))
step = nnx.jit(lambda mixer, *arguments: mixer.step(*arguments))


def block(config=CONFIG):
  """A block none of whose parameters sits at a value (0, 1) that would hide a mistake."""
  mixer, rng = Mamba2(config, rngs=nnx.Rngs(params=0)), np.random.default_rng(3)
  for variable, low, high in (
    (mixer.D, 0.5, 2),
    (mixer.conv_bias, -1, 1),
    (mixer.norm.scale, 0.5, 2),
    (mixer.dt_bias, -1, 1),
    (mixer.A_log, -1, 1),
  ):
    variable[...] = jnp.asarray(rng.uniform(low, high, variable[...].shape), jnp.float32)
  return mixer


def reference_block(mixer, x, segments):
  """The block from the paper's equations, in float64."""
  c = mixer.config

  def array(variable):
    return np.asarray(variable[...], np.float64)

  def silu(v):
    return v / (1 + np.exp(-v))

  rows, length, _ = x.shape
  inner, maps = c.mamba_num_heads * c.mamba_head_dim, c.n_groups * c.ssm_state_size
  projected = x @ array(mixer.in_proj.kernel)
  gate, channels, dt = (
    projected[..., :inner],
    projected[..., inner : 2 * inner + 2 * maps],
    projected[..., 2 * inner + 2 * maps :],
  )
  mixed = silu(convolution(channels, array(mixer.conv_kernel), array(mixer.conv_bias), segments))
  heads = mixed[..., :inner].reshape(rows, length, c.mamba_num_heads, c.mamba_head_dim)
  b = mixed[..., inner : inner + maps].reshape(rows, length, c.n_groups, c.ssm_state_size)
  out = mixed[..., inner + maps :].reshape(rows, length, c.n_groups, c.ssm_state_size)
  y, _ = recurrence(
    heads,
    np.log1p(np.exp(dt + array(mixer.dt_bias))),
    -np.exp(array(mixer.A_log)),
    b,
    out,
    segments,
  )
  y = (y + array(mixer.D)[:, None] * heads).reshape(rows, length, inner) * silu(gate)
  grouped = y.reshape(rows, length, c.n_groups, inner // c.n_groups)
  normed = grouped / np.sqrt((grouped**2).mean(-1, keepdims=True) + c.layer_norm_epsilon)
  return (normed.reshape(y.shape) * array(mixer.norm.scale)) @ array(mixer.out_proj.kernel)


def test_block_is_the_papers_equations():
  rng, mixer = np.random.default_rng(4), block()
  x, segments = rng.normal(size=(3, 10, 12)), segment_rows(np.random.default_rng(5), 3, 10)
  y, _ = prefill(mixer, jnp.asarray(x, jnp.float32), jnp.asarray(segments))
  np.testing.assert_allclose(y, reference_block(mixer, x, segments), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('prompt', [1, 2, 6])
def test_block_steps_continue_its_prefill(prompt):
  """Also from prompts shorter than the convolution, whose cache then begins with zeros."""
  rng, mixer = np.random.default_rng(6), block()
  x = rng.normal(size=(2, 9, 12))
  expected = reference_block(mixer, x, np.ones((2, 9), np.int32))
  x = jnp.asarray(x, jnp.float32)
  y, cache = prefill(mixer, x[:, :prompt], jnp.ones((2, prompt), jnp.int32))
  np.testing.assert_allclose(y, expected[:, :prompt], rtol=1e-5, atol=1e-5)
  for t in range(prompt, 9):
    y, cache = step(mixer, x[:, t], cache)
    np.testing.assert_allclose(y, expected[:, t], rtol=1e-5, atol=1e-5)


def test_block_without_a_look_back():
  """A convolution of width 1 needs no cache."""
  rng, mixer = np.random.default_rng(7), block(ModelConfig(**{**vars(CONFIG), 'conv_kernel': 1}))
  x = rng.normal(size=(2, 5, 12))
  expected = reference_block(mixer, x, np.ones((2, 5), np.int32))
  y, cache = prefill(mixer, jnp.asarray(x[:, :4], jnp.float32), jnp.ones((2, 4), jnp.int32))
  np.testing.assert_allclose(y, expected[:, :4], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    step(mixer, jnp.asarray(x[:, 4], jnp.float32), cache)[0], expected[:, 4], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('prompt', [1, 6])
def test_bfloat16_stays_bfloat16_in_prefill_and_step(prompt):
  mixer = block()
  x = jnp.ones((2, prompt, 12), jnp.bfloat16)
  y, cache = jax.eval_shape(mixer.prefill, x, jnp.ones((2, prompt), jnp.int32))
  after, stepped = jax.eval_shape(mixer.step, x[:, 0], cache)
  assert y.dtype == after.dtype == jnp.bfloat16
  assert jax.tree.map(lambda a: (a.shape, a.dtype), cache) == jax.tree.map(
    lambda a: (a.shape, a.dtype), stepped
  )


@pytest.mark.parametrize('shards', [2, 3, 6])
def test_states_between_devices_are_those_of_one_scan(shards):
  """A row's chunks on several devices: the state before every chunk and its gradient, with segments
  that begin anew.
  """
  rng = np.random.default_rng(0)
  first = jnp.asarray(rng.normal(size=(2, 1, 3, 4, 5)), jnp.float32)
  keeps = jnp.asarray(
    rng.uniform(size=(2, 6, 1, 3)) * (rng.random((2, 6, 1, 3)) < 0.8), jnp.float32
  )
  added = jnp.asarray(rng.normal(size=(2, 6, 1, 3, 4, 5)), jnp.float32)

  def loss(run):
    def of(first, keeps, added):
      entering, last = run(first, keeps, added)
      weights = jnp.cos(jnp.arange(entering.size)).reshape(entering.shape)
      return jnp.sum(entering * weights) + jnp.sum(last**2), (entering, last)

    return jax.grad(of, argnums=(0, 1, 2), has_aux=True)(first, keeps, added)

  one = loss(ssd_lib._between_chunks)
  several = loss(lambda *arrays: ssd_lib._between_shards(*arrays, shards))
  for expected, found in zip(*map(jax.tree.leaves, (one, several)), strict=True):
    np.testing.assert_allclose(expected, found, atol=2e-5)
