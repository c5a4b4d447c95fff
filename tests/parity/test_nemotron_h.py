"""Logits and gradients against Hugging Face's Nemotron-H on random small configurations over every option that both compute, in float32.

What Hugging Face does not compute though its config names it (sliding windows, biases of attention, an upper limit of dt) is tested in tests/models.
"""

import dataclasses
import json
import pathlib
import tempfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import load_file

from aevo_jax.models import hf_checkpoint
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.params import unbind

pytestmark = pytest.mark.parity


@st.composite
def configs(draw) -> ModelConfig:
  """Patterns with one to five blocks of any kind; sizes of a few, so that heads, groups, experts and the latent width all differ."""
  pick = lambda *values: draw(st.sampled_from(values))
  groups, kv_heads, expert_groups = pick(1, 2, 4), pick(1, 2), pick(1, 2, 4)
  per_group = pick(2, 3)
  topk_group = draw(st.integers(1, expert_groups))
  return ModelConfig(
      vocab_size=37, hidden_size=pick(32, 48), pattern=draw(st.text('M*-E', min_size=1, max_size=5)),
      num_attention_heads=kv_heads * pick(1, 3), num_key_value_heads=kv_heads, head_dim=pick(8, 16), attention_bias=False,
      intermediate_size=pick(24, 40), mlp_bias=pick(False, True), mamba_num_heads=groups * pick(1, 2), mamba_head_dim=pick(8, 12), n_groups=groups,
      ssm_state_size=pick(4, 16), conv_kernel=pick(2, 4), use_bias=pick(False, True), use_conv_bias=pick(False, True), time_step_low=pick(0.0, 0.3),
      chunk_size=pick(4, 8), n_routed_experts=expert_groups * per_group, num_experts_per_tok=draw(st.integers(1, topk_group * per_group)),
      moe_intermediate_size=pick(16, 20), moe_shared_expert_intermediate_size=pick(16, 28), moe_latent_size=pick(0, 12), n_group=expert_groups,
      topk_group=topk_group, norm_topk_prob=pick(False, True), routed_scaling_factor=pick(1.0, 2.5), moe_implementation=pick('tiled', 'ragged_dot'))


def random_parameters(config: ModelConfig, seed: int):
  """Structure, and parameters none of which is zero or one: a forgotten bias must show."""
  structure, params = unbind(create(config, seed))
  rng = np.random.default_rng(seed)
  return structure, {name: jnp.asarray(np.asarray(value) + 0.1 * rng.standard_normal(value.shape), jnp.float32) for name, value in params.items()}


def rows(seed: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
  """tokens, mask [4, 19]: full, padded on the right, on the left, and on both sides; 19 ends inside a chunk.

  With biases of mamba's projections nothing is padded on the left: the reference's convolution then sees the bias of padded places before a sequence.
  """
  rng = np.random.default_rng(seed)
  mask = np.zeros((4, 19), np.int32)
  for row, (start, end) in enumerate([(0, 19), (0, 11), (7, 19), (3, 14)]):
    mask[row, 0 if config.use_bias else start:end] = 1
  return rng.integers(1, config.vocab_size, mask.shape).astype(np.int32), mask


def ask(reference, directory, config, params, tokens, mask, weights) -> dict[str, np.ndarray]:
  """The reference's answer about a checkpoint that we write."""
  hf_checkpoint.save_weights(directory / hf_checkpoint.WEIGHTS, params, config)
  (directory / hf_checkpoint.CONFIG).write_text(json.dumps(hf_checkpoint.config_to_hf(config, eos_token_id=2, pad_token_id=0), indent=1) + '\n')
  return reference(directory, tokens, mask, weights)


def value_and_grad(structure, params, tokens, segment_ids, weights):
  """Logits, and the gradient of the reference's loss."""
  def loss(p):
    logits = structure.bind(p)(tokens, segment_ids)
    return jnp.sum(weights[..., None] * jnp.cos(jnp.arange(logits.shape[-1], dtype=jnp.float32)) * jax.nn.log_softmax(logits)), logits
  return jax.jit(jax.grad(loss, has_aux=True))(params)


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str, floor: float = 0.0) -> None:
  """Relative to the largest of theirs, which counts as `floor` at least."""
  error, scale = np.abs(ours - theirs).max(), max(np.abs(theirs).max(), floor)
  assert error <= tolerance * scale, f'{what}: {error:.2e} against a scale of {scale:.2e}'


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(config=configs(), seed=st.integers(0, 2**16))
def test_logits_and_gradients_are_hugging_faces(reference, config, seed):
  structure, params = random_parameters(config, seed)
  tokens, mask = rows(seed, config)
  weights = np.random.default_rng(seed + 1).standard_normal(mask.shape).astype(np.float32) * mask
  with tempfile.TemporaryDirectory() as name:
    theirs = ask(reference, pathlib.Path(name), config, params, tokens, mask, weights)
  grads, logits = value_and_grad(structure, params, tokens, mask, weights)
  at = mask.astype(bool)
  assert_close(np.asarray(logits)[at], theirs['logits'][at], 2e-4, 'logits')

  # Packed: rows 1 to 3 behind one another, each a segment of its own.
  lengths = mask.sum(axis=1)
  packed = np.concatenate([tokens[i][at[i]] for i in (1, 2, 3)])[None]
  segments = np.repeat([1, 2, 3], lengths[1:])[None]
  together = np.asarray(structure.bind(params)(packed, segments))[0]
  assert_close(together, np.concatenate([theirs['logits'][i][at[i]] for i in (1, 2, 3)]), 2e-4, 'packed logits')

  # A single expert's normalised weight is 1 whatever the router says: where the true gradient is 0, rounding is all there is.
  floor = 1e-3 * max(np.abs(value).max() for name, value in theirs.items() if name.startswith('grad.'))
  names = {hf_checkpoint.hf_name(name, config): name for name in params}
  compared = 0
  for name, ours in names.items():
    gradient = theirs.get(f'grad.{name}')
    if gradient is not None:
      assert_close(hf_checkpoint.to_hf(ours, np.asarray(grads[ours])), gradient, 1e-3, f'gradient of {name}', floor)
      compared += 1
    else:
      assert name.endswith('e_score_correction_bias') and not np.any(grads[ours]), f'the reference has no gradient of {name}'
  assert compared >= 5


SMALL = ModelConfig(vocab_size=19, hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=20, mamba_num_heads=4, mamba_head_dim=6,
                    n_groups=2, ssm_state_size=4, chunk_size=8, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, moe_shared_expert_intermediate_size=16)
GOLDENS = {
    'hybrid': dataclasses.replace(SMALL, pattern='M-*M'),
    'experts': dataclasses.replace(SMALL, pattern='ME*E', routed_scaling_factor=2.5),
    'latent_experts': dataclasses.replace(SMALL, pattern='EM', moe_latent_size=8, n_group=3, topk_group=2, norm_topk_prob=False, mlp_bias=True, use_bias=True,
                                          use_conv_bias=False, time_step_low=0.3),
}


@pytest.mark.parametrize('name', GOLDENS)
def test_goldens_are_what_the_reference_says(reference, name, request, tmp_path):
  committed = pathlib.Path(__file__).parents[1] / 'models' / 'goldens' / name
  directory = committed if request.config.getoption('--write_goldens') else tmp_path
  directory.mkdir(parents=True, exist_ok=True)
  _, params = random_parameters(GOLDENS[name], seed=1)
  tokens, mask = rows(1, GOLDENS[name])
  theirs = ask(reference, directory, GOLDENS[name], params, tokens, mask, np.cos(np.arange(mask.size, dtype=np.float32)).reshape(mask.shape) * mask)
  stored = load_file(committed / 'outputs.safetensors')
  assert stored.keys() == theirs.keys()
  for key, value in theirs.items():
    np.testing.assert_allclose(stored[key], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1e-3), err_msg=key)
