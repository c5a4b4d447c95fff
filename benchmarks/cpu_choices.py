"""What the model's and the sampler's concessions to XLA's CPU compiler buy.

Each beside the plain form in the same run.

  taskset -c 0 .venv/bin/python benchmarks/cpu_choices.py

Prints ratios: tokens a second of a training step's gradient with `layers.matmul` and the barriers
around scan and attention against the plain products without barriers, and of greedy decoding of dev
prompts in batches of 32 sorted by length and tokens against batches of 128 sorted by length, and
what the two settings of `runtime.tune_for_cpu` do to a gradient: the seconds in which it compiles
at LLVM's first level beside the default one, and the time of a run at that level with malloc's
defaults beside the same with memory kept.
"""

import functools
import os
import sys

from aevo_jax.runtime import tune_for_cpu

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
  os.environ[name] = '1'
if sys.argv[1:] in ([], ['tuned']):
  tune_for_cpu()  # before JAX is imported

import contextlib
import json
import pathlib
import subprocess
import time
from collections.abc import Callable
from unittest import mock

import jax

from aevo_jax import layout
from aevo_jax.data import pipeline
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.data.chat_template import MICRO
from aevo_jax.generation.sampler import Sampler
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.layers import linear
from aevo_jax.models.params import outline
from aevo_jax.tasks.mixture import Mixture, sample_set
from aevo_jax.training.losses.sft import Loss
from aevo_jax.training.train_step import make_loss, normalised

REPEATS = 9


def best(call: Callable[[], object]) -> float:
  """The shortest of several timings, in seconds; the first call compiles."""
  jax.block_until_ready(call())
  times = []
  for _ in range(REPEATS):
    started = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - started)
  return min(times)


def plain_form() -> contextlib.ExitStack:
  """While entered, models trace without our product and without barriers."""
  stack = contextlib.ExitStack()
  stack.enter_context(mock.patch.object(linear, 'matmul', lambda x, kernel: x @ kernel))
  stack.enter_context(mock.patch.object(jax.lax, 'optimization_barrier', lambda values: values))
  return stack


def read_base(base: pathlib.Path):
  config = checkpoint.read_config(base)
  return outline(config)[0], weights_lib.load(base / checkpoint.WEIGHTS, config)


def gradient_seconds(base: pathlib.Path, tokenizer, rows: int) -> float:
  structure, params = read_base(base)
  batch = next(
    pipeline.batches(pipeline.SftSource(0, Mixture(), tokenizer), rows=rows, row_length=128)
  )
  loss = make_loss(structure, Loss())
  gradient = jax.jit(jax.grad(lambda p: loss(p, {}, normalised(batch))[0]))
  return best(lambda: gradient(params))


def compiled_gradient(base: pathlib.Path, tokenizer) -> dict[str, float]:
  """Seconds to compile the gradient of 8 x 128 tokens, and to run it once."""
  structure, params = read_base(base)
  batch = next(
    pipeline.batches(pipeline.SftSource(0, Mixture(), tokenizer), rows=8, row_length=128)
  )
  loss = make_loss(structure, Loss())
  lowered = jax.jit(jax.value_and_grad(lambda p: loss(p, {}, normalised(batch))[0])).lower(params)
  started = time.perf_counter()
  gradient = lowered.compile()
  compile_ = time.perf_counter() - started
  return {
    'compile': compile_,
    'run': best(lambda: gradient(params)),
    'loss': float(gradient(params)[0]),
  }


def in_own_process(how: str) -> dict[str, float]:
  """`compiled_gradient` in a process of its own.

  Since XLA reads its flags and malloc its settings once.
  """
  flags = '--xla_backend_optimization_level=1' if how == 'level 1' else ''
  process = subprocess.run(
    [sys.executable, __file__, how],
    env=os.environ | {'XLA_FLAGS': flags},
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
  base = layout.root_file('substrate') / 'base'
  tokenizer = tokenizers.load(str(base))
  if sys.argv[1:]:  # a child's part
    print(json.dumps(compiled_gradient(base, tokenizer)))
    return
  default, quick, tuned = (in_own_process(how) for how in ('default', 'level 1', 'tuned'))
  print(
    f'a gradient of 8 x 128 tokens compiles in {default["compile"]:.1f} s, at level 1 in '
    f'{quick["compile"]:.1f} s, ratio {default["compile"] / quick["compile"]:.2f}; '
    f'it then runs at {default["run"] / quick["run"]:.2f} of the speed, loss '
    f'{default["loss"]:.9g} and {quick["loss"]:.9g}'
  )
  print(
    f'at level 1 it runs in {quick["run"] * 1e3:.0f} ms, with memory kept in '
    f'{tuned["run"] * 1e3:.0f} ms, ratio {quick["run"] / tuned["run"]:.2f}, loss '
    f'{tuned["loss"]:.9g}'
  )
  for rows in (4, 16):
    ours = gradient_seconds(base, tokenizer, rows)
    with plain_form():
      plain = gradient_seconds(base, tokenizer, rows)
    print(
      f'gradient of {rows} x 128 tokens: {rows * 128 / ours:,.0f} tok/s, plain form '
      f'{rows * 128 / plain:,.0f} tok/s, ratio {plain / ours:.2f}'
    )

  structure, params = read_base(base)
  prompts = [
    tokenizer.encode(MICRO.prompt(item.question), add_special_tokens=False).ids
    for item in sample_set(0, 'dev', 512, Mixture())
  ]
  prompts.sort(key=len)
  seconds = {}
  for batch in (32, 128):
    sampler = Sampler(
      structure,
      eos_id=tokenizer.token_to_id(tokenizers.EOS),
      pad_id=tokenizer.token_to_id(tokenizers.PAD),
      batch=batch,
    )
    seconds[batch] = best(functools.partial(sampler, params, prompts))
  print(
    f'greedy answers of {len(prompts)} dev prompts: {len(prompts) / seconds[32]:,.0f} '
    'items/s in batches of 32, '
    f'{len(prompts) / seconds[128]:,.0f} in batches of 128, ratio {seconds[128] / seconds[32]:.2f}'
  )


if __name__ == '__main__':
  main()
