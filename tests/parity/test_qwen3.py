"""Logits and gradients against Hugging Face's Qwen3, dense and with experts, on random small
configurations over every option, in float32.

Its attention is the same as Nemotron-H's but for norms and rotations, and obeys the biases and
sliding windows that Hugging Face's Nemotron-H leaves unused.
"""

import dataclasses

import hypothesis
import pytest
from common import REPEATABLE, assert_equal_models, assert_golden
from hypothesis import strategies as st

from aevo_jax.models.config import ModelConfig

pytestmark = pytest.mark.parity


@st.composite
def configs(draw) -> ModelConfig:
  """One to three layers, dense, sparse or mixed."""

  def pick(*values):
    return draw(st.sampled_from(values))

  kv_heads, experts = pick(1, 2), pick(3, 4, 6)
  return ModelConfig(
    family='qwen3',
    vocab_size=37,
    hidden_size=pick(32, 48),
    pattern=''.join(f'*{kind}' for kind in draw(st.text('-E', min_size=1, max_size=3))),
    num_attention_heads=kv_heads * pick(1, 3),
    num_key_value_heads=kv_heads,
    head_dim=pick(8, 16),
    rope_theta=pick(100.0, 10_000.0, 1_000_000.0),
    qk_norm=True,
    sliding_window=pick(0, 1, 4),
    attention_bias=pick(False, True),
    intermediate_size=pick(24, 40),
    mlp_activation='swiglu',
    n_routed_experts=experts,
    num_experts_per_tok=draw(st.integers(1, experts)),
    moe_intermediate_size=pick(16, 20),
    moe_shared_expert_intermediate_size=0,
    router='softmax',
    norm_topk_prob=pick(False, True),
    moe_implementation=pick('tiled', 'ragged_dot'),
    layer_norm_epsilon=pick(1e-6, 1e-2),
    tie_word_embeddings=pick(False, True),
  )


@hypothesis.settings(REPEATABLE, max_examples=40)
@hypothesis.given(config=configs(), seed=st.integers(0, 2**16))
def test_logits_and_gradients_are_hugging_faces(reference, config, seed):
  assert_equal_models(reference, config, seed)


SMALL = ModelConfig(
  family='qwen3',
  pattern='*-',
  vocab_size=19,
  hidden_size=16,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  rope_theta=1000.0,
  qk_norm=True,
  intermediate_size=20,
  mlp_activation='swiglu',
  n_routed_experts=6,
  num_experts_per_tok=2,
  moe_intermediate_size=12,
  moe_shared_expert_intermediate_size=0,
  router='softmax',
  layer_norm_epsilon=1e-6,
)
GOLDENS = {
  'qwen3': dataclasses.replace(
    SMALL, pattern='*-*-', sliding_window=5, attention_bias=True, tie_word_embeddings=True
  ),
  'qwen3_experts': dataclasses.replace(SMALL, pattern='*E*-*E'),
}


@pytest.mark.parametrize('name', GOLDENS)
def test_goldens_are_what_the_reference_says(reference, name, request, tmp_path):
  assert_golden(
    reference, name, GOLDENS[name], request.config.getoption('--write_goldens'), tmp_path
  )
