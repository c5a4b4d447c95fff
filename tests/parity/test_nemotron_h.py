"""Logits and gradients against Hugging Face's Nemotron-H on random small configurations over every
option that both compute, in float32.

What Hugging Face does not compute though its config names it is tested elsewhere: an upper limit of
dt in tests/models, sliding windows and biases of attention in test_qwen3.py.
"""

import dataclasses
import json
import math
import pathlib
import subprocess

import hypothesis
import pytest
from common import REPEATABLE, assert_equal_models, assert_golden
from hypothesis import strategies as st

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint

PYTHON = pathlib.Path(__file__).parents[2] / 'third_party' / 'parity' / '.venv' / 'bin' / 'python'

pytestmark = pytest.mark.parity


@st.composite
def configs(draw) -> ModelConfig:
  """Patterns with one to five blocks of any kind; sizes of a few, so that heads, groups, experts
  and the latent width all differ.
  """

  def pick(*values):
    return draw(st.sampled_from(values))

  groups, kv_heads, expert_groups = pick(1, 2, 4), pick(1, 2), pick(1, 2, 4)
  per_group = pick(2, 3)
  topk_group = draw(st.integers(1, expert_groups))
  return ModelConfig(
    vocab_size=37,
    hidden_size=pick(32, 48),
    pattern=draw(st.text('M*-E', min_size=1, max_size=5)),
    num_attention_heads=kv_heads * pick(1, 3),
    num_key_value_heads=kv_heads,
    head_dim=pick(8, 16),
    attention_bias=False,
    intermediate_size=pick(24, 40),
    mlp_bias=pick(False, True),
    mamba_num_heads=groups * pick(1, 2),
    mamba_head_dim=pick(8, 12),
    n_groups=groups,
    ssm_state_size=pick(4, 16),
    conv_kernel=pick(2, 4),
    use_bias=pick(False, True),
    use_conv_bias=pick(False, True),
    time_step_low=pick(0.0, 0.3),
    chunk_size=pick(4, 8),
    n_routed_experts=expert_groups * per_group,
    num_experts_per_tok=draw(st.integers(1, topk_group * per_group)),
    moe_intermediate_size=pick(16, 20),
    moe_shared_expert_intermediate_size=pick(16, 28),
    moe_latent_size=pick(0, 12),
    n_group=expert_groups,
    topk_group=topk_group,
    norm_topk_prob=pick(False, True),
    routed_scaling_factor=pick(1.0, 2.5),
    moe_implementation=pick('tiled', 'ragged_dot'),
  )


@hypothesis.settings(REPEATABLE, max_examples=60)
@hypothesis.given(config=configs(), seed=st.integers(0, 2**16))
def test_logits_and_gradients_are_hugging_faces(reference, config, seed):
  assert_equal_models(reference, config, seed)


SMALL = ModelConfig(
  vocab_size=19,
  hidden_size=16,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  intermediate_size=20,
  mamba_num_heads=4,
  mamba_head_dim=6,
  n_groups=2,
  ssm_state_size=4,
  chunk_size=8,
  n_routed_experts=6,
  num_experts_per_tok=2,
  moe_intermediate_size=12,
  moe_shared_expert_intermediate_size=16,
)
GOLDENS = {
  'hybrid': dataclasses.replace(SMALL, pattern='M-*M'),
  'experts': dataclasses.replace(SMALL, pattern='ME*E', routed_scaling_factor=2.5),
  'latent_experts': dataclasses.replace(
    SMALL,
    pattern='EM',
    moe_latent_size=8,
    n_group=3,
    topk_group=2,
    norm_topk_prob=False,
    mlp_bias=True,
    use_bias=True,
    use_conv_bias=False,
    time_step_low=0.3,
  ),
}


@pytest.mark.parametrize('name', GOLDENS)
def test_goldens_are_what_the_reference_says(reference, name, request, tmp_path):
  assert_golden(
    reference, name, GOLDENS[name], request.config.getoption('--write_goldens'), tmp_path
  )


SAVE = """
import sys
from transformers import NemotronHConfig
config = NemotronHConfig.from_pretrained(sys.argv[1])
config.time_step_limit = (0.3, float('inf'))
config.save_pretrained(sys.argv[2])
"""


def test_a_config_that_transformers_saved_with_infinity_is_read(tmp_path):
  config = dataclasses.replace(GOLDENS['hybrid'], time_step_low=0.3)
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  ours.mkdir()
  fields = checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0)
  (ours / checkpoint.CONFIG).write_text(json.dumps(fields))
  subprocess.run([PYTHON, '-c', SAVE, str(ours), str(theirs)], timeout=300, check=True)
  saved = json.loads((theirs / checkpoint.CONFIG).read_text())
  assert saved['time_step_limit'] == [0.3, {'__float__': 'Infinity'}]
  read = checkpoint.read_config(theirs)
  assert (read.time_step_low, read.time_step_high) == (0.3, math.inf)
