"""Floating-point operations that a training step cannot do without, from shapes alone.

What a compiler adds (recomputation, masked scores, experts a token does not go to) is not in it, so
that compiled over useful operations shows waste, and useful operations over time and peak are the
model FLOPs utilisation (MFU) of PaLM (2204.02311, appendix B).
"""

import math

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import is_adapter, is_router_bias
from aevo_jax.training.placement import shapes_of
from aevo_jax.training.recipe.recipe import Recipe

_FORWARD = 2  # a multiplication and an addition for each weight and token


def useful_flops(config: ModelConfig, recipe: Recipe, *, rows: int, row_length: int) -> float:
  """Counts the operations of one training step on full rows.

  A weight that is trained takes three products a token (forward, gradient of the input, gradient of
  the weight), a frozen one two, an expert's weights those of the tokens that go to it. Attention's
  products count for the tokens that one attends to, mamba's scan as its recurrence, both three
  times. Lookups, norms and activations do not count.

  Args:
    config: of the model.
    recipe: its adaptation decides which weights are trained.
    rows: of the batch.
    row_length: tokens of a row, of one segment.

  Returns:
    Operations of the whole step, on all devices together.
  """
  shapes = shapes_of(config, recipe.adaptation, recipe.lora)
  per_token = 0.0
  for name, shape in (shapes.trained | shapes.frozen).items():
    axes = shapes.axes[name]
    if not _is_multiplied(name, axes, config):
      continue
    products = 3 if name in shapes.trained else 2
    size = math.prod(shape.shape)
    if 'experts' in axes and axes[-1] != 'experts':  # stacked experts; a router ends with that axis
      size *= config.num_experts_per_tok / config.n_routed_experts
    per_token += products * _FORWARD * size
  per_token += 3 * _mixing(config, row_length)
  return per_token * rows * row_length


def _is_multiplied(name: str, axes: tuple[str, ...], config: ModelConfig) -> bool:
  """Tells whether every token is multiplied with a parameter as a matrix."""
  if is_router_bias(name) or name.split('.')[-1] == 'bias':
    return False
  if name == 'embedding':
    return config.tie_word_embeddings
  return is_adapter(name) or len([axis for axis in axes if axis != 'layers']) > 1


def _mixing(config: ModelConfig, row_length: int) -> float:
  """Counts a token's forward operations in attention's two products and mamba's recurrence."""
  window = min(config.sliding_window or row_length, row_length)
  # The first `window` tokens attend to 1, 2, ... tokens, the others to `window`.
  visible = window - window * (window - 1) / (2 * row_length)
  attention = 2 * _FORWARD * config.num_attention_heads * config.head_dim * visible
  mamba = 2 * _FORWARD * config.mamba_inner * config.ssm_state_size
  return config.pattern.count('*') * attention + config.pattern.count('M') * mamba
