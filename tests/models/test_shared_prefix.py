"""Rows that share prefixes give every continuation what it gets with its prompt to itself: values
and gradients.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevo_jax.models import scan_layers
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import create
from aevo_jax.models.layers.shared_prefix import lay_out
from aevo_jax.models.params import unbind

NEMOTRON = ModelConfig(
  vocab_size=40,
  hidden_size=24,
  pattern='M*-ME',
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=6,
  intermediate_size=32,
  mamba_num_heads=4,
  mamba_head_dim=6,
  n_groups=2,
  ssm_state_size=8,
  chunk_size=4,
  n_routed_experts=4,
  num_experts_per_tok=2,
  moe_intermediate_size=16,
  moe_shared_expert_intermediate_size=16,
)
QWEN = dataclasses.replace(
  NEMOTRON, family='qwen3', pattern='*-*-', rope_theta=100.0, qk_norm=True, mlp_activation='swiglu'
)
CONFIGS = {
  'nemotron_h': NEMOTRON,
  'qwen3': QWEN,
  'window': dataclasses.replace(NEMOTRON, sliding_window=5),
  'remat': dataclasses.replace(NEMOTRON, remat_policy='block'),
  'long_chunk': dataclasses.replace(NEMOTRON, chunk_size=64),
  'scan': dataclasses.replace(NEMOTRON, pattern='M*M*M*', scan=True),
}
PROMPTS, MEMBERS, PROMPT, OWN = 3, 2, 9, 7


def rows():
  """Prompts padded on the left, one of a single token; continuations padded on the right, one of a
  single token and one of none.
  """
  rng = np.random.default_rng(0)
  lengths, own_lengths = [9, 1, 5], [7, 1, 4, 0, 6, 3]
  prompts, prompt_ids = (
    rng.integers(1, 40, (PROMPTS, PROMPT)),
    np.array([[0] * (PROMPT - n) + [1] * n for n in lengths]),
  )
  own, own_ids = (
    rng.integers(1, 40, (PROMPTS * MEMBERS, OWN)),
    np.array([[1] * n + [0] * (OWN - n) for n in own_lengths]),
  )
  return prompts * prompt_ids, prompt_ids, own * own_ids, own_ids


@pytest.mark.parametrize('name', CONFIGS)
def test_every_continuation_is_what_it_is_alone(name):
  config = CONFIGS[name]
  model = create(config, 1)
  structure, params = unbind(scan_layers.Scanned(model) if config.scan else model)
  prompts, prompt_ids, own, own_ids = rows()
  weights = (
    np.random.default_rng(1).normal(size=(PROMPTS * MEMBERS, 1 + OWN, config.hidden_size))
    * np.pad(own_ids, ((0, 0), (1, 0)), constant_values=1)[..., None]
  )

  def together(params):
    tokens, places = lay_out(*map(jnp.asarray, (prompts, prompt_ids, own, own_ids)))
    x, loads = structure.bind(params).hidden(tokens, places)
    return jnp.sum(places.rows(x) * weights), (places.rows(x), loads)

  def alone(params):
    tokens = np.concatenate([np.repeat(prompts, MEMBERS, axis=0), own], axis=1)
    ids = np.concatenate([np.repeat(prompt_ids, MEMBERS, axis=0), own_ids], axis=1)
    x, _ = structure.bind(params).hidden(jnp.asarray(tokens), jnp.asarray(ids))
    return jnp.sum(x[:, PROMPT - 1 :] * weights), x[:, PROMPT - 1 :]

  (_, (found, loads)), gradient = jax.jit(jax.value_and_grad(together, has_aux=True))(params)
  (_, expected), expected_gradient = jax.jit(jax.value_and_grad(alone, has_aux=True))(params)
  asked = np.pad(own_ids, ((0, 0), (1, 0)), constant_values=1) > 0
  np.testing.assert_allclose(
    np.asarray(found)[asked], np.asarray(expected)[asked], rtol=2e-5, atol=2e-5
  )
  for leaf in gradient:
    scale = max(float(np.abs(expected_gradient[leaf]).max()), 1e-3)
    np.testing.assert_allclose(
      gradient[leaf], expected_gradient[leaf], atol=2e-5 * scale, err_msg=leaf
    )
  if loads is not None:  # each prompt's tokens once
    assert float(loads[0].sum()) == config.num_experts_per_tok * (prompt_ids.sum() + own_ids.sum())
