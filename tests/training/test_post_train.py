"""A run of two methods is the two runs, one after the other."""

import dataclasses

import numpy as np
import pytest

from aevo_jax.data import tokenizer as tokenizers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind
from aevo_jax.training.post_train import Run
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Method, Optimizer, Recipe, Train
from aevo_jax.training.recipe.rl_settings import Reward, Rl, Rollout
from aevo_jax.training.recipe.task_source import TaskSource
from aevo_jax.training.recipe.token_budget import StepPlan
from aevo_jax.training.run_config import RunConfig

RECIPE = Recipe(
  optimizer=Optimizer(learning_rate=3e-4),
  train=Train(batch_rows=2),
  rollout=Rollout(prompts=2, group_size=4, max_new_tokens=40),
  reward=Reward(length=1.0),
  rl=Rl(microbatches=1),
)


@pytest.mark.parametrize(('method', 'adaptation'), [('rl', 'full'), ('dpo', 'lora')])
def test_two_methods_are_the_two_runs_one_after_the_other(method, adaptation, tmp_path):
  tokenizer = tokenizers.build()
  config = ModelConfig(
    vocab_size=tokenizer.get_vocab_size(),
    hidden_size=24,
    pattern='M*-',
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=12,
    intermediate_size=32,
    mamba_num_heads=2,
    mamba_head_dim=12,
    ssm_state_size=8,
    chunk_size=16,
  )
  base = unbind(create(config, 0))[1]
  recipe = dataclasses.replace(RECIPE, adaptation=Adaptation(adaptation), lora=Lora(rank=2))
  rate = 1e-4

  def run(name, method, start, plan):
    made = Run(
      config,
      dataclasses.replace(recipe, method=method),
      start,
      tokenizer,
      TaskSource('micro', 3),
      directory=tmp_path / name,
    )
    return made.train(plan, RunConfig())

  both = run('both', Method(f'sft_then_{method}', learning_rate=rate), base, StepPlan(3, 2, 0))
  first = run('first', Method(), base, StepPlan(3, 0, 0))
  second = run('second', Method(method, learning_rate=rate), first, StepPlan(0, 2, 0))
  assert both.keys() == second.keys() and all(
    np.array_equal(both[name], second[name]) for name in both
  )
  assert any(not np.array_equal(first[name], second[name]) for name in both)
