"""Parts f to h: decoding, a step of GRPO by phase, and the bf16 gap of sampler and trainer."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from h200_parts import models
from h200_parts.timing import attempt, peak_gib

from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import Completion, Request, Sampling
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, Structure
from aevo_jax.training.losses.policy_gradient import aggregation_weights
from aevo_jax.training.model_setup import adapt_model
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer
from aevo_jax.training.rl import gates, prefix, update
from aevo_jax.training.train_state import TrainState

MODEL = 'qwen3_1p7b'
# prompts, completions of each, tokens of a prompt and of a completion
DECODE = {'h200': (32, 16, 256, 256), 'toy': (2, 4, 16, 8)}
GRPO = {'h200': (64, 16, 256, 256), 'toy': (2, 4, 16, 8)}
GAP = {'h200': (8, 8, 128, 64), 'toy': (2, 4, 16, 8)}


def decode(size: str) -> Iterator[dict]:
  """Tokens per second of the engine, with and without prompts shared by a group."""
  config = models.preset(MODEL, size)
  structure, params = _model(config)
  prompts, group, length, new = DECODE[size]
  for requests, case in (
    (_requests(config, prompts, length, group), f'{prompts} prompts x {group}'),
    (_requests(config, prompts * group, length, 1), f'{prompts * group} prompts'),
  ):
    engine = _engine(structure, params, len(requests), length, new)
    yield from attempt(
      f'{case}, {length} + {new} tokens', lambda e=engine, r=requests: _decoded(e, r, new)
    )


def _model(config: ModelConfig) -> tuple[Structure, Params]:
  recipe = models.recipe(1, 2)
  model = adapt_model(config, recipe.adaptation, recipe.lora, None, 0)
  return model.structure, models.weights(model.params)


def _engine(structure: Structure, params: Params, slots: int, bucket: int, new: int) -> Engine:
  made = Engine(structure, eos_ids=[], pad_id=0, slots=slots, dispatch=min(32, new), bucket=bucket)
  made.update(params, 0)
  return made


def _requests(config: ModelConfig, prompts: int, length: int, group: int) -> list[Request]:
  tokens = np.random.default_rng(0).integers(3, config.vocab_size, (prompts, length))
  requests = []
  for prompt in tokens.tolist():
    for _ in range(group):
      requests.append(Request(tuple(prompt), len(requests)))
  return requests


def _decoded(engine: Engine, requests: list[Request], new: int) -> dict:
  sampling = Sampling(max_new_tokens=new)
  engine.generate(requests, sampling)
  started = time.perf_counter()
  engine.generate(requests, sampling)
  elapsed = time.perf_counter() - started
  timings = engine.timings
  return {
    'tokens_per_second': timings.new_tokens / elapsed,
    'decode_tokens_per_second': timings.new_tokens / timings.decode_s,
    'prefill_s': timings.prefill_s,
    'decode_s': timings.decode_s,
    'peak_gib': peak_gib(),
  }


def grpo(size: str) -> Iterator[dict]:
  """Seconds of generation, update and everything else of a step, and of handing weights over."""
  yield from attempt('a step', lambda: _grpo(size))


def _grpo(size: str) -> dict:
  config = models.preset(MODEL, size)
  structure, params = _model(config)
  prompts, group, length, new = GRPO[size]
  rule = transformation(Optimizer(learning_rate=1e-6))
  settings = update.StepConfig(
    microbatches=prompts, group_size=group, logits_chunk=min(256, length)
  )
  step = jax.jit(
    update.make_step(update.make_loss(structure, settings), rule, settings), donate_argnums=0
  )
  state = jax.jit(lambda p: TrainState.create(p, rule, 0.0), donate_argnums=0)(params)
  engine = _engine(structure, state.params, prompts * group, length, new)
  requests = _requests(config, prompts, length, group)
  seconds = {}
  for number in range(2):  # the second is counted: the first compiles
    seconds = {}
    started = time.perf_counter()
    engine.update(state.params, number)
    seconds['sync_s'] = time.perf_counter() - started
    drawn = engine.generate(requests, Sampling(max_new_tokens=new))
    generated = time.perf_counter()
    batch = _batch(requests, drawn, length, new, group, settings)
    engine.update({}, -1)  # the step takes the weights' memory
    made = time.perf_counter()
    state, figures = step(state, {}, prefix.fold(batch, group), np.float32(1e-6))
    np.asarray(figures.diagnostics.token_stats.logprobs)
    ended = time.perf_counter()
    seconds |= {
      'generate_s': generated - started,
      'host_s': made - generated,
      'update_s': ended - made,
      'outside_share': (made - generated + seconds['sync_s']) / (ended - started),
    }
  return seconds | {'peak_gib': peak_gib()}


def _batch(
  requests: list[Request],
  drawn: list[Completion],
  length: int,
  new: int,
  group: int,
  settings: update.StepConfig,
) -> dict[str, Any]:
  """The arrays of an update; rewarded is the share of even tokens."""
  rows = len(requests)
  tokens = [r.prompt + c.tokens for r, c in zip(requests, drawn, strict=True)]
  shape = (rows, length + new)
  mask = np.broadcast_to(np.arange(length + new) >= length, shape).astype(np.float32)
  rewards = np.array([np.mean(np.array(c.tokens) % 2 == 0) for c in drawn]).reshape(-1, group)
  centred = rewards - rewards.mean(1, keepdims=True)
  advantages = (centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)).reshape(-1, 1)
  return {
    'tokens': np.array(tokens, np.int32),
    'segment_ids': np.ones(shape, np.int32),
    'mask': mask,
    'number': np.arange(rows, dtype=np.int32),
    'advantages': np.repeat(advantages, shape[1], axis=1).astype(np.float32),
    'weights': aggregation_weights(mask, settings.loss),
  }


def gap(size: str) -> Iterator[dict]:
  """The sampler's log-probabilities beside the trainer's, in the preset's bfloat16."""
  yield from attempt('bfloat16', lambda: _gap(size))


def _gap(size: str) -> dict:
  config = models.preset('qwen3_0p6b', size)
  structure, params = _model(config)
  prompts, group, length, new = GAP[size]
  requests = _requests(config, prompts, length, group)
  engine = _engine(structure, params, prompts * group, length, new)
  drawn = engine.generate(requests, Sampling(max_new_tokens=new))
  settings = update.StepConfig(group_size=group)
  batch = _batch(requests, drawn, length, new, group, settings)
  inputs = {key: batch[key] for key in ('tokens', 'segment_ids', 'mask')}

  @jax.jit
  def describe(params, rows):
    return update.describe(structure, params, {}, rows, temperature=1.0, chunk=0)[0]

  stats = describe(params, prefix.fold(inputs, group))
  stats = jax.tree.map(lambda x: prefix.unfold(np.asarray(x), inputs), stats)
  sampled = np.zeros(inputs['tokens'].shape, np.float32)
  sampled[:, length:] = [c.logprobs for c in drawn]
  found = gates.logprob_gap(
    stats.logprobs, sampled, batch['mask'], batch['tokens'], gates.Limits(0.0, 0.0, 0.0)
  )
  entropy = float((stats.entropy * batch['mask']).sum() / batch['mask'].sum())
  return {
    'tokens': int(batch['mask'].sum()),
    'entropy': entropy,
    'mean': float(found.mean),
    'quantile': float(found.quantile),
    'largest': float(found.largest),
  }
