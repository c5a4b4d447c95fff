"""LoRA (2106.09685): W + (alpha / rank) A B on chosen linear maps and experts, A random and B zero,
so that a fresh adapter changes nothing.

Every expert of a block has an A and a B of its own, [e, d, r] and [e, r, f], multiplied group by
group like the experts themselves.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.decoder import Decoder
from aevo_jax.models.hf.checkpoint import hf_name
from aevo_jax.models.layers.linear import Linear, param
from aevo_jax.models.layers.moe import ExpertAdapter, Experts
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
  """The name in Hugging Face of a linear map of ours, 'layers.0.mixer.in_proj' ->
  'model.layers.0.mixer.in_proj', or of experts' stacked weights.
  """
  return hf_name(weight_of(name), config).removesuffix('.weight')


def attach(
  model: Decoder, *, rank: int, alpha: float, targets: str, seed: int, shapes: bool = False
) -> list[str]:
  """Adds adapters in place to every linear map, and every weight of experts, whose name in Hugging
  Face matches `targets`.

  The model may be abstract (`nnx.eval_shape`); its adapters are arrays all the same, unless
  `shapes` are asked for.

  Args:
    targets: a key of TARGETS, or a regular expression that is searched for in names such as
      'model.layers.3.mixer.q_proj'.

  Returns:
    Our names of the adapted maps.

  Raises:
    ValueError: rank < 1, `targets` is no regular expression, or nothing matches.
  """
  if rank < 1:
    raise ValueError(
      f'lora.rank must be >= 1, got {rank}; bind adaptation.method = "full" to train '
      'without an adapter'
    )
  maps, adapted = _maps(model), targeted(model, targets)
  for index, name in enumerate(adapted):
    node = maps[name]
    leaf = name.rpartition('.')[2]
    weight = getattr(node, leaf) if isinstance(node, Experts) else node.kernel
    (*experts, rows, columns), axes = weight.shape, weight.get_metadata()['logical_axes']
    stacked = axes[:-2]
    if shapes:
      a, b = (
        jax.ShapeDtypeStruct((*experts, *ends), jnp.float32)
        for ends in ((rows, rank), (rank, columns))
      )
    else:
      # numpy, not jax.random: as many programs to compile as there are shapes would take longer
      # than the adapters' first steps.
      rng = np.random.default_rng([seed, index])
      a = jnp.asarray(
        rng.standard_normal((*experts, rows, rank), np.float32) / math.sqrt(rows), jnp.float32
      )
      b = jnp.asarray(np.zeros((*experts, rank, columns), np.float32))
    adapter = node
    if isinstance(node, Experts):
      adapter = node.adapters[leaf] = ExpertAdapter()
    adapter.lora_a, adapter.lora_b = (
      param(a, *stacked, axes[-2], 'lora_rank'),
      param(b, *stacked, 'lora_rank', axes[-1]),
    )
    adapter.lora_scale = alpha / rank
  return adapted


def targeted(model: Decoder, targets: str) -> list[str]:
  """Our names of the maps that `targets` means, see `attach`.

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
  """{our name of a map: the module that holds it}."""
  maps = {}
  for path, node in nnx.iter_modules(model):
    name = '.'.join(map(str, path))
    if isinstance(node, Linear):
      maps[name] = node
    elif isinstance(node, Experts):
      maps |= {
        f'{name}.{leaf}': node for leaf, value in vars(node).items() if isinstance(value, nnx.Param)
      }
  return maps


def map_names(model: Decoder) -> list[str]:
  """Our names of everything that can have an adapter: linear maps, 'layers.0.mixer.in_proj', and
  experts' weights, 'layers.1.mixer.experts.up_proj'.
  """
  return sorted(_maps(model))


def weight_of(name: str) -> str:
  """The parameter of a map."""
  return name if '.experts.' in name else f'{name}.kernel'


def adapter_of(name: str) -> str:
  """What the names of a map's adapter begin with: lora_a and lora_b follow."""
  return name.replace('.experts.', '.experts.adapters.')


def map_of(name: str) -> str:
  """The map that an adapter's parameter belongs to: '...experts.adapters.up_proj.lora_a' ->
  '...experts.up_proj'.
  """
  return name.rpartition('.')[0].replace('.experts.adapters.', '.experts.')


@jax.jit
def merge(params: Params, scale: float) -> Params:
  """Folds adapters into their weights: the same function without adapter parameters."""
  merged = {
    name: value for name, value in params.items() if not name.endswith(('.lora_a', '.lora_b'))
  }
  for name in params:
    if name.endswith('.lora_a'):
      weight = weight_of(map_of(name))
      merged[weight] = params[weight] + scale * (
        params[name] @ params[f'{name.removesuffix("a")}b']
      )
  return merged
