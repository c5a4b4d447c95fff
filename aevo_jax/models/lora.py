"""LoRA (2106.09685): W + (alpha / rank) A B on chosen linear maps and experts.

A is random and B zero, so that a fresh adapter changes nothing. Every expert of a block has an A
and a B, [e, d, r] and [e, r, f], multiplied group by group like the experts themselves.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import Decoder
from aevo_jax.models.hf.checkpoint import hf_name
from aevo_jax.models.layers.linear import Linear
from aevo_jax.models.layers.moe import ExpertAdapter, Experts
from aevo_jax.models.layers.parameter import param
from aevo_jax.models.params import Params

# Groups of maps, over their names in Hugging Face. All but the last two leave experts alone, of
# which a block can have hundreds.
TARGETS = {
  'attention': r'\.(q|k|v|o)_proj$',
  'mamba': r'\.(in|out)_proj$',
  'mlp': r'(?<!\.experts)\.(gate|up|down)_proj$',
  'attention_mlp': r'(?<!\.experts)\.(q|k|v|o|gate|up|down)_proj$',
  'all': r'(?<!\.experts)\.\w*_proj$',
  'experts': r'\.experts\.\w*_proj$',
  'all_and_experts': r'_proj$',
}


def hf_module(name: str, config: ModelConfig) -> str:
  """Spells a map as Hugging Face does.

  Args:
    name: our name of a linear map, 'layers.0.mixer.in_proj', or of experts' stacked weights.
    config: of the family whose spelling is wanted.

  Returns:
    The stored name, such as 'model.layers.0.mixer.in_proj'.
  """
  return hf_name(weight_of(name), config).removesuffix('.weight')


def attach(
  model: Decoder, *, rank: int, alpha: float, targets: str, seed: int, shapes: bool = False
) -> list[str]:
  """Adds adapters in place to linear maps and to weights of experts.

  The model may be abstract (`nnx.eval_shape`); its adapters are arrays all the same, unless
  `shapes` are wanted.

  Args:
    model: to be changed.
    rank: columns of A and rows of B.
    alpha: scales the adapters by alpha / rank.
    targets: a key of TARGETS, or a regular expression that is searched for in names such as
      'model.layers.3.mixer.q_proj'.
    seed: of A; B is zero.
    shapes: whether adapters are shapes instead of arrays.

  Returns:
    Our names of the adapted maps, sorted.

  Raises:
    ValueError: rank < 1, `targets` is no regular expression, or nothing matches.
  """
  if rank < 1:
    raise ValueError(
      f'lora.rank must be >= 1, got {rank}; bind adaptation.method = "full" to train '
      'without an adapter'
    )
  maps = _maps(model)
  adapted = targeted(model, targets)
  for index, name in enumerate(adapted):
    node = maps[name]
    if isinstance(node, Experts):
      leaf = name.rpartition('.')[2]
      weight = getattr(node, leaf)
      adapter = node.adapters[leaf] = ExpertAdapter()
    else:
      weight = node.kernel
      adapter = node
    *lead, in_axis, out_axis = weight.get_metadata()['logical_axes']
    # numpy, not jax.random: as many programs to compile as there are shapes would take longer than
    # the adapters' first steps.
    rng = None if shapes else np.random.default_rng([seed, index])
    first = _fresh(weight.shape, rank, rng)
    adapter.lora_a = param(first.a, *lead, in_axis, 'lora_rank')
    adapter.lora_b = param(first.b, *lead, 'lora_rank', out_axis)
    adapter.lora_scale = alpha / rank
  return adapted


class _Adapter(NamedTuple):
  """A [..., in, rank] and B [..., rank, out] of a fresh adapter, arrays or shapes."""

  a: jax.Array | jax.ShapeDtypeStruct
  b: jax.Array | jax.ShapeDtypeStruct


def _fresh(shape: tuple[int, ...], rank: int, rng: np.random.Generator | None) -> _Adapter:
  """Makes an adapter of a weight of this shape; shapes without `rng`."""
  *experts, rows, columns = shape
  a_shape = (*experts, rows, rank)
  b_shape = (*experts, rank, columns)
  if rng is None:
    return _Adapter(
      jax.ShapeDtypeStruct(a_shape, jnp.float32), jax.ShapeDtypeStruct(b_shape, jnp.float32)
    )
  a = rng.standard_normal(a_shape, np.float32) / math.sqrt(rows)
  return _Adapter(jnp.asarray(a, jnp.float32), jnp.asarray(np.zeros(b_shape, np.float32)))


def targeted(model: Decoder, targets: str) -> list[str]:
  """Lists the maps that `targets` means.

  Args:
    model: of arrays or shapes.
    targets: see `attach`.

  Returns:
    Our names of the maps, sorted.

  Raises:
    ValueError: `targets` is no regular expression, or nothing matches.
  """
  try:
    pattern = re.compile(TARGETS.get(targets, targets))
  except re.error as error:
    raise ValueError(
      f'lora.targets = {targets!r} is no regular expression ({error}); use one of '
      f'{sorted(TARGETS)} or mend it'
    ) from error
  modules = {name: hf_module(name, model.config) for name in _maps(model)}
  adapted = sorted(name for name in modules if pattern.search(modules[name]))
  if not adapted:
    raise ValueError(
      f'lora.targets = {targets!r} matches none of {sorted(modules.values())}; use one of '
      f'{sorted(TARGETS)} or another expression'
    )
  return adapted


def _maps(model: Decoder) -> dict[str, Linear | Experts]:
  """Finds everything that can have an adapter: {our name of a map: the module that holds it}."""
  maps: dict[str, Linear | Experts] = {}
  for path, node in nnx.iter_modules(model):
    name = '.'.join(str(part) for part in path)
    if isinstance(node, Linear):
      maps[name] = node
    elif isinstance(node, Experts):
      for leaf, value in vars(node).items():
        if isinstance(value, nnx.Param):
          maps[f'{name}.{leaf}'] = node
  return maps


def map_names(model: Decoder) -> list[str]:
  """Lists everything that can have an adapter.

  Args:
    model: of arrays or shapes.

  Returns:
    Our names, sorted: linear maps, 'layers.0.mixer.in_proj', and experts' weights,
    'layers.1.mixer.experts.up_proj'.
  """
  return sorted(_maps(model))


def weight_of(name: str) -> str:
  """Returns the parameter of a map."""
  return name if '.experts.' in name else f'{name}.kernel'


def adapter_of(name: str) -> str:
  """Returns what the names of a map's adapter begin with: lora_a and lora_b follow."""
  return name.replace('.experts.', '.experts.adapters.')


def map_of(name: str) -> str:
  """Finds the map of an adapter.

  Args:
    name: of an adapter's parameter, '...experts.adapters.up_proj.lora_a'.

  Returns:
    The map that it belongs to, '...experts.up_proj'.
  """
  return name.rpartition('.')[0].replace('.experts.adapters.', '.experts.')


@jax.jit
def merge(params: Mapping[str, Any], scale: Any) -> Params:
  """Folds adapters into their weights.

  Args:
    params: of an adapted decoder, by name.
    scale: alpha / rank, a float or a scalar array.

  Returns:
    Parameters of the same function without adapters.
  """
  merged = {}
  for name, value in params.items():
    if not name.endswith(('.lora_a', '.lora_b')):
      merged[name] = value
  for name in params:
    if name.endswith('.lora_a'):
      weight = weight_of(map_of(name))
      product = params[name] @ params[f'{name.removesuffix("a")}b']
      merged[weight] = params[weight] + scale * product
  return merged
