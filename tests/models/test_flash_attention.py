"""Attention by spans, as a GPU's kernel computes it, beside attention with all scores: packed rows,
windows, shared prompts, gradients. The kernel's stand-in is tokamax's reference, where that is
installed.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import kernel_stand_ins
import numpy as np
import pytest
from flax import nnx

from aevo_jax import layout
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.kernels import flash_attention
from aevo_jax.models.kernels.flash_attention import Heads
from aevo_jax.models.layers.attention import Attention
from aevo_jax.models.layers.shared_prefix import SharedPrefix

ROOT = layout.root_file('constitution.gin').parent
TARGETS = sorted(ROOT.glob('third_party/targets/.venv/lib/python3*/site-packages/tokamax'))
FIELDS = {'hidden_size': 32, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 8}
QWEN3 = {'family': 'qwen3', 'rope_theta': 1e4, 'qk_norm': True, 'mlp_activation': 'swiglu'}


def both(fields, run, monkeypatch):
  """Outputs and gradients of `run` without the kernel and with it."""
  for name, module in kernel_stand_ins.modules().items():
    monkeypatch.setitem(sys.modules, name, module)
  results = []
  for implementation in ('einsum', 'mosaic'):
    config = ModelConfig(**FIELDS, **fields, pattern='*-', attention_implementation=implementation)
    graphdef, state = nnx.split(Attention(config, rngs=nnx.Rngs(params=0)))

    def loss(state, x, graphdef=graphdef):
      y = run(nnx.merge(graphdef, state), x)
      return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

    x = jax.random.normal(jax.random.key(1), (2, 24, 32))
    results.append(jax.grad(loss, argnums=(0, 1), has_aux=True)(state, x))
  return results


def assert_equal(results):
  for einsum, kernel in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(einsum, kernel, atol=2e-5)


@pytest.mark.parametrize(
  'fields', [{}, {'sliding_window': 3}, QWEN3, QWEN3 | {'sliding_window': 7}]
)
def test_packed_rows(fields, monkeypatch):
  segments = jnp.asarray([[1] * 5 + [2] * 9 + [3] * 6 + [0] * 4, [1] * 23 + [2]])
  results = both(fields, lambda attention, x: attention(x, segments), monkeypatch)
  assert_equal(results)


@pytest.mark.parametrize('fields', [{}, QWEN3 | {'sliding_window': 5}])
def test_continuations_of_shared_prompts(fields, monkeypatch):
  """Two prompts of 8, padded on the left, with 4 continuations of 4, padded on the right."""
  prompts = [[0, 0, 0] + [1] * 5, [1] * 8]
  behind = [1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0]
  ids = jnp.asarray([prompt + behind for prompt in prompts])
  rows = SharedPrefix(ids, prompt=8, members=4)
  is_token = (ids > 0)[..., None]

  def run(attention, x):
    return jnp.where(is_token, attention.shared(x, rows), 0)  # nobody reads the others

  assert_equal(both(fields, run, monkeypatch))


def test_the_first_tokens_of_generation_are_read_with_the_kernel_too(monkeypatch):
  segments = jnp.asarray([[0] * 6 + [1] * 18, [1] * 24])

  def run(attention, x):
    y, cache = attention.prefill(x, segments, room=2)
    return jnp.concatenate([y.reshape(2, -1), cache.keys.reshape(2, -1)], axis=1)

  einsum, kernel = both({}, run, monkeypatch)
  np.testing.assert_allclose(einsum[1][1, : 24 * 32], kernel[1][1, : 24 * 32], atol=2e-5)
  np.testing.assert_array_equal(einsum[1][:, 24 * 32 :], kernel[1][:, 24 * 32 :])


WHOLE = {'head_dim': 128, 'length': 256, 'whole': True}


@pytest.mark.parametrize(
  ('platform', 'dtype', 'rows', 'chosen'),
  [
    ('gpu', 'bfloat16', {}, 'mosaic'),
    ('gpu', 'bfloat16', {'head_dim': 64, 'length': 24, 'whole': False}, 'mosaic'),
    ('gpu', 'float32', {}, 'einsum'),
    ('cpu', 'bfloat16', {}, 'einsum'),
    ('tpu', 'bfloat16', {}, 'splash'),
    ('tpu', 'float32', {}, 'splash'),
    ('tpu', 'bfloat16', {'head_dim': 64}, 'einsum'),
    ('tpu', 'bfloat16', {'length': 200}, 'einsum'),
    ('tpu', 'bfloat16', {'whole': False}, 'einsum'),
  ],
)
def test_the_platform_chooses(platform, dtype, rows, chosen):
  rows = WHOLE | rows
  assert flash_attention.chosen('auto', dtype, **rows, platform=platform) == chosen
  assert flash_attention.chosen('einsum', dtype, **rows, platform=platform) == 'einsum'


@pytest.mark.parametrize('window', [0, 200])
def test_a_tpus_kernel_interpreted_equals_all_scores_on_packed_rows(window):
  """Splash attention by Pallas' interpreter: 6 query heads on 2 key heads, three segments."""
  keys = jax.random.split(jax.random.key(0), 4)
  heads = Heads(
    jax.random.normal(keys[0], (2, 256, 6, 128)),
    jax.random.normal(keys[1], (2, 256, 2, 128)),
    jax.random.normal(keys[2], (2, 256, 2, 128)),
  )
  begin = jnp.asarray([[0] * 100 + [100] * 120 + [220] * 36, [0] * 255 + [255]])
  assert_equal(splash_and_einsum(heads, begin, window=window, behind=0))


@pytest.mark.parametrize('window', [0, 100])
def test_a_tpus_kernel_interpreted_equals_all_scores_on_continuations(window):
  keys = jax.random.split(jax.random.key(0), 4)
  heads = Heads(
    jax.random.normal(keys[0], (2, 128, 2, 128)),
    jax.random.normal(keys[1], (2, 256, 1, 128)),
    jax.random.normal(keys[2], (2, 256, 1, 128)),
  )
  begin = jnp.asarray([[30] * 128, [0] * 128])
  assert_equal(splash_and_einsum(heads, begin, window=window, behind=128))


def splash_and_einsum(heads, begin, *, window, behind):
  """Results and gradients of both."""
  own = jnp.arange(begin.shape[1])[None] + behind
  first = jnp.maximum(begin, own - window + 1) if window else begin
  mask = kernel_stand_ins.Mask(first[:, None], jnp.broadcast_to(own + 1, begin.shape)[:, None])

  def splash(heads):
    y = flash_attention.attend(heads, begin, window=window, behind=behind, implementation='splash')
    return y.reshape(heads.queries.shape)

  def einsum(heads):
    return kernel_stand_ins.attention(*heads, mask=mask)

  results = []
  for run in (splash, einsum):
    y, gradient = jax.vjp(run, heads)
    results.append((y, gradient(jnp.cos(jnp.arange(y.size).reshape(y.shape)))))
  return results


def test_rows_without_tiles_are_refused_by_a_tpus_kernel():
  x = jnp.ones((1, 24, 1, 128))
  with pytest.raises(NotImplementedError, match=r"multiples of 128.*bind 'einsum'"):
    flash_attention.attend(Heads(x, x, x), jnp.zeros((1, 24), jnp.int32), implementation='splash')


def test_without_tokamax_the_kernel_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokamax', None)
  config = ModelConfig(**FIELDS, pattern='*-', attention_implementation='mosaic')
  attention = Attention(config, rngs=nnx.Rngs(params=0))
  with pytest.raises(ImportError, match=r"install aevo-jax\[kernels\], or bind 'einsum'"):
    attention(jnp.zeros((1, 4, 32)), jnp.ones((1, 4), int))


@pytest.mark.skipif(not TARGETS, reason='make targets')
def test_the_stand_ins_are_tokamaxs_own_references():
  program = """
import jax, jax.numpy as jnp, numpy as np
from tokamax._src.ops.attention import api, base
import tokamax, kernel_stand_ins
q, k, v = (jax.random.normal(jax.random.key(i), (2, 16, n, 8)) for i, n in enumerate((4, 2, 2)))
first = jnp.asarray([[0] * 5 + [5] * 11, [0] * 16])
last = jnp.broadcast_to(jnp.arange(16), (2, 16))
def spans(mask):
  return mask(k_start=first[:, None], k_end=last[:, None] + 1)
ours = kernel_stand_ins.attention(q, k, v, mask=spans(kernel_stand_ins.Mask))
theirs = api.IMPLEMENTATIONS['xla'](q, k, v, mask=spans(base.Mask))
np.testing.assert_allclose(ours, theirs, atol=1e-5)
x, w, sizes = jnp.ones((9, 3)), jnp.ones((2, 3, 4)), jnp.array([4, 2])
ours = kernel_stand_ins.ragged_dot(x, w, group_sizes=sizes, implementation='mosaic')
theirs = tokamax.ragged_dot(x, w, group_sizes=sizes, implementation='xla')
np.testing.assert_allclose(ours[:6], theirs[:6], atol=1e-5)
print('equal')
"""
  paths = f'{ROOT / "tests"}:{TARGETS[0].parent}'
  done = subprocess.run(
    [sys.executable, '-c', f'import sys; sys.path += {paths.split(":")}\n{program}'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.stdout.strip() == 'equal', done.stderr
