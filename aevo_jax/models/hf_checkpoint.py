"""Reading and writing the base in Hugging Face's layout: model.safetensors with Nemotron-H's tensor names, and config.json.

Linear weights are stored [out, in] there and [in, out] here; the convolution [channels, 1, kernel] there and [kernel, channels] here. Weights
travel as safetensors only; pickle is never read.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.params import Params, outline

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
_SAME_NAME = ('vocab_size', 'hidden_size', 'num_attention_heads', 'num_key_value_heads', 'head_dim', 'intermediate_size', 'mamba_num_heads',
              'mamba_head_dim', 'n_groups', 'ssm_state_size', 'conv_kernel', 'chunk_size', 'layer_norm_epsilon', 'max_position_embeddings')
_LEAVES = {'scale': 'weight', 'conv_kernel': 'conv1d.weight', 'conv_bias': 'conv1d.bias', 'kernel': 'weight'}


def hf_name(name: str) -> str:
  """Our parameter name in Hugging Face's spelling: 'layers.0.mixer.in_proj.kernel' -> 'model.layers.0.mixer.in_proj.weight'."""
  if name == 'embedding':
    return 'model.embeddings.weight'
  stem, _, leaf = name.rpartition('.')
  renamed = f'{stem}.{_LEAVES.get(leaf, leaf)}'
  return renamed if stem == 'lm_head' else f'model.{renamed}'


def _to_hf(name: str, value: np.ndarray) -> np.ndarray:
  if name.endswith('.kernel'):
    return np.ascontiguousarray(value.T)
  if name.endswith('.conv_kernel'):
    return np.ascontiguousarray(value.T[:, None, :])
  return value


def _from_hf(name: str, value: np.ndarray) -> np.ndarray:
  if name.endswith('.kernel'):
    return value.T
  if name.endswith('.conv_kernel'):
    return value[:, 0, :].T
  return value


def config_to_hf(config: ModelConfig, *, eos_token_id: int, pad_token_id: int) -> dict:
  """config.json of a Nemotron-H that Hugging Face and vLLM read."""
  return {name: getattr(config, name) for name in _SAME_NAME} | {
      'architectures': ['NemotronHForCausalLM'], 'model_type': 'nemotron_h', 'hybrid_override_pattern': config.pattern,
      'num_hidden_layers': len(config.pattern), 'mlp_hidden_act': 'relu2', 'mamba_hidden_act': 'silu', 'use_conv_bias': True, 'use_bias': False,
      'attention_bias': False, 'mlp_bias': False, 'mamba_proj_bias': False, 'tie_word_embeddings': False, 'torch_dtype': 'float32',
      # transformers clamps dt from below at time_step_min (NVIDIA's code and vLLM do not, nor do we); 0 would make its initializer take log 0.
      'time_step_min': 1e-30,
      'expand': config.mamba_inner // config.hidden_size or 1, 'residual_in_fp32': False,
      'eos_token_id': eos_token_id, 'pad_token_id': pad_token_id, 'bos_token_id': None}


def config_from_hf(fields: dict) -> ModelConfig:
  """Reads config.json.

  Raises:
    ValueError: another model type, or a missing field, by name.
  """
  if fields.get('model_type') != 'nemotron_h':
    raise ValueError(f'config.json has model_type {fields.get("model_type")!r}; this reader knows "nemotron_h"')
  missing = [name for name in (*_SAME_NAME, 'hybrid_override_pattern') if name not in fields]
  if missing:
    raise ValueError(f'config.json lacks {missing}')
  return ModelConfig(pattern=fields['hybrid_override_pattern'], **{name: fields[name] for name in _SAME_NAME})


def save_weights(path: pathlib.Path, params: Params) -> None:
  """Writes every parameter of a decoder (adapters merged beforehand) as one safetensors file."""
  save_file({hf_name(name): _to_hf(name, np.asarray(value)) for name, value in sorted(params.items())}, path, metadata={'format': 'pt'})


def load_weights(path: pathlib.Path, config: ModelConfig) -> Params:
  """Reads a safetensors file for a decoder of this shape.

  Raises:
    ValueError: tensors missing, extra or of a wrong shape, each by name.
  """
  stored = load_file(path)
  _, wanted = outline(config)
  names = {hf_name(name): name for name in wanted}
  problems = [f'missing {name}' for name in sorted(names.keys() - stored.keys())]
  problems += [f'unexpected {name}' for name in sorted(stored.keys() - names.keys())]
  params = {}
  for stored_name, name in names.items():
    if stored_name in stored:
      value, needed = stored[stored_name], _to_hf(name, np.empty(wanted[name].shape)).shape
      if value.shape != needed:
        problems.append(f'{stored_name} has shape {value.shape} where {needed} is needed')
      else:
        params[name] = jnp.asarray(_from_hf(name, value), jnp.float32)
  if problems:
    raise ValueError(f'{path} does not fit the model of its config.json: ' + '; '.join(problems))
  return params


def read_config(directory: pathlib.Path) -> ModelConfig:
  """The model's shape from `directory`/config.json."""
  return config_from_hf(json.loads((directory / CONFIG).read_text()))
