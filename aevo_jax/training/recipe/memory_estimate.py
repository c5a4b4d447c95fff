"""What a training run takes on each device, from shapes alone: parameters, gradients, optimizer
state, and activations by remat policy.

State is exact: the real parameters' shapes, the rules' partitions, and the real Optax
transformation. Activations are an estimate: one block of each kind is traced at the size that a
device holds, what its backward pass keeps is counted and multiplied by the number of such blocks.
To that come the blocks' inputs, what recomputing or differentiating the largest block takes at
once, its weights gathered, and the loss over the vocabulary.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from aevo_jax.models import lora, remat
from aevo_jax.models.config import REMAT_POLICIES, ModelConfig
from aevo_jax.models.decoder import Block, Decoder
from aevo_jax.models.params import abstract, is_adapter, logical_axes, unbind
from aevo_jax.sharding.memory import device_bytes, kept_bytes
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.losses.sft import sft_loss
from aevo_jax.training.optimizer import transformation
from aevo_jax.training.placement import shapes_of, state_specs
from aevo_jax.training.recipe.recipe import Recipe
from aevo_jax.training.token_logprobs import of_logits, per_token


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Bytes per device, but for `count`, the number of all parameters. activations: {remat policy:
  {part: bytes}}.
  """

  count: int
  parameters: int
  frozen: int
  gradients: int
  optimizer: int
  moving_average: int
  activations: dict[str, dict[str, int]]

  def total(self, policy: str) -> int:
    return (
      self.parameters
      + self.frozen
      + self.gradients
      + self.optimizer
      + self.moving_average
      + sum(self.activations[policy].values())
    )


def footprint(
  config: ModelConfig, recipe: Recipe, layout: Layout, *, rows: int, row_length: int
) -> Footprint:
  """What `recipe` takes on each device, on batches of `rows` rows of `row_length` tokens.

  Raises:
    ValueError: the rules do not divide the parameters or the batch.
  """
  layout.check_batch(rows, row_length)
  trained, frozen, axes = shapes_of(config, recipe.adaptation, recipe.lora)
  shapes, sizes = trained | frozen, dict(layout.sizes)
  specs = layout.parameter_specs(shapes, axes)
  on_device = lambda tree: device_bytes(tree, state_specs(tree, shapes, specs), sizes)
  parameters = on_device(trained)
  in_compute_dtype = {
    name: jax.ShapeDtypeStruct(shape.shape, jnp.dtype(config.compute_dtype))
    for name, shape in shapes.items()
    if shape.dtype != config.compute_dtype
  }
  return Footprint(
    count=sum(math.prod(shape.shape) for shape in shapes.values()),
    parameters=parameters,
    frozen=on_device(frozen),
    gradients=parameters,
    optimizer=on_device(jax.eval_shape(transformation(recipe.optimizer).init, trained)),
    moving_average=parameters if recipe.train.ema_decay else 0,
    activations=_activations(config, recipe, layout, rows, row_length, on_device(in_compute_dtype)),
  )


def _activations(
  config: ModelConfig,
  recipe: Recipe,
  layout: Layout,
  rows: int,
  row_length: int,
  weight_copies: int,
) -> dict[str, dict[str, int]]:
  """{policy: {part: bytes}}."""
  batch, cut, dtype = (
    rows // layout.shards('batch'),
    layout.shards('length'),
    jnp.dtype(config.compute_dtype),
  )
  # Traced with whole rows and then divided: a token's scores go over the whole row wherever it
  # lies.
  x_btd = jax.ShapeDtypeStruct((batch, row_length, config.hidden_size), dtype)
  model = _adapted(_on_one_device(config, layout), recipe)
  kinds = tuple(dict.fromkeys(config.pattern))
  sizes = dict(layout.sizes)
  collected = math.prod(
    sizes[axis] for axis in layout.mesh_axes('experts') if axis in _token_axes(layout)
  )
  kept = {
    (kind, policy): _kept_in_block(model, kind, x_btd, policy, collected) // cut
    for kind in kinds
    for policy in REMAT_POLICIES
  }
  weights = _gathered(_adapted(config, recipe), layout)
  logits = jax.ShapeDtypeStruct(
    (batch, row_length, config.vocab_size // _width_shards(layout, 'vocab')), jnp.float32
  )
  parts = {}
  for policy in REMAT_POLICIES:
    again = policy != 'none'
    parts[policy] = {
      'block inputs': len(config.pattern) * math.prod(x_btd.shape) * dtype.itemsize // cut,
      'kept in blocks': sum(kept[kind, policy] for kind in config.pattern),
      'weights in compute dtype': 0 if again else weight_copies,
      # What is computed again, and the weights with their gradient, each whole and in the dtype of
      # the computation.
      'largest block': max(
        again * kept[kind, 'none'] + 2 * dtype.itemsize * weights[kind] for kind in kinds
      ),
      'loss': _loss_bytes(logits) // cut,
    }
  return parts


def _token_axes(layout: Layout) -> tuple[str, ...]:
  return layout.mesh_axes('batch') + layout.mesh_axes('length')


def _width_shards(layout: Layout, logical: str) -> int:
  """Into how many parts activations are cut along a parameter's axis. Where rows lie along the same
  mesh axis, weights are gathered instead.
  """
  sizes = dict(layout.sizes)
  return math.prod(
    sizes[axis] for axis in layout.mesh_axes(logical) if axis not in _token_axes(layout)
  )


def _on_one_device(config: ModelConfig, layout: Layout) -> ModelConfig:
  """The model as wide as a device computes it."""
  heads, mlp, mamba = (_width_shards(layout, axis) for axis in ('heads', 'mlp', 'mamba_inner'))
  local = -(-config.num_attention_heads // heads)
  groups = max(1, config.n_groups // mamba)
  return dataclasses.replace(
    config,
    num_attention_heads=local,
    # A key head that several devices share is whole on each.
    num_key_value_heads=next(
      k for k in range(-(-config.num_key_value_heads // heads), local + 1) if local % k == 0
    ),
    intermediate_size=-(-config.intermediate_size // mlp),
    moe_intermediate_size=-(-config.moe_intermediate_size // mlp),
    moe_shared_expert_intermediate_size=-(-config.moe_shared_expert_intermediate_size // mlp),
    mamba_num_heads=-(-config.mamba_num_heads // (mamba * groups)) * groups,
    n_groups=groups,
  )


def _adapted(config: ModelConfig, recipe: Recipe) -> Decoder:
  """An abstract decoder with blocks of every kind of the pattern, and adapters."""
  blocks = (
    max(map(config.pattern.index, set(config.pattern))) + 1
  )  # a beginning: what a family allows as a whole it may not allow in another order
  model = abstract(dataclasses.replace(config, pattern=config.pattern[:blocks]))
  if recipe.adaptation.method == 'lora':
    lora.attach(
      model,
      rank=recipe.lora.rank,
      alpha=recipe.lora.alpha,
      targets=recipe.lora.targets,
      seed=0,
      shapes=True,
    )
  return model


def _kept_in_block(
  model: Decoder, kind: str, x_btd: jax.ShapeDtypeStruct, policy: str, collected: int
) -> int:
  """Bytes that a block keeps. Its experts see the tokens of `collected` devices; what they keep is
  a device's times that, and grows with experts per token.
  """
  block = model.layers[model.config.pattern.index(kind)]
  if kind != 'E' or model.config.num_experts_per_tok < 2:
    return _kept(block, x_btd, policy) * (collected if kind == 'E' else 1)
  with_experts = {}
  for k in (1, 2):
    block.mixer.gate.config = dataclasses.replace(model.config, num_experts_per_tok=k)
    with_experts[k] = _kept(block, x_btd, policy)
  one = with_experts[2] - with_experts[1]
  return with_experts[1] - one + collected * model.config.num_experts_per_tok * one


def _kept(block: Block, x_btd: jax.ShapeDtypeStruct, policy: str) -> int:
  graphdef, state = nnx.split(block)
  flat = nnx.to_flat_state(state)
  name = lambda path: '.'.join(map(str, path))
  values = {
    name(path): jax.ShapeDtypeStruct(variable.get_value().shape, variable.get_value().dtype)
    for path, variable in flat
  }
  by_adapter = any(map(is_adapter, values))
  trained = {name: value for name, value in values.items() if not by_adapter or is_adapter(name)}
  segment_ids = jnp.ones(x_btd.shape[:2], jnp.int32)

  def forward(frozen, params, x):
    used = nnx.merge(
      graphdef,
      nnx.from_flat_state({path: nnx.Param((frozen | params)[name(path)]) for path, _ in flat}),
    )
    return used(x, segment_ids)[0]

  return kept_bytes(
    remat.apply(policy, forward),
    {name: value for name, value in values.items() if name not in trained},
    trained,
    x_btd,
  )


def _gathered(model: Decoder, layout: Layout) -> dict[str, int]:
  """{kind: numbers of one block's weights as a device multiplies them}, cut along other mesh axes
  than rows, and by experts.
  """
  counts = {}
  for kind in dict.fromkeys(model.config.pattern):
    block = model.layers[model.config.pattern.index(kind)]
    shapes, axes = (
      {name: value.shape for name, value in unbind(block)[1].items()},
      logical_axes(block),
    )
    shards = lambda axis: layout.shards(axis) if axis == 'experts' else _width_shards(layout, axis)
    counts[kind] = sum(
      math.prod(shape) // math.prod(map(shards, axes[name])) for name, shape in shapes.items()
    )
  return counts


def _loss_bytes(logits_btv: jax.ShapeDtypeStruct) -> int:
  """The logits, what their loss keeps, and their gradient."""
  places = jnp.ones(logits_btv.shape[:2], jnp.int32)
  weights = places.astype(jnp.float32)
  kept = kept_bytes(
    lambda frozen, params, logits: sft_loss(
      per_token(of_logits, logits, places, weights), {'weights': weights}
    )[0],
    {},
    {},
    logits_btv,
  )
  return kept + 2 * math.prod(logits_btv.shape) * logits_btv.dtype.itemsize
