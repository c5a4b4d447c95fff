"""The model's shape, in the terms of Nemotron-H's config.json.

Its family is the one whose spelling its checkpoints have.
"""

import dataclasses
import math
from typing import Annotated

from annotated_types import Ge

from aevo_jax.config.configurables import configurable
from aevo_jax.config.constraints import OneOf, ReadWhen, holding
from aevo_jax.models.families import registry

BLOCKS = {'M': 'mamba', '*': 'attention', '-': 'mlp', 'E': 'moe'}
DTYPES = ('float32', 'bfloat16')
MOE_IMPLEMENTATIONS = ('auto', 'tiled', 'ragged_dot', 'mosaic')
ATTENTION_IMPLEMENTATIONS = ('auto', 'einsum', 'mosaic', 'splash')
REMAT_POLICIES = ('none', 'dots', 'minimal', 'block')
# MaxText's names of the same, and what is like 'minimal' on the device.
REMAT_ALIASES = {'full': 'block', 'minimal_with_context': 'dots', 'minimal_offloaded': 'minimal'}
ACTIVATIONS = ('relu2', 'swiglu')
ROUTERS = ('sigmoid', 'softmax')
# How a model is computed: to be chosen anew whatever the checkpoint.
EXECUTION = (
  'compute_dtype',
  'attention_implementation',
  'moe_implementation',
  'remat_policy',
  'scan',
)

_ATTENTION = ReadWhen(holding('model.pattern', '*'))
_MLP = ReadWhen(holding('model.pattern', '-'))
_MAMBA = ReadWhen(holding('model.pattern', 'M'))
_MOE = ReadWhen(holding('model.pattern', 'E'))
_MLP_OR_MOE = ReadWhen(holding('model.pattern', '-'), holding('model.pattern', 'E'))
_Size = Annotated[int, Ge(1)]
_SizeOrNone = Annotated[int, Ge(0)]  # 0 stands for none


@configurable('model')
@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder. Defaults are the micro model, a Nemotron-H.

  Attributes:
    family: whose names and config.json its checkpoints have (`families`); what a family has no
      words for is refused.
    pattern: one character per block: M mamba-2, * attention, - dense MLP, E mixture of experts
      (Nemotron-H's hybrid_override_pattern).
    rope_theta: base of the rotary positions in attention; 0 is attention without positions.
    qk_norm: every head's queries and keys pass an RMSNorm, before they are rotated.
    sliding_window: a token attends to so many tokens, itself included; 0 to all before it.
    attention_implementation: see `flash_attention`; changes memory and speed, not results.
    attention_bias, mlp_bias, use_bias, use_conv_bias: biases of attention, of MLPs and experts'
      shared parts, of mamba's projections and convolution.
    time_step_low, time_step_high: mamba's dt is cut to this range (time_step_limit).
    mlp_activation: of MLPs and experts: 'relu2', down(relu(up(x))^2), or 'swiglu',
      down(silu(gate(x)) * up(x)).
    chunk_size: length of the blocks of the chunked SSD scan; changes speed, not results.
    n_routed_experts, num_experts_per_tok: experts of an E block, and how many of them a token goes
      to.
    moe_intermediate_size, moe_shared_expert_intermediate_size: widths of a routed and of the shared
      expert; 0 is no shared expert.
    router: how a token scores experts: 'sigmoid', each alone, with a bias for the choice, or
      'softmax', all together.
    moe_latent_size: routed experts work in a projection of this width; 0 works in hidden_size.
    n_group, topk_group: experts are chosen from the topk_group best of n_group groups.
    moe_implementation: see `grouped_matmul`; changes speed, not results.
    norm_topk_prob, routed_scaling_factor: the chosen experts' weights sum to 1 before they are
      scaled by the factor.
    tie_word_embeddings: the embedding is the output head too.
    compute_dtype: of activations and matrix products; parameters that are trained are float32.
    remat_policy: what the forward pass keeps for the backward pass, see `remat`; changes memory and
      speed, not results.
    scan: blocks that repeat are compiled once and looped over, see `scan_layers`; changes compile
      time and the names of parameters while training.
  """

  family: Annotated[str, OneOf(tuple(registry.FAMILIES))] = 'nemotron_h'
  vocab_size: _Size = 122
  hidden_size: _Size = 128
  pattern: str = 'M-*-M-*-'
  num_attention_heads: Annotated[_Size, _ATTENTION] = 4
  num_key_value_heads: Annotated[_Size, _ATTENTION] = 2
  head_dim: Annotated[_Size, _ATTENTION] = 32
  rope_theta: Annotated[float, _ATTENTION] = 0.0
  qk_norm: Annotated[bool, _ATTENTION] = False
  sliding_window: Annotated[_SizeOrNone, _ATTENTION] = 0
  attention_bias: Annotated[bool, _ATTENTION] = False
  attention_implementation: Annotated[str, OneOf(ATTENTION_IMPLEMENTATIONS), _ATTENTION] = 'auto'
  intermediate_size: Annotated[_Size, _MLP] = 512
  mlp_bias: Annotated[bool, _MLP_OR_MOE] = False
  mlp_activation: Annotated[str, OneOf(ACTIVATIONS), _MLP_OR_MOE] = 'relu2'
  mamba_num_heads: Annotated[_Size, _MAMBA] = 4
  mamba_head_dim: Annotated[_Size, _MAMBA] = 32
  n_groups: Annotated[_Size, _MAMBA] = 1
  ssm_state_size: Annotated[_Size, _MAMBA] = 32
  conv_kernel: Annotated[_Size, _MAMBA] = 4
  use_bias: Annotated[bool, _MAMBA] = False
  use_conv_bias: Annotated[bool, _MAMBA] = True
  time_step_low: Annotated[float, _MAMBA] = 0.0
  time_step_high: Annotated[float, _MAMBA] = math.inf
  chunk_size: Annotated[_Size, _MAMBA] = 64
  n_routed_experts: Annotated[_Size, _MOE] = 8
  num_experts_per_tok: Annotated[_Size, _MOE] = 2
  moe_intermediate_size: Annotated[_Size, _MOE] = 128
  moe_shared_expert_intermediate_size: Annotated[_SizeOrNone, _MOE] = 128
  moe_latent_size: Annotated[_SizeOrNone, _MOE] = 0
  router: Annotated[str, OneOf(ROUTERS), _MOE] = 'sigmoid'
  n_group: Annotated[_Size, _MOE] = 1
  topk_group: Annotated[_Size, _MOE] = 1
  norm_topk_prob: Annotated[bool, _MOE] = True
  routed_scaling_factor: Annotated[float, _MOE] = 1.0
  moe_implementation: Annotated[str, OneOf(MOE_IMPLEMENTATIONS), _MOE] = 'auto'
  layer_norm_epsilon: float = 1e-5
  max_position_embeddings: _Size = 2048
  tie_word_embeddings: bool = False
  compute_dtype: Annotated[str, OneOf(DTYPES)] = 'float32'
  remat_policy: Annotated[str, OneOf((*REMAT_POLICIES, *REMAT_ALIASES))] = 'none'
  scan: bool = False

  def __post_init__(self):
    self._check_pattern()
    self._check_attention()
    self._check_mamba()
    self._check_experts()
    self._check_positions()
    refused = registry.refusals(vars(self))
    if refused:
      raise ValueError(
        f'model.family = {self.family!r} has no words for what the model is told to be: '
        f'{", ".join(refused)}'
      )

  def _check_pattern(self) -> None:
    wrong = sorted(set(self.pattern) - set(BLOCKS))
    if wrong or not self.pattern:
      raise ValueError(
        f'model.pattern {self.pattern!r} may hold only {sorted(BLOCKS)}; found {wrong or "nothing"}'
      )

  def _check_attention(self) -> None:
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(
        f'model.num_attention_heads ({self.num_attention_heads}) must be a multiple of '
        f'num_key_value_heads ({self.num_key_value_heads})'
      )

  def _check_mamba(self) -> None:
    if self.mamba_num_heads % self.n_groups:
      raise ValueError(
        f'model.mamba_num_heads ({self.mamba_num_heads}) must be a multiple of n_groups '
        f'({self.n_groups})'
      )
    if not 0 <= self.time_step_low < self.time_step_high:
      raise ValueError(
        'model.time_step_low must be >= 0 and below time_step_high, got '
        f'{self.time_step_low} and {self.time_step_high}'
      )

  def _check_experts(self) -> None:
    if self.n_routed_experts % self.n_group or self.topk_group > self.n_group:
      raise ValueError(
        f'model.n_routed_experts ({self.n_routed_experts}) must be a multiple of n_group '
        f'({self.n_group}), and topk_group ({self.topk_group}) '
        'no more than n_group'
      )
    eligible = self.n_routed_experts // self.n_group * self.topk_group
    if self.num_experts_per_tok > eligible:
      raise ValueError(
        f'model.num_experts_per_tok ({self.num_experts_per_tok}) must not exceed the '
        f'{eligible} experts of topk_group groups'
      )

  def _check_positions(self) -> None:
    if self.rope_theta < 0 or (self.rope_theta and self.head_dim % 2):
      raise ValueError(
        f'model.rope_theta must be >= 0, and 0 unless head_dim ({self.head_dim}) is even, '
        f'got {self.rope_theta}'
      )

  @property
  def mamba_inner(self) -> int:
    """The width of all mamba heads together."""
    return self.mamba_num_heads * self.mamba_head_dim

  @property
  def conv_width(self) -> int:
    """The channels that pass through the convolution: x, B and C."""
    return self.mamba_inner + 2 * self.n_groups * self.ssm_state_size
