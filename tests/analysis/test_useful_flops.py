"""Useful operations of a training step, by hand and beside what XLA counts of a compiled one."""

import dataclasses

import jax
import pytest

from aevo_jax.analysis.abstract_step import lower_step
from aevo_jax.analysis.useful_flops import useful_flops
from aevo_jax.models.config import ModelConfig
from aevo_jax.training.recipe.recipe import Adaptation, Lora, Optimizer, Recipe, Train

DENSE = ModelConfig(
  family='qwen3',
  vocab_size=512,
  hidden_size=256,
  pattern='*-*-',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=64,
  rope_theta=1e4,
  qk_norm=True,
  intermediate_size=1024,
  mlp_activation='swiglu',
)
ROWS, LENGTH = 2, 128
ADAPTED = {'adaptation': Adaptation('lora'), 'lora': Lora(rank=16, alpha=16.0)}


def of(config: ModelConfig, **recipe) -> float:
  return useful_flops(config, Recipe(**recipe), rows=ROWS, row_length=LENGTH)


def test_a_dense_model_by_hand():
  attention = 256 * (256 + 2 * 128) + 256 * 256
  mlp = 3 * 256 * 1024
  weights = 2 * (attention + mlp) + 256 * 512
  scores = 2 * 2 * 2 * 4 * 64 * (LENGTH + 1) / 2  # two blocks, two products
  tokens = ROWS * LENGTH
  assert of(DENSE) == tokens * (6 * weights + 3 * scores)
  rank = 2 * 16 * (2 * (256 + 256) + 2 * (256 + 128) + 3 * (256 + 1024))
  assert of(DENSE, **ADAPTED) == tokens * (4 * weights + 6 * rank + 3 * scores)


def test_a_tied_embedding_is_a_head():
  assert of(dataclasses.replace(DENSE, tie_word_embeddings=True)) == of(DENSE)


def test_a_window_is_what_is_attended_to():
  base = of(dataclasses.replace(DENSE, sliding_window=LENGTH))
  assert base == of(DENSE)
  window = dataclasses.replace(DENSE, sliding_window=2)
  # The first token attends to itself, 127 to two tokens.
  fewer = (LENGTH * (LENGTH + 1) / 2) - (1 + 127 * 2)
  assert base - of(window) == ROWS * 3 * 2 * 2 * 2 * 4 * 64 * fewer


def test_experts_count_by_their_tokens_and_the_scan_as_its_recurrence():
  config = ModelConfig(
    vocab_size=32,
    hidden_size=32,
    pattern='ME',
    mamba_num_heads=4,
    mamba_head_dim=8,
    n_groups=2,
    ssm_state_size=8,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=16,
    moe_shared_expert_intermediate_size=24,
  )
  inner, groups = 32, 2 * 2 * 8
  mamba = 32 * (2 * inner + groups + 4) + 4 * (inner + groups) + inner * 32
  experts = 32 * 8 + 3 * 2 * 32 * 16 + 2 * 32 * 24
  weights = mamba + experts + 32 * 32
  assert of(config) == ROWS * LENGTH * (6 * weights + 3 * 4 * inner * 8)


@pytest.mark.parametrize('recipe', [{}, ADAPTED])
def test_it_is_what_xla_counts_but_for_masked_scores(recipe):
  """XLA multiplies the masked half of the scores too; its own count has norms and the optimizer."""
  train = Train(batch_rows=ROWS, row_length=LENGTH)
  # SGD, for less arithmetic that is no product.
  whole = Recipe(optimizer=Optimizer(name='sgd'), train=train, **recipe)
  compiled = lower_step(DENSE, whole).lowered.compile()
  masked = ROWS * 3 * 2 * 2 * 2 * 4 * 64 * LENGTH * (LENGTH - 1) / 2
  expected = of(DENSE, **recipe) + masked
  assert compiled.cost_analysis()['flops'] == pytest.approx(expected, rel=0.06)


def test_the_traced_step_lies_on_the_device_it_is_given():
  device = jax.devices()[0]
  step = lower_step(ModelConfig(), Recipe(), device)
  for leaf in jax.tree.leaves((step.state, step.frozen, step.batch)):
    assert leaf.sharding.device_set == {device}
