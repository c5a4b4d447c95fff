"""What the rules of a sharding ask devices to send, from shapes and rules alone."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from aevo_jax.models.config import ModelConfig
from aevo_jax.sharding.rules import Layout
from aevo_jax.training.placement import shapes_of
from aevo_jax.training.recipe.recipe import Recipe

# Modules that write collectives out, and the logical axes along whose mesh axes they send
# activations.
EXCHANGES = {
  'aevo_jax/sharding/context.py': ('experts', 'mlp'),
  'aevo_jax/sharding/by_token.py': ('vocab', 'embed'),
}
_WRITTEN = ('all_gather', 'all_to_all', 'psum', 'psum_scatter', 'reduce_scatter', 'psum_invariant')
# A product that sums over so few numbers costs more to send than to compute.
_WORTH_A_SUM = 64
# Arrays below this share of the residual stream are scores, statistics and positions.
_SMALL = 1 / 8


@dataclasses.dataclass(frozen=True)
class Asked:
  """A model under rules.

  Attributes:
    config, recipe, layout: what is computed, and where arrays lie.
    platform: of the devices.
    shapes, axes: of all parameters, and their logical axes.
  """

  config: ModelConfig
  recipe: Recipe
  layout: Layout
  platform: str
  shapes: Mapping[str, Any]
  axes: Mapping[str, tuple[str, ...]]

  @classmethod
  def of(cls, config: ModelConfig, recipe: Recipe, layout: Layout, platform: str) -> 'Asked':
    """Collects the shapes of a model's parameters.

    Args:
      config: of the model.
      recipe: its adaptation and batch.
      layout: rules on a mesh.
      platform: of the devices, 'cpu', 'gpu' or 'tpu'.

    Returns:
      The model under the rules.
    """
    model = shapes_of(config, recipe.adaptation, recipe.lora)
    return cls(config, recipe, layout, platform, model.trained | model.frozen, model.axes)

  @property
  def token_axes(self) -> tuple[str, ...]:
    """The mesh axes along which devices have other tokens."""
    return self.layout.mesh_axes('batch') + self.layout.mesh_axes('length')

  @property
  def heads_axes(self) -> set[str]:
    """The mesh axes along which devices have other heads of the same tokens."""
    return set(self.layout.mesh_axes('heads')) - set(self.token_axes)

  @property
  def stream_bytes(self) -> float:
    """The size of the residual stream on a device, in a microbatch."""
    train = self.recipe.train
    tokens = train.batch_rows * train.row_length / max(1, train.microbatches)
    item = 4 if self.config.compute_dtype == 'float32' else 2
    return tokens / self.layout.shards('batch', 'length') * self.config.hidden_size * item

  @property
  def small(self) -> float:
    """Bytes of a step below which nothing is named."""
    return self.stream_bytes * _SMALL

  @property
  def key_elements(self) -> int:
    """The size of one block's keys, or values, of a device's rows at full length."""
    train = self.recipe.train
    rows = train.batch_rows // max(1, train.microbatches)
    heads = max(self.config.num_key_value_heads, self.layout.shards('heads'))
    tokens = rows * train.row_length // self.layout.shards('batch')
    return tokens * heads * self.config.head_dim

  @property
  def state_elements(self) -> int:
    """The size of one mamba block's states, one for each device of a row."""
    config = self.config
    train = self.recipe.train
    rows = train.batch_rows // max(1, train.microbatches) // self.layout.shards('batch')
    return rows * self.layout.shards('length') * config.mamba_inner * config.ssm_state_size

  def elements(self, name: str) -> int:
    """Counts a parameter's elements."""
    return math.prod(self.shapes[name].shape)

  def parameter_axes(self, name: str) -> tuple[str, ...]:
    """Lists the mesh axes along which a parameter is cut."""
    return tuple(a for logical in self.axes[name] for a in self.layout.mesh_axes(logical))

  def kept_elements(self, name: str) -> float:
    """Counts the elements of a parameter that a device multiplies with.

    It is the whole but for the mesh axes along which devices have the same tokens.
    """
    sizes = dict(self.layout.sizes)
    kept = [sizes[axis] for axis in self.parameter_axes(name) if axis not in self.token_axes]
    return self.elements(name) / math.prod(kept)

  def uses(self, name: str) -> int:
    """Counts the products with a parameter, of each microbatch."""
    tied = name == 'embedding' and self.config.tie_word_embeddings
    return (2 if tied else 1) * max(1, self.recipe.train.microbatches)

  def gathers(self, name: str) -> int:
    """Counts how often the rules ask to gather a parameter: for each pass of each product.

    On CPUs the gradient of a product takes a copy of its own (`linear.matmul`), beside what is
    computed again.
    """
    recomputed = self.config.remat_policy != 'none' and self.platform == 'cpu'
    return self.uses(name) * (3 if recomputed else 2)

  def feature_axes(self, names: Iterable[str]) -> set[str]:
    """Returns the mesh axes that cut products with parameters in dimensions other than the stream.

    Sums over devices of these are what the rules ask for.
    """
    found = set()
    for name in names:
      for logical in self.axes[name]:
        if logical != 'embed':
          found.update(self.layout.mesh_axes(logical))
        if logical == 'kv_heads':  # keys meet the queries of the devices' heads
          found.update(self.layout.mesh_axes('heads'))
    return found - set(self.token_axes)

  def exchange_axes(self, op_name: str, file: str) -> set[str]:
    """Returns the mesh axes along which a written-out collective of a file may send activations."""
    if op_name.rpartition('/')[2] not in _WRITTEN:
      return set()
    logical = EXCHANGES.get(file, ())
    return {axis for name in logical for axis in self.layout.mesh_axes(name)}

  def rules_with(self, mesh_axes: Iterable[str], among: Iterable[str] = ()) -> tuple[str, ...]:
    """Lists the logical axes that go to some mesh axes; those of `among` alone if there are any."""
    wanted = set(mesh_axes)
    found = tuple(name for name, axes in self.layout.rules if wanted & set(axes))
    return tuple(name for name in found if name in set(among)) or found

  def summed(self, name: str, *, forward: bool) -> str:
    """Returns the logical axis over which a product with a parameter sums."""
    axes = self.axes[name]
    if name == 'embedding':  # a lookup sums over words; as a tied head, it is transposed
      return 'vocab'
    return axes[-2] if forward and len(axes) > 1 else axes[-1]

  def made(self, name: str, *, forward: bool) -> str:
    """Returns the logical axis of the last dimension of what a product with a parameter gives."""
    axes = self.axes[name]
    if name == 'embedding':
      return 'embed'
    return axes[-1] if forward or len(axes) < 2 else axes[-2]

  def is_thin(self, name: str, logical: str) -> bool:
    """Tells whether a parameter's dimension is too short for a sum over devices to be worth it."""
    size = self.shapes[name].shape[self.axes[name].index(logical)]
    return size < _WORTH_A_SUM
