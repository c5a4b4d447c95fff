"""Small runs of reinforcement learning on a task of copying one token, for several test files."""

import dataclasses
import functools
import json

import jax
import numpy as np

from aevo_jax import layout
from aevo_jax.config import loading
from aevo_jax.generation.engine import Engine
from aevo_jax.generation.protocol import Sampling
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.training.model_setup import PolicyModel
from aevo_jax.training.optimizer import learning_rates, transformation
from aevo_jax.training.recipe import recipe as recipe_lib
from aevo_jax.training.recipe.recipe import Optimizer
from aevo_jax.training.recipe.rl_settings import Algorithm, Gates, Rl, Rollout
from aevo_jax.training.rl import (
  loop,
)
from aevo_jax.training.rl.rollouts.environment import Turn
from aevo_jax.training.rl.rollouts.generation import Format, RolloutSource

PAD, EOS, FIRST, LETTERS = 0, 1, 4, 8


CONFIG = ModelConfig(
  vocab_size=FIRST + LETTERS,
  hidden_size=24,
  pattern='*-',
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=12,
  intermediate_size=32,
)


STRUCTURE, PARAMS = unbind(create(CONFIG, 0))


@functools.cache
def hybrid():
  """A model that carries a state as well, for what depends on the model; it compiles longer."""
  config = dataclasses.replace(
    CONFIG, pattern='M*-', mamba_num_heads=2, mamba_head_dim=12, ssm_state_size=8, chunk_size=16
  )
  return unbind(create(config, 0))


RULE = transformation(Optimizer(weight_decay=0.1))


ALGORITHMS = sorted(
  path.stem
  for path in (layout.root_file('constitution.gin').parent / 'configs' / 'algorithms').glob('*.gin')
  if path.stem != 'distill'
)  # which has no rewards


class Copy:
  """Shown a letter, say it: 1 for it as the first token.

  `worth(index)` scales an episode's reward.
  """

  max_turns = 1

  def __init__(self, worth=lambda index: 1.0):
    self._worth = worth

  def episode(self, index):
    letter, worth = chr(97 + index % LETTERS), self._worth(index)

    class Episode:
      observation, family = letter, 'copy'

      def act(self, action):
        return Turn(
          '',
          {
            'verifiable': worth * float(action.text[:1] == letter),
            'overlong': -float(action.tokens > 2),
          },
          True,
        )

    return Episode()


FORM = Format(
  lambda text, first: [3, *(FIRST + ord(c) - 97 for c in text), 2],
  lambda ids: ''.join(chr(97 + i - FIRST) if i >= FIRST else '#' for i in ids),
  (EOS,),
)


SMALL = Algorithm(
  rollout=Rollout(prompts=8, group_size=8, max_new_tokens=3),
  rl=Rl(microbatches=2),
  gates=Gates(window=1000),
)


def engine(structure=STRUCTURE):
  return Engine(structure, eos_ids=[EOS], pad_id=PAD, slots=64, dispatch=4)


def trainer(
  directory, algorithm=SMALL, environment=None, engine_=None, seed=0, model=(STRUCTURE, PARAMS)
):
  structure, params = model
  source = RolloutSource(engine_ or engine(structure), environment or Copy(), FORM)
  return loop.Trainer(
    PolicyModel(structure, params, {}), RULE, algorithm, source, seed=seed, directory=directory
  )


def rates(steps, rate=1e-2):
  return learning_rates(
    Optimizer(learning_rate=rate, schedule='constant', warmup_fraction=0.0), steps
  )


def metrics(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]


def same(one, other):
  return all(
    np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  )


@functools.cache
def named(name, *bindings):
  loading.load(
    [str(layout.root_file('constitution.gin').parent / 'configs' / 'algorithms' / f'{name}.gin')],
    list(bindings),
    search_paths=(),
  )
  return recipe_lib.from_gin().algorithm()


def always(episode, reward):
  def act(action):
    return Turn('', {'verifiable': reward}, True)

  episode.act = act
  return episode


class Ragged(Copy):
  """Prompts of one to five letters."""

  def episode(self, index):
    made = super().episode(index)
    made.observation = made.observation * (1 + index % 5)
    return made


def made_sampling():
  return Sampling(max_new_tokens=3)
