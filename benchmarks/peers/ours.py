"""Our side of the comparisons in versus.py; runs in .venv."""

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()  # before JAX is imported

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import workload as w

from aevo_jax.data.packing import rows_of
from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import Request, Sampling
from aevo_jax.models import weights as weights_lib
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline
from aevo_jax.training.losses.policy_gradient import aggregation_weights
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer, TrainConfig
from aevo_jax.training.rl import prefix, update
from aevo_jax.training.train_state import TrainState
from aevo_jax.training.train_step import make_train_step

WINDOW = 128  # sequences packed together


def model(directory: str):
  import pathlib

  config = checkpoint.read_config(pathlib.Path(directory))
  return outline(config)[0], {
    name: jnp.asarray(v)
    for name, v in weights_lib.load(pathlib.Path(directory) / checkpoint.WEIGHTS, config).items()
  }


def packed(ragged: bool):
  """Endless rows of (tokens, segment ids)."""
  for start in itertools.count(step=WINDOW):
    sequences = [w.sequence(i, ragged) for i in range(start, start + WINDOW)]
    for row in rows_of([len(s) for s in sequences], w.LENGTH):
      tokens, segments = np.zeros(w.LENGTH, np.int32), np.zeros(w.LENGTH, np.int32)
      at = 0
      for number, i in enumerate(row, start=1):
        n = len(sequences[i])
        tokens[at : at + n], segments[at : at + n] = sequences[i], number
        at += n
      yield tokens, segments


def sft(asked: dict):
  structure, params = model(asked['model'])
  rule = transformation(Optimizer(learning_rate=1e-4))
  step = jax.jit(make_train_step(structure, rule, TrainConfig()), donate_argnums=0)
  state, rows = TrainState.create(params, rule, 0.0), packed(asked['ragged'])

  def run() -> dict:
    nonlocal state
    tokens, segments = map(np.stack, zip(*itertools.islice(rows, w.ROWS), strict=True))
    state, metrics = step(
      state,
      {},
      {'tokens': tokens, 'segment_ids': segments, 'weights': (segments > 0).astype(np.float32)},
      np.float32(1e-4),
    )
    return {'tokens': int((segments > 0).sum()), 'loss': float(metrics['loss'])}

  return run


def engine(structure, params) -> Engine:
  made = Engine(
    structure,
    eos_ids=[],
    pad_id=w.PAD,
    slots=w.PROMPTS * w.GROUP,
    dispatch=w.COMPLETION,
    bucket=w.PROMPT,
  )
  made.update(params, 0)
  return made


def sampling(asked: dict):
  return draw(engine(*model(asked['model'])))


def draw(made):
  """Groups of completions, each call of other prompts, from any engine."""
  number = itertools.count()

  def run() -> dict:
    k = next(number)
    requests = [
      Request(tuple(w.prompt(k * w.PROMPTS + p)), k * 1000 + p * w.GROUP + g)
      for p in range(w.PROMPTS)
      for g in range(w.GROUP)
    ]
    return {
      'tokens': sum(
        len(c.tokens) for c in made.generate(requests, Sampling(max_new_tokens=w.COMPLETION))
      )
    }

  return run


def grpo(asked: dict):
  """Generation and one update, which gives the trainer's log-probabilities.

  Rewards are the share of even tokens.
  """
  structure, params = model(asked['model'])
  rule = transformation(Optimizer(learning_rate=1e-5))
  config = update.StepConfig(microbatches=asked.get('microbatches', 4), group_size=w.GROUP)
  step = jax.jit(
    update.make_step(
      update.make_loss(structure, config),
      rule,
      config,
    ),
    donate_argnums=0,
  )
  made, state, number = (
    engine(structure, params),
    TrainState.create(params, rule, 0.0),
    itertools.count(),
  )
  rows, length = w.PROMPTS * w.GROUP, w.PROMPT + w.COMPLETION

  def run() -> dict:
    nonlocal state
    k = next(number)
    made.update(state.params, k)
    requests = [
      Request(tuple(w.prompt(k * w.PROMPTS + p)), k * 1000 + p * w.GROUP + g)
      for p in range(w.PROMPTS)
      for g in range(w.GROUP)
    ]
    found = made.generate(requests, Sampling(max_new_tokens=w.COMPLETION))
    batch = {
      'tokens': np.array(
        [r.prompt + c.tokens for r, c in zip(requests, found, strict=True)], np.int32
      ),
      'segment_ids': np.ones((rows, length), np.int32),
      'mask': np.broadcast_to(np.arange(length) >= w.PROMPT, (rows, length)).astype(np.float32),
    }
    batch['number'] = np.arange(rows, dtype=np.int32)
    rewards = np.array([np.mean(np.array(c.tokens) % 2 == 0) for c in found]).reshape(
      w.PROMPTS, w.GROUP
    )
    advantages = (
      (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    ).reshape(-1, 1)
    batch |= {
      'advantages': np.repeat(advantages, length, axis=1).astype(np.float32),
      'weights': aggregation_weights(batch['mask'], config.loss),
    }
    state, figures = step(state, {}, prefix.fold(batch, w.GROUP), np.float32(1e-5))
    np.asarray(figures.diagnostics.token_stats.logprobs)
    return {'steps': 1, 'tokens': rows * w.COMPLETION}

  return run


if __name__ == '__main__':
  w.serve(lambda asked: {'sft': sft, 'sampling': sampling, 'grpo': grpo}[asked['workload']](asked))
