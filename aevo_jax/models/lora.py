"""LoRA (2106.09685): W + (alpha / rank) A B on chosen linear maps, A random and B zero, so that a fresh adapter changes nothing."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aevo_jax.models.decoder import Decoder
from aevo_jax.models.layers import Linear, param
from aevo_jax.models.params import Params

TARGETS = {
    'attention': r'\.(q|k|v|o)_proj$',
    'mamba': r'\.(in|out)_proj$',
    'mlp': r'\.(gate|up|down)_proj$',
    'attention_mlp': r'\.(q|k|v|o|gate|up|down)_proj$',
    'all': r'_proj$',
}


def attach(model: Decoder, *, rank: int, alpha: float, targets: str, seed: int) -> list[str]:
  """Adds adapters in place to every Linear whose dotted name matches `targets` (a key of TARGETS or a regular expression).

  The model may be abstract (`nnx.eval_shape`); its adapters are arrays all the same.

  Returns:
    The names of the adapted maps.

  Raises:
    ValueError: rank < 1, `targets` is no regular expression, or nothing matches.
  """
  if rank < 1:
    raise ValueError(f'lora.rank must be >= 1, got {rank}; bind adaptation.method = "full" to train without an adapter')
  try:
    pattern = re.compile(TARGETS.get(targets, targets))
  except re.error as error:
    raise ValueError(f'lora.targets = {targets!r} is no regular expression ({error}); use one of {sorted(TARGETS)} or mend it') from error
  linears = {'.'.join(map(str, path)): node for path, node in nnx.iter_modules(model) if isinstance(node, Linear)}
  adapted = sorted(name for name in linears if pattern.search(name))
  if not adapted:
    raise ValueError(f'lora.targets = {targets!r} matches none of {sorted(linears)}; use one of {sorted(TARGETS)} or another expression')
  for index, name in enumerate(adapted):
    # numpy, not jax.random: as many programs to compile as there are shapes would take longer than the adapters' first steps.
    rng = np.random.default_rng([seed, index])
    linear = linears[name]
    (rows, columns), axes = linear.kernel.shape, linear.kernel.get_metadata()['logical_axes']
    linear.lora_a = param(jnp.asarray(rng.standard_normal((rows, rank), np.float32) / math.sqrt(rows), jnp.float32), axes[0], 'lora_rank')
    linear.lora_b = param(jnp.asarray(np.zeros((rank, columns), np.float32)), 'lora_rank', axes[1])
    linear.lora_scale = alpha / rank
  return adapted


@jax.jit
def merge(params: Params, scale: float) -> Params:
  """Folds adapters into their kernels: the same function without adapter parameters."""
  merged = {name: value for name, value in params.items() if not name.endswith(('.lora_a', '.lora_b'))}
  for name in params:
    if name.endswith('.lora_a'):
      stem = name.removesuffix('.lora_a')
      merged[f'{stem}.kernel'] = params[f'{stem}.kernel'] + scale * (params[name] @ params[f'{stem}.lora_b'])
  return merged
