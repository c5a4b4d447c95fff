"""Reading and writing a model in Hugging Face's layout: model.safetensors and config.json, in the
spelling of the model's family (`families/`).

Linear weights are stored [out, in] there and [in, out] here, experts [expert, out, in] there and
[expert, in, out] here; the convolution [channels, 1, kernel] there and [kernel, channels] here.
Read are `model.` or `backbone.`, and experts stacked, one by one, or with gate and up in one
tensor. Weights travel as safetensors only; pickle is never read.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from aevo_jax.models.config import ModelConfig
from aevo_jax.models.families import registry
from aevo_jax.models.params import Params, outline

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
_ONE_EXPERT = re.compile(r'(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight')
GATE_UP = '.experts.gate_up_proj'
HEAD = 'lm_head.weight'


def hf_name(name: str, config: ModelConfig) -> str:
  """Our parameter name in the spelling of the config's family, experts stacked:
  'layers.0.mixer.q_proj.kernel' -> 'model.layers.0.self_attn.q_proj.weight'.
  """
  return registry.FAMILIES[config.family].hf_name(name)


def to_hf(name: str, value: np.ndarray) -> np.ndarray:
  """The array of our parameter `name` in Hugging Face's layout, experts stacked."""
  if name.endswith('.kernel'):
    return np.ascontiguousarray(value.T)
  if name.endswith('.conv_kernel'):
    return np.ascontiguousarray(value.T[:, None, :])
  if '.experts.' in name:
    return np.ascontiguousarray(np.swapaxes(value, 1, 2))
  return value


def from_hf(name: str, value: np.ndarray) -> np.ndarray:
  """The inverse of `to_hf`, as a view."""
  if name.endswith('.kernel'):
    return value.T
  if name.endswith('.conv_kernel'):
    return value[:, 0, :].T
  if '.experts.' in name:
    return np.swapaxes(value, 1, 2)
  return value


def canonical(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Tensors by the names of `hf_name`: `backbone.` becomes `model.`, experts that lie one by one
  are stacked, and gate and up are taken apart.
  """
  named, parts = {}, {}
  for name, value in stored.items():
    name = re.sub(r'^backbone\.', 'model.', name)
    if one := _ONE_EXPERT.fullmatch(name):
      parts.setdefault(f'{one[1]}.{one[3]}', {})[int(one[2])] = value
    elif name.endswith(GATE_UP):
      stem = name.removesuffix('gate_up_proj')
      named[f'{stem}gate_proj'], named[f'{stem}up_proj'] = np.split(value, 2, axis=1)
    else:
      named[name] = value
  for name, experts in parts.items():
    if sorted(experts) != list(range(len(experts))):
      raise ValueError(
        f'{name} has experts {sorted(experts)}; the first {max(experts) + 1} are needed'
      )
    named[name] = np.stack([experts[i] for i in range(len(experts))])
  return named


def as_stored(name: str, value: np.ndarray, config: ModelConfig) -> dict[str, np.ndarray]:
  """What a checkpoint of the config's family holds of our parameter `name`: one tensor, or one for
  each expert.
  """
  tensor, stored_name = to_hf(name, value), hf_name(name, config)
  if '.experts.' not in name or not registry.FAMILIES[config.family].EXPERTS_APART:
    return {stored_name: tensor}
  stem, _, leaf = stored_name.rpartition('.')
  return {f'{stem}.{i}.{leaf}.weight': expert for i, expert in enumerate(tensor)}


def config_to_hf(config: ModelConfig, *, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
  """A config.json that Hugging Face and vLLM read."""
  return registry.FAMILIES[config.family].config_to_hf(config) | {
    'torch_dtype': 'float32',
    'eos_token_id': eos_token_id,
    'pad_token_id': pad_token_id,
    'bos_token_id': None,
  }


def config_from_hf(fields: Mapping[str, Any]) -> ModelConfig:
  """Reads config.json.

  Raises:
    ValueError: another model type, a missing field or one with a value that the decoder does not
      compute, by name.
  """
  family = registry.of_model_type(fields.get('model_type'))
  return ModelConfig(family=family, **registry.FAMILIES[family].config_from_hf(fields))


def save_weights(path: pathlib.Path, params: Params, config: ModelConfig) -> None:
  """Writes every parameter of a decoder (adapters merged beforehand) as one safetensors file, in
  float32.
  """
  save_file(
    {
      stored: tensor
      for name, value in sorted(params.items())
      for stored, tensor in as_stored(name, np.asarray(value, np.float32), config).items()
    },
    path,
    metadata={'format': 'pt'},
  )


def load_weights(path: pathlib.Path, config: ModelConfig) -> Params:
  """Reads a safetensors file, or a directory with one or with shards, for a decoder of this shape.

  Raises:
    ValueError: tensors missing, extra or of a wrong shape, each by name.
  """
  if path.is_dir():
    from aevo_jax.models.hf import stream  # which reads with this module's names

    return stream.load_parameters(stream.Reader(path, config), dtype=np.dtype('float32'))
  stored = canonical(load_file(path))
  _, wanted = outline(config)
  names = {hf_name(name, config): name for name in wanted}
  problems = []
  # Published checkpoints of tied models may hold the head all the same.
  if config.tie_word_embeddings and HEAD in stored:
    problems += (
      []
      if np.array_equal(stored.pop(HEAD), stored.get(hf_name('embedding', config)))
      else [f'{HEAD} is not the embedding that it is tied to']
    )
  problems += [f'missing {name}' for name in sorted(names.keys() - stored.keys())]
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
