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
import jax
import numpy as np
import pytest
from common import REPEATABLE, assert_close, assert_equal_models, assert_golden, random_parameters
from hypothesis import strategies as st

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.models.params import outline

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


PROMPT = 5  # tokens read at once, the others one by one


def test_what_is_remarked_of_the_default_time_step_min_is_what_transformers_computes(
  reference, tmp_path
):
  """With a config.json that leaves dt's limits out, and weights whose dt is below the default.

  transformers' forward pass over a sequence cuts dt at time_step_min = 1e-3, its steps of one token
  do not, and here nothing is cut.
  """
  uncut = GOLDENS['hybrid']
  cut = dataclasses.replace(uncut, time_step_low=1e-3)
  _, params = random_parameters(uncut, seed=1)
  for name in params:
    if name.endswith('dt_bias'):
      params[name] = params[name] - 9.0  # softplus(-9) = 1.2e-4
    elif name.endswith('in_proj.kernel'):
      params[name] = params[name].at[:, -uncut.mamba_num_heads :].multiply(0.1)
  checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, params, uncut)
  fields = checkpoint.config_to_hf(uncut, eos_token_id=2, pad_token_id=0)
  del fields['time_step_min'], fields['time_step_limit']
  (tmp_path / checkpoint.CONFIG).write_text(json.dumps(fields))
  assert checkpoint.read_config(tmp_path) == uncut
  assert 'cuts it to [0.001, inf]' in checkpoint.remarks(tmp_path)[0]

  tokens = np.random.default_rng(1).integers(1, uncut.vocab_size, (2, 19)).astype(np.int32)
  ones = np.ones_like(tokens)
  theirs = reference(tmp_path, tokens, ones, ones, prompt=PROMPT)
  ours = {}
  for config in (cut, uncut):
    structure = outline(config)[0]
    ours[config] = jax.jit(lambda p, s=structure: s.bind(p)(tokens, ones))(params)
  assert_close(np.asarray(ours[cut]), theirs['logits'], 2e-4, 'logits, dt cut')
  with pytest.raises(AssertionError, match='logits, dt not cut'):
    assert_close(np.asarray(ours[uncut]), theirs['logits'], 2e-4, 'logits, dt not cut')

  # The prompt's dt is cut, and that of the steps after it is not.
  rest = tokens.shape[1] - PROMPT
  logits, state = (
    outline(cut)[0].bind(params).prefill(tokens[:, :PROMPT], ones[:, :PROMPT] > 0, rest)
  )
  decoded = {'steps not cut': [logits], 'steps cut': [logits]}
  for name, config in (('steps not cut', uncut), ('steps cut', cut)):
    bound, carried = outline(config)[0].bind(params), state
    for t in range(PROMPT, tokens.shape[1]):
      logits, carried = bound.step(tokens[:, t], carried)
      decoded[name].append(logits)
  stacked = {name: np.stack(values, 1) for name, values in decoded.items()}
  assert_close(stacked['steps not cut'], theirs['decoded'], 2e-4, 'steps not cut')
  with pytest.raises(AssertionError, match='steps cut'):
    assert_close(stacked['steps cut'], theirs['decoded'], 2e-4, 'steps cut')
