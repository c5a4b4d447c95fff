"""Reading and writing the base in Hugging Face's layout: model.safetensors with Nemotron-H's tensor names, and config.json.

Linear weights are stored [out, in] there and [in, out] here, experts [expert, out, in] there and [expert, in, out] here; the convolution
[channels, 1, kernel] there and [kernel, channels] here. Both spellings of the pattern are read (hybrid_override_pattern, layers_block_type), and both of
the tensors: `model.` or `backbone.`, experts stacked or one by one. Weights travel as safetensors only; pickle is never read.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, outline

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
_OF_ALL = ('vocab_size', 'hidden_size', 'layer_norm_epsilon', 'max_position_embeddings')
_OF_BLOCK = {
    '*': ('num_attention_heads', 'num_key_value_heads', 'head_dim'),
    '-': ('intermediate_size',),
    'M': ('mamba_num_heads', 'mamba_head_dim', 'n_groups', 'ssm_state_size', 'conv_kernel', 'chunk_size'),
    'E': ('n_routed_experts', 'num_experts_per_tok', 'moe_intermediate_size', 'moe_shared_expert_intermediate_size'),
}
# With the reference's defaults, which are ours too: a config may leave them out.
_OPTIONS = ('attention_bias', 'mlp_bias', 'use_bias', 'use_conv_bias', 'n_group', 'topk_group', 'norm_topk_prob', 'routed_scaling_factor')
_OPTIONAL_SIZES = ('sliding_window', 'moe_latent_size')  # null there, 0 here
_ONLY = {'mlp_hidden_act': 'relu2', 'mamba_hidden_act': 'silu', 'tie_word_embeddings': False, 'n_shared_experts': 1}  # what this decoder computes
_NO_LIMIT = float(np.finfo(np.float32).max)  # infinity is not JSON
_SYMBOLS = {'mamba': 'M', 'linear_attention': 'M', 'attention': '*', 'full_attention': '*', 'moe': 'E', 'mlp': '-'}
_ONE_EXPERT = re.compile(r'(.*\.experts)\.(\d+)\.(up_proj|down_proj)\.weight')
_LEAVES = {'scale': 'weight', 'conv_kernel': 'conv1d.weight', 'conv_bias': 'conv1d.bias', 'kernel': 'weight'}


def hf_name(name: str, config: ModelConfig) -> str:
  """Our parameter name in the spelling of the config's family in Hugging Face: 'layers.0.mixer.in_proj.kernel' -> 'model.layers.0.mixer.in_proj.weight'."""
  del config  # one family so far
  if name == 'embedding':
    return 'model.embeddings.weight'
  stem, _, leaf = name.rpartition('.')
  if stem.endswith('.experts'):
    return f'model.{name}'
  renamed = f'{stem}.{_LEAVES.get(leaf, leaf)}'
  return renamed if stem == 'lm_head' else f'model.{renamed}'


def to_hf(name: str, value: np.ndarray) -> np.ndarray:
  if name.endswith('.kernel'):
    return np.ascontiguousarray(value.T)
  if name.endswith('.conv_kernel'):
    return np.ascontiguousarray(value.T[:, None, :])
  if '.experts.' in name:
    return np.ascontiguousarray(np.swapaxes(value, 1, 2))
  return value


def from_hf(name: str, value: np.ndarray) -> np.ndarray:
  if name.endswith('.kernel'):
    return value.T
  if name.endswith('.conv_kernel'):
    return value[:, 0, :].T
  if '.experts.' in name:
    return np.swapaxes(value, 1, 2)
  return value


def canonical(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Tensors by the names of today's checkpoints: `backbone.` becomes `model.`, and experts that lie one by one are stacked."""
  named, parts = {}, {}
  for name, value in stored.items():
    name = re.sub(r'^backbone\.', 'model.', name)
    if one := _ONE_EXPERT.fullmatch(name):
      parts.setdefault(f'{one[1]}.{one[3]}', {})[int(one[2])] = value
    else:
      named[name] = value
  for name, experts in parts.items():
    if sorted(experts) != list(range(len(experts))):
      raise ValueError(f'{name} has experts {sorted(experts)}; the first {max(experts) + 1} are needed')
    named[name] = np.stack([experts[i] for i in range(len(experts))])
  return named


def config_to_hf(config: ModelConfig, *, eos_token_id: int, pad_token_id: int) -> dict:
  """config.json of a Nemotron-H that Hugging Face and vLLM read."""
  present = _OF_ALL + tuple(name for names in _OF_BLOCK.values() for name in names) + _OPTIONS
  return {name: getattr(config, name) for name in present} | {name: getattr(config, name) or None for name in _OPTIONAL_SIZES} | _ONLY | {
      'architectures': ['NemotronHForCausalLM'], 'model_type': 'nemotron_h', 'hybrid_override_pattern': config.pattern,
      'num_hidden_layers': len(config.pattern), 'mamba_proj_bias': config.use_bias, 'torch_dtype': 'float32',
      'time_step_limit': [config.time_step_low, min(config.time_step_high, _NO_LIMIT)],
      # transformers clamps dt from below at time_step_min (NVIDIA's code and vLLM do not, nor do we); 0 would make its initializer take log 0.
      'time_step_min': max(config.time_step_low, 1e-30),
      'expand': config.mamba_inner // config.hidden_size or 1, 'residual_in_fp32': False,
      'eos_token_id': eos_token_id, 'pad_token_id': pad_token_id, 'bos_token_id': None}


def config_from_hf(fields: dict) -> ModelConfig:
  """Reads config.json.

  Raises:
    ValueError: another model type, a missing field or one with a value that the decoder does not compute, by name.
  """
  if fields.get('model_type') != 'nemotron_h':
    raise ValueError(f'config.json has model_type {fields.get("model_type")!r}; this reader knows "nemotron_h"')
  pattern = _pattern(fields)
  missing = [name for name in (*_OF_ALL, *(n for kind, names in _OF_BLOCK.items() if kind in pattern for n in names)) if name not in fields]
  if missing:
    raise ValueError(f'config.json lacks {missing}')
  other = [f'{name} = {fields[name]!r} (only {value!r})' for name, value in _ONLY.items() if fields.get(name, value) != value]
  if other:
    raise ValueError(f'config.json asks for what this decoder does not compute: {", ".join(other)}')
  low, high = fields.get('time_step_limit', (0.0, math.inf))
  high = math.inf if high >= _NO_LIMIT else high
  known = {n for names in _OF_BLOCK.values() for n in names} | {*_OF_ALL, *_OPTIONS}
  return ModelConfig(pattern=pattern, time_step_low=float(low), time_step_high=float(high), **{name: fields.get(name) or 0 for name in _OPTIONAL_SIZES},
                     **{name: fields[name] for name in known if name in fields})


def _pattern(fields: dict) -> str:
  if 'hybrid_override_pattern' in fields:
    return fields['hybrid_override_pattern']
  types = fields.get('layers_block_type', fields.get('layer_types'))
  if types is None:
    raise ValueError("config.json lacks ['hybrid_override_pattern'] or ['layers_block_type']")
  unknown = sorted(set(types) - _SYMBOLS.keys())
  if unknown:
    raise ValueError(f'config.json names block types {unknown}; this reader knows {sorted(_SYMBOLS)}')
  return ''.join(_SYMBOLS[t] for t in types)


def save_weights(path: pathlib.Path, params: Params, config: ModelConfig) -> None:
  """Writes every parameter of a decoder (adapters merged beforehand) as one safetensors file."""
  save_file({hf_name(name, config): to_hf(name, np.asarray(value)) for name, value in sorted(params.items())}, path, metadata={'format': 'pt'})


def load_weights(path: pathlib.Path, config: ModelConfig) -> Params:
  """Reads a safetensors file, or a directory with one or with shards, for a decoder of this shape.

  Raises:
    ValueError: tensors missing, extra or of a wrong shape, each by name.
  """
  if path.is_dir():
    from aevo_jax.models import hf_stream  # which reads with this module's names
    return hf_stream.load_parameters(hf_stream.Reader(path, config), dtype=np.dtype('float32'))
  stored = canonical(load_file(path))
  _, wanted = outline(config)
  names = {hf_name(name, config): name for name in wanted}
  problems = [f'missing {name}' for name in sorted(names.keys() - stored.keys())]
  problems += [f'unexpected {name}' for name in sorted(stored.keys() - names.keys())]
  params = {}
  for stored_name, name in names.items():
    if stored_name in stored:
      value, needed = stored[stored_name], to_hf(name, np.empty(wanted[name].shape)).shape
      if value.shape != needed:
        problems.append(f'{stored_name} has shape {value.shape} where {needed} is needed')
      else:
        params[name] = jnp.asarray(from_hf(name, value), jnp.float32)
  if problems:
    raise ValueError(f'{path} does not fit the model of its config.json: ' + '; '.join(problems))
  return params


def read_config(directory: pathlib.Path) -> ModelConfig:
  """The model's shape from `directory`/config.json."""
  return config_from_hf(json.loads((directory / CONFIG).read_text()))
