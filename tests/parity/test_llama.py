"""Logits and gradients against Hugging Face's Llama, on random small configurations over every
option, in float32.
"""

import hypothesis
import pytest
from common import REPEATABLE, assert_equal_models, assert_golden
from hypothesis import strategies as st

from aevo_jax.models.config import ModelConfig

pytestmark = pytest.mark.parity


@st.composite
def configs(draw) -> ModelConfig:
  """One to three layers."""

  def pick(*values):
    return draw(st.sampled_from(values))

  kv_heads = pick(1, 2)
  return ModelConfig(
    family='llama',
    vocab_size=37,
    hidden_size=pick(32, 48),
    pattern='*-' * pick(1, 2, 3),
    num_attention_heads=kv_heads * pick(1, 2, 4),
    num_key_value_heads=kv_heads,
    head_dim=pick(8, 16),
    rope_theta=pick(100.0, 10_000.0, 500_000.0),
    attention_bias=pick(False, True),
    intermediate_size=pick(24, 40),
    mlp_activation='swiglu',
    mlp_bias=pick(False, True),
    layer_norm_epsilon=pick(1e-6, 1e-2),
    tie_word_embeddings=pick(False, True),
  )


@hypothesis.settings(REPEATABLE, max_examples=20)
@hypothesis.given(config=configs(), seed=st.integers(0, 2**16))
def test_logits_and_gradients_are_hugging_faces(reference, config, seed):
  assert_equal_models(reference, config, seed)


GOLDEN = ModelConfig(
  family='llama',
  pattern='*-*-',
  vocab_size=19,
  hidden_size=16,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  rope_theta=1000.0,
  attention_bias=True,
  intermediate_size=20,
  mlp_activation='swiglu',
  mlp_bias=True,
  tie_word_embeddings=True,
)


def test_the_golden_is_what_the_reference_says(reference, request, tmp_path):
  write = request.config.getoption('--write_goldens')
  assert_golden(reference, 'llama', GOLDEN, write, tmp_path)
