"""The memory that a training run takes on each device, from shapes alone.

State is exact: the real parameters' shapes, the rules' partitions, and the real Optax
transformation. Activations are an estimate: one block of each kind is traced at the size that a
device holds; what its backward pass keeps is counted and multiplied by the number of such blocks.
To that come the blocks' inputs, and the larger of two: what the loss over the vocabulary takes, or
the gradients and what differentiating the largest block takes, its weights gathered.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models import lora, remat, scan_layers
from aevo_jax.models.config import REMAT_ALIASES, REMAT_POLICIES, ModelConfig
from aevo_jax.models.decoder import Block, Decoder
from aevo_jax.models.kernels import flash_attention
from aevo_jax.models.kernels.platform import target_platform
from aevo_jax.models.layers.attention import Attention
from aevo_jax.models.layers.moe import MoE
from aevo_jax.models.params import abstract, is_adapter, logical_axes, unbind
from aevo_jax.sharding.memory import device_bytes, kept_bytes
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.losses.sft import Loss, sft_loss
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import shapes_of, state_specs
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.tokens.token_logprobs import per_token
from aevo_jax.training.tokens.token_stats import of_logits


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes per device, except for `count`.

  Attributes:
    count: number of all parameters.
    parameters: trained ones.
    frozen: the other ones.
    gradients: of the trained parameters.
    optimizer: its state.
    moving_average: of the trained parameters.
    activations: remat policy -> part -> bytes.
  """

  count: int
  parameters: int
  frozen: int
  gradients: int
  optimizer: int
  moving_average: int
  activations: dict[str, dict[str, int]]

  def temporary(self, policy: str) -> int:
    """Counts what a step takes beside the state, at most at a time.

    The loss over the vocabulary is done when the blocks' backward passes begin, and gradients are
    made there.

    Args:
      policy: remat policy of the activations.

    Returns:
      Bytes on each device.
    """
    parts = self.activations[REMAT_ALIASES.get(policy, policy)]
    throughout = sum(
      parts[name]
      for name in (
        'block inputs',
        'kept in blocks',
        'weights in compute dtype',
        'weights transposed',
      )
    )
    in_loss = parts['loss'] + parts['gathered head']
    return throughout + max(in_loss, self.gradients + parts['largest block'])

  def total(self, policy: str) -> int:
    """Adds up what a step takes, at most at a time.

    Args:
      policy: remat policy of the activations.

    Returns:
      Bytes on each device.
    """
    state = self.parameters + self.frozen + self.optimizer + self.moving_average
    return state + self.temporary(policy)


def estimate_memory(
  config: ModelConfig,
  recipe: Recipe,
  layout: Layout,
  *,
  rows: int,
  row_length: int,
  platform: str = '',
) -> MemoryEstimate:
  """Estimates what a recipe takes on each device.

  Args:
    config: of the model.
    recipe: adaptation, optimizer, moving average, microbatches and chunks of logits.
    layout: rules on a mesh.
    rows: of a batch, over all devices.
    row_length: tokens of a row.
    platform: 'cpu', 'gpu' or 'tpu', whose kernels the model is computed with; '' is this machine's.

  Returns:
    The estimate.

  Raises:
    ValueError: the rules do not divide the parameters or the batch.
  """
  layout.check_batch(rows, row_length)
  model = shapes_of(config, recipe.adaptation, recipe.lora)
  trained = layout.padded_shapes(model.trained, model.axes)
  frozen = layout.padded_shapes(model.frozen, model.axes)
  shapes = trained | frozen
  specs = layout.parameter_specs(shapes, model.axes)

  def on_device(tree: Any) -> int:
    return device_bytes(tree, state_specs(tree, shapes, specs), dict(layout.sizes))

  parameters = on_device(trained)
  in_compute_dtype = _in_dtype(
    {name: shape for name, shape in shapes.items() if shape.dtype != config.compute_dtype},
    config.compute_dtype,
  )
  anew = {name: shapes[name] for name in _transposed(shapes, model.axes, layout, platform)}
  copies = on_device(in_compute_dtype)
  transposed = on_device(_in_dtype(anew, config.compute_dtype))
  batch = _Batch(rows, row_length, platform)
  return MemoryEstimate(
    count=sum(math.prod(shape.shape) for shape in (model.trained | model.frozen).values()),
    parameters=parameters,
    frozen=on_device(frozen),
    gradients=parameters * (2 if recipe.train.microbatches > 1 else 1),
    optimizer=on_device(jax.eval_shape(transformation(recipe.optimizer).init, trained)),
    moving_average=parameters if recipe.train.ema_decay else 0,
    activations=_activations(config, recipe, layout, batch, _Copies(copies, transposed)),
  )


def _in_dtype(shapes: dict[str, Any], dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes in another dtype."""
  return {
    name: jax.ShapeDtypeStruct(shape.shape, jnp.dtype(dtype)) for name, shape in shapes.items()
  }


def _transposed(
  shapes: Mapping[str, Any], axes: Mapping[str, tuple[str, ...]], layout: Layout, platform: str
) -> list[str]:
  """Names the weights of which XLA's GPU compiler keeps a transposed copy.

  It collects an array along its first dimension in memory. Where a scanned weight is to be
  collected along another one, all layers' are transposed before the loop. Experts' are written out
  (`context.over_experts`).
  """
  if (platform or target_platform()) != 'gpu':
    return []
  token_axes = set(_token_axes(layout))
  named = []
  for name in shapes:
    if not scan_layers.is_stacked(name) or 'experts' in axes[name]:
      continue
    behind_first = axes[name][2:]
    if any(token_axes & set(layout.mesh_axes(axis)) for axis in behind_first):
      named.append(name)
  return named


class _Copies(NamedTuple):
  """Bytes of copies of weights: in the dtype of the computation, and transposed."""

  in_compute_dtype: int
  transposed: int


@dataclasses.dataclass(frozen=True)
class _Batch:
  rows: int
  row_length: int
  platform: str


def _activations(
  config: ModelConfig, recipe: Recipe, layout: Layout, batch: _Batch, copies: _Copies
) -> dict[str, dict[str, int]]:
  """Returns policy -> part -> bytes."""
  rows = max(1, batch.rows // (layout.shards('batch') * recipe.train.microbatches))
  length_shards = layout.shards('length')
  dtype = jnp.dtype(config.compute_dtype)
  # Traced with whole rows and then divided: a token's scores go over the whole row wherever it
  # lies.
  x_btd = jax.ShapeDtypeStruct((rows, batch.row_length, config.hidden_size), dtype)
  kinds = tuple(dict.fromkeys(config.pattern))
  kept = _kept_by_kind(config, recipe, layout, x_btd, batch)
  weights = _gathered(_adapted_blocks(config, recipe), layout)
  vocab = -(-config.vocab_size // layout.width_shards('vocab'))
  chunk = recipe.train.logits_chunk
  chunked = 0 < chunk < batch.row_length
  gradient_size = 4 if layout.gradient_reduction == 'float32' else dtype.itemsize
  positions = (chunk if chunked else batch.row_length) // length_shards
  logits = jax.ShapeDtypeStruct((rows, positions, vocab), jnp.float32)
  inputs = len(config.pattern) * math.prod(x_btd.shape) * dtype.itemsize // length_shards
  loss = _loss_bytes(logits)
  head = config.hidden_size * vocab * dtype.itemsize if chunked else 0
  parts = {}
  for policy in REMAT_POLICIES:
    recomputes = policy != 'none'
    largest = 0
    for kind in kinds:
      # What is computed again, and the weights with their gradient, each whole.
      block = recomputes * kept['none'][kind] + (dtype.itemsize + gradient_size) * weights[kind]
      largest = max(largest, block)
    parts[policy] = {
      'block inputs': inputs,
      'kept in blocks': sum(kept[policy][kind] for kind in config.pattern),
      'weights in compute dtype': 0 if recomputes else copies.in_compute_dtype,
      'weights transposed': copies.transposed,
      'largest block': largest,
      'loss': loss,
      'gathered head': head,
    }
  return parts


def _token_axes(layout: Layout) -> tuple[str, ...]:
  return layout.mesh_axes('batch') + layout.mesh_axes('length')


def _on_one_device(config: ModelConfig, layout: Layout) -> ModelConfig:
  """Returns the model as wide as a device computes it."""
  heads = layout.width_shards('heads')
  mlp = layout.width_shards('mlp')
  mamba = layout.width_shards('mamba_inner')
  local_heads = -(-config.num_attention_heads // heads)
  # A key head that several devices share is whole on each.
  local_key_heads = -(-config.num_key_value_heads // heads)
  while local_heads % local_key_heads:
    local_key_heads += 1
  groups = max(1, config.n_groups // mamba)
  return dataclasses.replace(
    config,
    num_attention_heads=local_heads,
    num_key_value_heads=local_key_heads,
    intermediate_size=-(-config.intermediate_size // mlp),
    moe_intermediate_size=-(-config.moe_intermediate_size // mlp),
    moe_shared_expert_intermediate_size=-(-config.moe_shared_expert_intermediate_size // mlp),
    mamba_num_heads=-(-config.mamba_num_heads // (mamba * groups)) * groups,
    n_groups=groups,
  )


def _adapted_blocks(config: ModelConfig, recipe: Recipe) -> Decoder:
  """Builds an abstract decoder with blocks of every kind of the pattern, and adapters."""
  # A beginning: what a family allows as a whole it may not allow in another order.
  blocks = max(config.pattern.index(kind) for kind in set(config.pattern)) + 1
  model = abstract(dataclasses.replace(config, pattern=config.pattern[:blocks]))
  if recipe.adaptation.method == 'lora':
    adapter = recipe.lora
    lora.attach(
      model, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets, seed=0, shapes=True
    )
  return model


def _with_kernels(model: Decoder, layout: Layout, batch: _Batch) -> Decoder:
  """Puts what stands for the kernel of attention in its place, where the platform has one."""
  config = model.config
  implementation = flash_attention.chosen(
    config.attention_implementation,
    config.compute_dtype,
    head_dim=config.head_dim,
    length=batch.row_length,
    whole=not layout.mesh_axes('length'),
    platform=batch.platform,
  )
  if implementation != 'einsum':
    for layer in model.layers:
      if isinstance(layer.mixer, Attention):
        layer.mixer.implementation = flash_attention.SHAPES
  return model


def _kept_by_kind(
  config: ModelConfig,
  recipe: Recipe,
  layout: Layout,
  x_btd: jax.ShapeDtypeStruct,
  batch: _Batch,
) -> dict[str, dict[str, int]]:
  """Returns policy -> kind -> bytes that one block keeps on a device."""
  blocks = _adapted_blocks(_on_one_device(config, layout), recipe)
  model = _with_kernels(blocks, layout, batch)
  token_axes = _token_axes(layout)
  sizes = dict(layout.sizes)
  collected = math.prod(sizes[axis] for axis in layout.mesh_axes('experts') if axis in token_axes)
  length_shards = layout.shards('length')
  kept = {}
  for policy in REMAT_POLICIES:
    kept[policy] = {
      kind: _kept_in_block(model, kind, x_btd, policy, collected) // length_shards
      for kind in dict.fromkeys(config.pattern)
    }
  return kept


def _kept_in_block(
  model: Decoder, kind: str, x_btd: jax.ShapeDtypeStruct, policy: str, collected: int
) -> int:
  """Returns the bytes that a block keeps.

  Its experts see the tokens of `collected` devices. What they keep is a device's times that, and
  grows with experts per token.
  """
  block = model.layers[model.config.pattern.index(kind)]
  if kind != 'E':
    return _kept(block, x_btd, policy)
  if model.config.num_experts_per_tok < 2:
    return _kept(block, x_btd, policy) * collected
  mixer = block.mixer
  assert isinstance(mixer, MoE), 'an E block has experts'
  kept = {}
  for experts in (1, 2):
    mixer.gate.config = dataclasses.replace(model.config, num_experts_per_tok=experts)
    kept[experts] = _kept(block, x_btd, policy)
  one_expert = kept[2] - kept[1]
  return kept[1] - one_expert + collected * model.config.num_experts_per_tok * one_expert


def _kept(block: Block, x_btd: jax.ShapeDtypeStruct, policy: str) -> int:
  graphdef, state = nnx.split(block)
  paths = {}
  trained = {}
  frozen = {}
  for path, variable in nnx.to_flat_state(state):
    name = '.'.join(str(part) for part in path)
    value = variable.get_value()
    paths[name] = path
    trained[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
  if any(is_adapter(name) for name in trained):
    frozen = {name: value for name, value in trained.items() if not is_adapter(name)}
    trained = {name: value for name, value in trained.items() if is_adapter(name)}
  segment_ids = jnp.ones(x_btd.shape[:2], jnp.int32)

  def forward(frozen, params, x):
    values = frozen | params
    flat = {path: nnx.Param(values[name]) for name, path in paths.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))(x, segment_ids)[0]

  return kept_bytes(remat.apply(policy, forward), frozen, trained, x_btd)


def _gathered(model: Decoder, layout: Layout) -> dict[str, int]:
  """Counts the numbers of one block's weights as a device multiplies them, by kind of block.

  They are cut along other mesh axes than rows, and by experts.
  """
  counts = {}
  for kind in dict.fromkeys(model.config.pattern):
    block = model.layers[model.config.pattern.index(kind)]
    axes = logical_axes(block)
    counts[kind] = 0
    for name, value in unbind(block)[1].items():
      shards = 1
      for axis in axes[name]:
        shards *= layout.shards(axis) if axis == 'experts' else layout.width_shards(axis)
      counts[kind] += math.prod(value.shape) // shards
  return counts


def _loss_bytes(logits_btv: jax.ShapeDtypeStruct) -> int:
  """Returns the bytes of what the loss of logits keeps, and of their gradient."""
  tokens = jnp.ones(logits_btv.shape[:2], jnp.int32)
  weights = tokens.astype(jnp.float32)

  def loss(frozen, params, logits):
    stats = per_token(of_logits, logits, tokens, weights)
    return sft_loss(stats, {'weights': weights}, Loss())[0]

  kept = kept_bytes(loss, {}, {}, logits_btv)
  return kept + math.prod(logits_btv.shape) * logits_btv.dtype.itemsize
