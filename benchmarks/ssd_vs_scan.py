"""The chunked selective scan beside the plain recurrence, one step a token, on the same inputs.

It prints the ratio of times, and how far they differ.

  python benchmarks/ssd_vs_scan.py --out=benchmarks/results/ssd_vs_scan.json

Forward, and forward with gradient (what training does), of one Mamba-2 scan without projections, in
float32; the default is the mixer of Nemotron 3 Nano. The two alternate; the ratio is of medians,
with a bootstrap interval. --peer=naive makes each token's addition to the state before the loop.
The recurrence's gradient keeps a state for every token: 9 GB at the defaults.
"""

import json
import os
import pathlib
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from aevo_jax.models.layers.ssd import ScanInputs, ssd
from aevo_jax.runtime import tune_for_cpu

_LENGTH = flags.DEFINE_integer('length', 2048, 'Tokens.', lower_bound=1)
_CHUNK = flags.DEFINE_integer('chunk', 128, 'Chunk length.', lower_bound=1)
_HEADS = flags.DEFINE_integer('heads', 64, 'Heads, a multiple of the groups.', lower_bound=1)
_GROUPS = flags.DEFINE_integer('groups', 8, 'Groups of heads that share B and C.', lower_bound=1)
_HEAD_DIM = flags.DEFINE_integer('head_dim', 64, 'Width of a head.', lower_bound=1)
_STATE = flags.DEFINE_integer(
  'state', 128, 'Size of the state, of each number of a head.', lower_bound=1
)
_PAIRS = flags.DEFINE_integer('pairs', 11, 'Alternating pairs of runs.', lower_bound=3)
_PEER = flags.DEFINE_enum(
  'peer', 'recurrence', ['recurrence', 'naive'], 'What the chunked form is compared with.'
)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write.')


def recurrence(
  x_btnp: jax.Array, dt_btn: jax.Array, a_n: jax.Array, b_btgr: jax.Array, c_btgr: jax.Array
) -> jax.Array:
  """Computes the recurrence in a loop over tokens (2405.21060, equation 2).

  state_t = exp(dt_t a) state_{t-1} + dt_t B_t x_t^T, y_t = C_t state_t.
  """
  b, _, n, p = x_btnp.shape
  g, r = b_btgr.shape[2:]

  def heads(y):
    return jnp.repeat(y, n // g, axis=2)

  def advance(state, inputs):
    x, dt, b, c = inputs
    state = (
      jnp.exp(dt * a_n)[..., None, None] * state + (dt[..., None] * x)[..., None] * b[:, :, None]
    )
    return state, jnp.einsum('bnpr,bnr->bnp', state, c)

  over_time = tuple(jnp.moveaxis(y, 1, 0) for y in (x_btnp, dt_btn, heads(b_btgr), heads(c_btgr)))
  return jnp.moveaxis(jax.lax.scan(advance, jnp.zeros((b, n, p, r)), over_time)[1], 0, 1)


def naive(
  x_btnp: jax.Array, dt_btn: jax.Array, a_n: jax.Array, b_btgr: jax.Array, c_btgr: jax.Array
) -> jax.Array:
  """The same, as references are commonly written (mamba_ssm's selective_scan_ref).

  What each token adds to the state, [b, t, n, p, r], is made before the loop.
  """
  b, _, n, p = x_btnp.shape
  g, r = b_btgr.shape[2:]

  def heads(y):
    return jnp.repeat(y, n // g, axis=2)

  def advance(state, inputs):
    keep, add, c = inputs
    state = keep[..., None, None] * state + add
    return state, jnp.einsum('bnpr,bnr->bnp', state, c)

  added = (dt_btn[..., None] * x_btnp)[..., None] * heads(b_btgr)[:, :, :, None]
  over_time = tuple(jnp.moveaxis(y, 1, 0) for y in (jnp.exp(dt_btn * a_n), added, heads(c_btgr)))
  return jnp.moveaxis(jax.lax.scan(advance, jnp.zeros((b, n, p, r)), over_time)[1], 0, 1)


def main(argv: list[str]) -> None:
  del argv
  tune_for_cpu()  # as trials: memory that a call has freed is kept for the next
  t, rng = _LENGTH.value, np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  n, g, p, r = _HEADS.value, _GROUPS.value, _HEAD_DIM.value, _STATE.value
  inputs = (
    normal(1, t, n, p),
    jax.nn.softplus(normal(1, t, n) - 2),
    -jnp.exp(normal(n)),
    normal(1, t, g, r) / r**0.5,
    normal(1, t, g, r),
  )
  one = jnp.ones((1, t), jnp.int32)

  def chunked(x, dt, a, b, c):
    return ssd(ScanInputs(x, dt, b, c, one), a, _CHUNK.value)[0]

  results = {
    'peer': _PEER.value,
    'length': t,
    'chunk': _CHUNK.value,
    'shape': {'rows': 1, 'heads': n, 'head_dim': p, 'groups': g, 'state': r},
    'jax': jax.__version__,
    'machine': platform.machine(),
    'cores': os.cpu_count(),
  }
  for what, wrap in (
    ('forward', lambda f: f),
    ('gradient', lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2, 3, 4))),
  ):
    ours, plain = (
      jax.jit(wrap(chunked)),
      jax.jit(wrap({'recurrence': recurrence, 'naive': naive}[_PEER.value])),
    )
    results[what] = compare(ours, plain, inputs)
    print(what, json.dumps(results[what]), flush=True)
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(
      json.dumps(results | {'command': ' '.join(['python', *sys.argv])}, indent=1) + '\n'
    )


def compare(ours, plain, inputs) -> dict[str, float]:
  """Relative difference of results, then times of alternating calls."""
  difference = max(
    float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
    for a, b in zip(jax.tree.leaves(ours(*inputs)), jax.tree.leaves(plain(*inputs)), strict=True)
  )

  def seconds(function):
    start = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start

  times = np.array([(seconds(ours), seconds(plain)) for _ in range(_PAIRS.value)])
  draws = np.random.default_rng(0).integers(0, len(times), (10_000, len(times)))
  ratios = np.median(times[draws, 1], axis=1) / np.median(times[draws, 0], axis=1)
  low, high = np.quantile(ratios, [0.025, 0.975])
  return {
    'relative_difference': difference,
    'chunked_ms': 1e3 * float(np.median(times[:, 0])),
    'peer_ms': 1e3 * float(np.median(times[:, 1])),
    'ratio': float(np.median(times[:, 1]) / np.median(times[:, 0])),
    'ratio_low': float(low),
    'ratio_high': float(high),
  }


if __name__ == '__main__':
  app.run(main)
