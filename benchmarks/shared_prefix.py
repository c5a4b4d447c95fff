"""What it saves to take a group's prompt through the model once (`rl.shared_prefix`).

It times log-probabilities and update of one batch of rollouts, both ways in turns in one process.

  .venv/bin/python benchmarks/shared_prefix.py [--prompts=8] [--group_size=8] [--pairs=15]

The rollouts are the base's own, of the training mixture's prompts. Prints medians in seconds, their
ratio with a 95% bootstrap interval over pairs, and how far the losses are apart.
"""

import argparse
import pathlib
import sys
import time

from aevo_jax.runtime import tune_for_cpu

tune_for_cpu()  # before JAX is imported

import jax
import numpy as np

from aevo_jax import layout
from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.data.corpus import Corpus
from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import Sampling
from aevo_jax.models import weights
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline
from aevo_jax.tasks.mixture import Mixture
from aevo_jax.training.losses.policy_gradient import PolicyGradient, aggregation_weights
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.recipe.recipe import Optimizer
from aevo_jax.training.recipe.rl_settings import Rollout
from aevo_jax.training.rl import items, prefix, update
from aevo_jax.training.rl.rollouts import generation, rollouts
from aevo_jax.training.rl.rollouts.environment import Puzzles
from aevo_jax.training.rl.rollouts.generation import Format, RolloutSource
from aevo_jax.training.rl.update import StepConfig
from aevo_jax.training.train_state import TrainState

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from versus import ratio

MODEL_INPUTS = ('tokens', 'segment_ids', 'mask', 'prompt_tokens', 'prompt_ids')


def samples_of_the_base(flags, root, structure, params) -> list[rollouts.Sample]:
  """The base's own answers to prompts of the training mixture."""
  tokenizer = tokenizers.load(str(root))
  chat = Corpus().chat
  rollout = Rollout(prompts=flags.prompts, group_size=flags.group_size)
  eos = tokenizer.token_to_id(chat.eos)
  engine = Engine(
    structure,
    eos_ids=[eos],
    pad_id=tokenizer.token_to_id(chat.pad),
    slots=min(128, flags.prompts * flags.group_size),
  )
  engine.update(params, 0)
  form = Format(
    lambda text, first: tokenizer.encode(chat.prompt(text), add_special_tokens=False).ids,
    lambda ids: tokenizer.decode(list(ids)),
    (eos,),
  )
  environment = Puzzles(
    items.stream(Mixture('micro'), 0, Corpus()), lambda item, action: {'verifiable': 0.0}
  )
  return generation.generate(
    RolloutSource(engine, environment, form),
    range(flags.prompts),
    rollout,
    Sampling(max_new_tokens=rollout.max_new_tokens),
    0,
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name, default in (('prompts', 8), ('group_size', 8), ('pairs', 15), ('microbatches', 4)):
    parser.add_argument(f'--{name}', type=int, default=default)
  flags = parser.parse_args()
  root = layout.root_file('substrate') / 'base'
  config = checkpoint.read_config(root)
  structure = outline(config)[0]
  params = jax.tree.map(jax.numpy.asarray, dict(weights.load(root, config)))
  samples = samples_of_the_base(flags, root, structure, params)
  noise = np.random.default_rng(0).normal(size=(len(samples), 1))
  arrays = rollouts.arrays(samples, len(samples))
  arrays |= {
    'old_logprobs': arrays['sampler_logprobs'],
    'weights': aggregation_weights(arrays['mask'], PolicyGradient()),
    'advantages': (noise * arrays['mask']).astype(np.float32),
  }
  rule = transformation(Optimizer(learning_rate=1e-6))
  describe = jax.jit(
    lambda p, batch: update.describe(structure, p, {}, batch, temperature=1.0, chunk=0)[0].logprobs
  )
  sides = {}
  for name, members in (('each', 1), ('once', flags.group_size)):
    step_config = StepConfig(microbatches=flags.microbatches, group_size=members)
    step = jax.jit(update.make_step(update.make_loss(structure, step_config), rule, step_config))
    sides[name] = step, TrainState.create(params, rule, 0.0)

  def run(name: str) -> tuple[float, float]:
    """Seconds and the loss of one step from the same weights."""
    step, state = sides[name]
    started = time.perf_counter()
    batch = prefix.fold(arrays, flags.group_size) if name == 'once' else arrays
    jax.block_until_ready(describe(state.params, {n: batch[n] for n in batch if n in MODEL_INPUTS}))
    updated = step(state, {}, batch, np.float32(1e-6))
    jax.block_until_ready(updated)
    return time.perf_counter() - started, float(updated.figures.scalars.loss)

  losses = {name: run(name)[1] for name in sides}  # compiles
  each = []
  once = []
  for _ in range(flags.pairs):
    each.append(run('each')[0])
    once.append(run('once')[0])
  found = ratio([1 / s for s in once], [1 / s for s in each])
  print(
    f'{flags.prompts} x {flags.group_size} rollouts, prompts of '
    f'{np.mean([len(s.tokens) - s.mask.sum() for s in samples]):.0f} tokens and '
    'completions of '
    f'{np.mean([s.mask.sum() for s in samples]):.0f} on average: {np.median(each):.3f} s '
    f'with every prompt of its own, {np.median(once):.3f} s with shared ones, '
    f'ratio {found["ratio"]:.2f} [{found["low"]:.2f}, {found["high"]:.2f}]; losses '
    f'{losses["each"]:.6f} and {losses["once"]:.6f}'
  )


if __name__ == '__main__':
  main()
