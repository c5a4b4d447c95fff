"""The model's shape, in Nemotron-H's terms."""

import dataclasses

from aevo_jax.config.configurables import configurable

BLOCKS = {'M': 'mamba', '*': 'attention', '-': 'mlp'}
DTYPES = ('float32', 'bfloat16')


@configurable('model')
@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Nemotron-H decoder. Defaults are the micro model.

  Attributes:
    pattern: one character per block: M mamba-2, * attention, - dense relu^2 MLP (Hugging Face's hybrid_override_pattern).
    chunk_size: length of the blocks of the chunked SSD scan; changes speed, not results.
    compute_dtype: of activations and matrix products; parameters are float32.
  """

  vocab_size: int = 122
  hidden_size: int = 128
  pattern: str = 'M-*-M-*-'
  num_attention_heads: int = 4
  num_key_value_heads: int = 2
  head_dim: int = 32
  intermediate_size: int = 512
  mamba_num_heads: int = 4
  mamba_head_dim: int = 32
  n_groups: int = 1
  ssm_state_size: int = 32
  conv_kernel: int = 4
  chunk_size: int = 64
  layer_norm_epsilon: float = 1e-5
  max_position_embeddings: int = 2048
  compute_dtype: str = 'float32'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise ValueError(f'model.{field.name} must be >= 1, got {getattr(self, field.name)}')
    wrong = sorted(set(self.pattern) - set(BLOCKS))
    if wrong or not self.pattern:
      raise ValueError(f'model.pattern {self.pattern!r} may hold only {sorted(BLOCKS)}; found {wrong or "nothing"}')
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(f'model.num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads ({self.num_key_value_heads})')
    if self.mamba_num_heads % self.n_groups:
      raise ValueError(f'model.mamba_num_heads ({self.mamba_num_heads}) must be a multiple of n_groups ({self.n_groups})')
    if self.compute_dtype not in DTYPES:
      raise ValueError(f'model.compute_dtype must be one of {DTYPES}, got {self.compute_dtype!r}')

  @property
  def mamba_inner(self) -> int:
    return self.mamba_num_heads * self.mamba_head_dim

  @property
  def conv_width(self) -> int:
    """Channels that pass through the convolution: x, B and C."""
    return self.mamba_inner + 2 * self.n_groups * self.ssm_state_size
