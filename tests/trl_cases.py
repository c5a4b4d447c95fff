"""Losses that TRL has too: the same model, batch and options for both. tests/parity asks TRL,
tests/training reads what it said.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf import checkpoint
from aevo_jax.training.losses.distillation import distillation_loss, reverse_kl
from aevo_jax.training.losses.policy_gradient import (
  PolicyGradient,
  aggregation_weights,
  correction_weights,
  policy_gradient_loss,
)
from aevo_jax.training.losses.preference import Dpo, dpo_loss
from aevo_jax.training.losses.sft import Loss, sft_loss
from aevo_jax.training.tokens.token_logprobs import per_token, token_stats

CONFIG = ModelConfig(
  family='qwen3',
  pattern='*-',
  vocab_size=19,
  hidden_size=16,
  num_attention_heads=2,
  num_key_value_heads=1,
  head_dim=8,
  rope_theta=1000.0,
  qk_norm=True,
  intermediate_size=20,
  mlp_activation='swiglu',
  layer_norm_epsilon=1e-6,
)
ROWS, PROMPT, COMPLETION = 4, 5, 7
GOLDENS = pathlib.Path(__file__).parent / 'training' / 'trl_goldens'
SHOWN = (
  'lm_head.weight',
  'model.embed_tokens.weight',
  'model.layers.0.self_attn.q_proj.weight',
)  # whose gradients are written down


@dataclasses.dataclass(frozen=True)
class Case:
  """do: the loss. ours: our settings. theirs: options of TRL's configuration."""

  do: str
  ours: Any = None
  theirs: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def needs_reference(self) -> bool:
    return self.do in ('dpo', 'distillation')


def grpo(theirs: dict[str, Any], **ours) -> Case:
  options = {
    'per_device_train_batch_size': ROWS,
    'num_generations': 2,
    'max_completion_length': COMPLETION,
    'beta': 0.0,
    'loss_type': 'bnpo',
  }
  return Case('grpo', PolicyGradient(**ours), options | theirs)


CASES = {
  'sft': Case('sft', 0.0, {'max_length': None}),
  'dpo': Case('dpo', Dpo(beta=0.3), {'beta': 0.3}),
  'dpo_length_normalised': Case(
    'dpo', Dpo(beta=0.7, length_normalised=True), {'beta': 0.7, 'loss_type': ['sigmoid_norm']}
  ),
  'distillation': Case('distillation'),
  'bnpo': grpo({}),
  'grpo': grpo(
    {'loss_type': 'grpo', 'beta': 0.2},
    aggregation='sequence_mean',
    kl='k3',
    kl_coefficient=0.2,
    kl_unbiased=True,
  ),
  'kl_of_estimates': grpo(
    {'beta': 0.2, 'use_bias_correction_kl': False}, kl='k3', kl_coefficient=0.2
  ),
  'dr_grpo': grpo(
    {'loss_type': 'dr_grpo', 'scale_rewards': 'none'},
    aggregation='constant_length',
    constant_length=COMPLETION,
  ),
  'dapo': grpo({'loss_type': 'dapo', 'epsilon_high': 0.28}, clip_high=0.28),
  'gspo': grpo(
    {
      'loss_type': 'grpo',
      'importance_sampling_level': 'sequence',
      'epsilon': 0.03,
      'epsilon_high': 0.04,
    },
    ratio='sequence',
    aggregation='sequence_mean',
    clip_low=0.03,
    clip_high=0.04,
  ),
  'sequence_ratio_of_tokens': grpo({'importance_sampling_level': 'sequence'}, ratio='sequence'),
  'dual_clip': grpo({'delta': 1.5}, clip='dual', dual_clip=1.5),
  'temperature': grpo({'temperature': 0.6}, temperature=0.6),
  'truncated': grpo({}, correction='truncate', correction_cap=1.3),
  'masked': grpo({}, correction='mask', correction_cap=1.3),
  'entropy_bonus': grpo({'entropy_coef': 0.1}, entropy_bonus=0.1),
  'everything': grpo(
    {
      'loss_type': 'dapo',
      'epsilon': 0.1,
      'epsilon_high': 0.3,
      'delta': 1.6,
      'beta': 0.1,
      'entropy_coef': 0.05,
      'temperature': 1.3,
    },
    clip='dual',
    clip_low=0.1,
    clip_high=0.3,
    dual_clip=1.6,
    kl='k3',
    kl_coefficient=0.1,
    kl_unbiased=True,
    entropy_bonus=0.05,
    correction='truncate',
    correction_cap=1.2,
    temperature=1.3,
  ),
  'rloo': Case(
    'rloo',
    PolicyGradient(ratio='trajectory', aggregation='sequence_mean'),
    {'per_device_train_batch_size': ROWS, 'num_generations': 2, 'beta': 0.0},
  ),
}


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
  """Prompts padded on the left, completions on the right; rows 2i and 2i + 1 share a prompt."""
  rng = np.random.default_rng(seed)
  shape, mask, attended = (
    (ROWS, PROMPT + COMPLETION),
    np.zeros((ROWS, PROMPT + COMPLETION)),
    np.zeros((ROWS, PROMPT + COMPLETION)),
  )
  tokens = rng.integers(3, CONFIG.vocab_size, shape)
  for row, (prompt, length) in enumerate([(5, 7), (5, 3), (2, 1), (2, 6)]):
    attended[row, PROMPT - prompt : PROMPT + length] = mask[row, PROMPT : PROMPT + length] = 1
    tokens[row, :PROMPT] = tokens[row // 2 * 2, :PROMPT]

  def near(sd):
    return rng.normal(-2.9, sd, shape)

  return {
    'tokens': tokens.astype(np.int32),
    'segment_ids': attended.astype(np.int32),
    'mask': mask.astype(np.float32),
    'prompt_length': np.array(PROMPT, np.int32),
    'advantages': np.repeat(rng.normal(size=(ROWS, 1)), shape[1], axis=1).astype(np.float32),
    'old_logprobs': near(0.4).astype(np.float32),
    'ref_logprobs': near(0.6).astype(np.float32),
    'sampler_logprobs': near(0.5).astype(np.float32),
  }


def our_loss(
  case: Case, structure, params, reference, batch: dict[str, np.ndarray], chunk: int = 0
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(loss, gradient by every parameter); reference: parameters of the reference or the teacher."""
  batch, reference = jax.tree.map(jnp.asarray, (batch, reference))
  wanted = batch['mask']

  def loss(p):
    model = structure.bind(p)
    if case.do == 'sft':
      return sft_loss(
        token_stats(model, batch['tokens'], batch['segment_ids'], mask_bt=wanted, chunk=chunk)[0],
        {'mask': wanted, 'weights': wanted / wanted.sum()},
        Loss(),
      )[0]
    if case.do == 'distillation':
      teacher = structure.bind(reference)
      hidden = tuple(m.hidden(batch['tokens'], batch['segment_ids'])[0] for m in (model, teacher))
      kl = per_token(
        lambda h, _: reverse_kl(model.logits(h[0]), teacher.logits(h[1])),
        hidden,
        batch['tokens'],
        wanted,
        chunk,
      )
      return distillation_loss(kl, {'mask': wanted, 'weights': wanted / wanted.sum()})[0]
    stats, _ = token_stats(
      model,
      batch['tokens'],
      batch['segment_ids'],
      mask_bt=wanted,
      temperature=getattr(case.ours, 'temperature', 1.0),
      chunk=chunk,
    )
    if case.do == 'dpo':
      ref = token_stats(
        structure.bind(reference),
        batch['tokens'],
        batch['segment_ids'],
        mask_bt=wanted,
        chunk=chunk,
      )[0].logprobs
      return dpo_loss(
        stats.logprobs,
        {'mask': wanted, 'ref_logprobs': ref, 'pair_weights': jnp.full(ROWS, 2 / ROWS)},
        case.ours,
      )[0]
    return policy_gradient_loss(
      stats.logprobs,
      stats.entropy,
      batch | {'weights': aggregation_weights(wanted, case.ours)},
      case.ours,
    )[0]

  return jax.jit(jax.value_and_grad(loss))(params)


def correction(case: Case, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """What TRL is told of the sampler, where a case corrects for it."""
  if getattr(case.ours, 'correction', 'none') == 'none':
    return {}
  return {
    'correction': np.asarray(
      correction_weights(
        jnp.asarray(batch['old_logprobs']), jnp.asarray(batch['sampler_logprobs']), case.ours
      )
    )
  }


def assert_theirs(
  case: Case,
  structure,
  params,
  reference,
  batch: dict[str, np.ndarray],
  theirs: dict[str, np.ndarray],
) -> None:
  """Our loss is within 1e-5 of TRL's, and each gradient that TRL gave within 1e-4 of its largest
  entry.
  """
  value, gradients = our_loss(case, structure, params, reference, batch)
  np.testing.assert_allclose(value, theirs['loss'][0], rtol=1e-5, atol=1e-6)
  compared = checkpoint.canonical(
    {name.removeprefix('grad.'): g for name, g in theirs.items() if name.startswith('grad.')}
  )
  assert len(compared) >= len(SHOWN) and any(np.abs(g).max() > 1e-3 for g in compared.values())
  for name, gradient in gradients.items():
    if (hf_name := checkpoint.hf_name(name, CONFIG)) in compared:
      ours, expected = checkpoint.to_hf(name, np.asarray(gradient)), compared.pop(hf_name)
      np.testing.assert_allclose(
        ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-8, err_msg=name
      )
  assert not compared
