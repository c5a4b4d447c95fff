"""A model's checkpoint in Hugging Face's layout: model.safetensors and config.json.

Names and config.json are in the spelling of the model's family (`families/`). Linear weights are
stored [out, in] there and [in, out] here, experts [expert, out, in] there and [expert, in, out]
here; the convolution [channels, 1, kernel] there and [kernel, channels] here. Names may begin with
`model.` or `backbone.`; experts may be stacked, one by one, or with gate and up in one tensor.
Weights travel as safetensors only; pickle is never read.

`models.weights.load` reads a checkpoint of any form.
"""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from aevo_jax import faults
from aevo_jax.checkpoint import run_directory
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.families import config_json, registry
from aevo_jax.models.families.config_json import ConfigJsonError
from aevo_jax.models.params import outline

WEIGHTS = 'model.safetensors'
CONFIG = 'config.json'
GATE_UP = '.experts.gate_up_proj'
HEAD = 'lm_head.weight'
# Files in which ModelOpt, GPTQ and AWQ say how they quantised the weights beside them.
_QUANTISED_BY = ('hf_quant_config.json', 'quantize_config.json', 'quant_config.json')
_ONE_EXPERT = re.compile(r'(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight')


def hf_name(name: str, config: ModelConfig) -> str:
  """Spells a parameter as the config's family does.

  Args:
    name: ours, such as 'layers.0.mixer.q_proj.kernel'.
    config: of the family whose spelling is wanted.

  Returns:
    The stored name, experts stacked, such as 'model.layers.0.self_attn.q_proj.weight'.
  """
  return registry.FAMILIES[config.family].hf_name(name)


def to_hf(name: str, value: np.ndarray) -> np.ndarray:
  """Lays a parameter out as Hugging Face does.

  Args:
    name: our parameter name.
    value: the array in our layout.

  Returns:
    The array in the stored layout, experts stacked; contiguous where axes moved.
  """
  if name.endswith('.kernel'):
    return np.ascontiguousarray(value.T)
  if name.endswith('.conv_kernel'):
    return np.ascontiguousarray(value.T[:, None, :])
  if '.experts.' in name:
    return np.ascontiguousarray(np.swapaxes(value, 1, 2))
  return value


def from_hf(name: str, value: np.ndarray) -> np.ndarray:
  """Inverts `to_hf`.

  Args:
    name: our parameter name.
    value: the array in the stored layout.

  Returns:
    A view in our layout.
  """
  if name.endswith('.kernel'):
    return value.T
  if name.endswith('.conv_kernel'):
    return value[:, 0, :].T
  if '.experts.' in name:
    return np.swapaxes(value, 1, 2)
  return value


def canonical(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames stored tensors to the names of `hf_name`.

  Args:
    stored: the tensors of a checkpoint.

  Returns:
    The same numbers: `backbone.` becomes `model.`, experts that lie one by one are stacked, and
    gate and up are taken apart.

  Raises:
    ValueError: some of the experts of a block are missing.
  """
  named = {}
  experts_apart = {}
  for stored_name, value in stored.items():
    name = re.sub(r'^backbone\.', 'model.', stored_name)
    expert = _ONE_EXPERT.fullmatch(name)
    if expert:
      experts_apart.setdefault(f'{expert[1]}.{expert[3]}', {})[int(expert[2])] = value
    elif name.endswith(GATE_UP):
      stem = name.removesuffix('gate_up_proj')
      named[f'{stem}gate_proj'], named[f'{stem}up_proj'] = np.split(value, 2, axis=1)
    else:
      named[name] = value
  for name, experts in experts_apart.items():
    if sorted(experts) != list(range(len(experts))):
      raise ValueError(
        f'{name} has experts {sorted(experts)}; the first {max(experts) + 1} are needed'
      )
    named[name] = np.stack([experts[i] for i in range(len(experts))])
  return named


def as_stored(name: str, value: np.ndarray, config: ModelConfig) -> dict[str, np.ndarray]:
  """Lists the tensors that a checkpoint holds of one parameter.

  Args:
    name: our parameter name.
    value: its array in our layout.
    config: of the family of the checkpoint.

  Returns:
    One tensor by its stored name, or one for each expert.
  """
  tensor = to_hf(name, value)
  stored_name = hf_name(name, config)
  if '.experts.' not in name or not registry.FAMILIES[config.family].experts_apart:
    return {stored_name: tensor}
  stem, _, leaf = stored_name.rpartition('.')
  return {f'{stem}.{i}.{leaf}.weight': expert for i, expert in enumerate(tensor)}


def config_to_hf(config: ModelConfig, *, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
  """Writes a config.json that Hugging Face and vLLM read.

  Args:
    config: the model.
    eos_token_id: the token that ends a generation.
    pad_token_id: the token of padding.

  Returns:
    Its fields. Weights are float32 there, as `save_weights` writes them.
  """
  return registry.FAMILIES[config.family].config_to_hf(vars(config)) | {
    'torch_dtype': 'float32',
    'eos_token_id': eos_token_id,
    'pad_token_id': pad_token_id,
    'bos_token_id': None,
  }


def config_from_hf(fields: Mapping[str, Any]) -> ModelConfig:
  """Reads config.json.

  Args:
    fields: its content.

  Returns:
    The model, in float32 and with the default execution.

  Raises:
    ConfigJsonError: another model type, quantised weights, a field that is missing, of another type
      or out of its range, or a value that the decoder does not compute, by name.
  """
  config_json.refuse_quantised(fields)
  family = registry.of_model_type(fields.get('model_type'))
  declared = registry.FAMILIES[family]
  values = declared.config_from_hf(fields)
  config_json.check_passed_over(fields, declared.ignored, values['vocab_size'])
  try:
    return ModelConfig(family=family, **values)
  except ValueError as error:
    raise ConfigJsonError(f'config.json gives sizes that do not go together: {error}') from error


def remarks(directory: pathlib.Path) -> list[str]:
  """Says what a person should know of a checkpoint's config.json.

  Args:
    directory: of a checkpoint, an import or a stored substrate that can be read.

  Returns:
    A sentence each: what others compute otherwise, and fields that this reader does not know.
  """
  fields = config_fields(directory)
  family = registry.FAMILIES[registry.of_model_type(fields.get('model_type'))]
  sentences = family.remarks(fields)
  unknown = config_json.unknown(fields, family.fields, family.ignored)
  if unknown:
    sentences.append(
      f'{directory / CONFIG} has fields that are not known here and change nothing: '
      f'{", ".join(unknown)}'
    )
  return sentences


def config_as_saved(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config.json that is true of what `save_weights` writes.

  Args:
    fields: the content of another config.json of the model.

  Returns:
    The same as of float32 weights, see `config_as_held`, and without the layers of multi-token
    prediction, which no forward pass uses and nobody stores.
  """
  saved = config_as_held(fields, {'float32': 1})
  if 'num_nextn_predict_layers' in saved:
    saved['num_nextn_predict_layers'] = 0
  return saved


def save_config(base: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the config.json that is true of what `save_weights` writes.

  Args:
    base: has another config.json of the model. It is copied byte for byte where it is true.
    out: gets it.
  """
  fields = json.loads((base / CONFIG).read_text())
  saved = config_as_saved(fields)
  if repr(saved) == repr(fields):  # 128 == 128.0
    shutil.copyfile(base / CONFIG, out / CONFIG)
    return
  (out / CONFIG).write_text(json.dumps(saved, indent=2, ensure_ascii=False) + '\n')


def config_as_held(fields: Mapping[str, Any], dtypes: Mapping[str, int]) -> dict[str, Any]:
  """Returns the config.json that is true of weights, and that others read.

  Args:
    fields: the content of a config.json that `config_from_hf` reads.
    dtypes: of the weights: {dtype: how many numbers}.

  Returns:
    The same, with integers spelt as integers. A dtype that none of the weights has, or two that
    differ, become the one of most of the weights.
  """
  family = registry.FAMILIES[registry.of_model_type(fields['model_type'])]
  passed_over = config_json.passed_over(fields, family.ignored, int(fields['vocab_size']))
  held = config_json.with_integers(fields, {**family.fields, **passed_over})
  labels = [name for name in ('torch_dtype', 'dtype') if held.get(name) is not None]
  said = {held[name] for name in labels}
  if labels and (len(said) > 1 or not said <= dtypes.keys()):
    held[labels[0]] = max(dtypes, key=dtypes.__getitem__)
    for name in labels[1:]:
      del held[name]
  return held


def save_weights(
  path: pathlib.Path, params: Mapping[str, jax.Array | np.ndarray], config: ModelConfig
) -> None:
  """Writes every parameter of a decoder as one safetensors file, in float32.

  Args:
    path: the file; an existing one is replaced.
    params: arrays by our names, adapters merged beforehand.
    config: of the family whose spelling the file has.

  Raises:
    OSError: see `save_tensors`.
  """
  tensors = {}
  for name, value in sorted(params.items()):
    tensors |= as_stored(name, np.asarray(value, np.float32), config)
  save_tensors(path, tensors)


def save_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a safetensors file.

  Args:
    path: the file; an existing one is replaced.
    tensors: by the names that the file has.

  Raises:
    OSError: the disk is full, or whatever else the system says to safetensors.
  """
  try:
    save_file(dict(tensors), path, metadata={'format': 'pt'})
  except SafetensorError as error:
    code = faults.system_errno(str(error))
    if code is None:
      raise
    raise OSError(code, os.strerror(code), str(path)) from error


def read_file(path: pathlib.Path, config: ModelConfig) -> dict[str, np.ndarray]:
  """Reads one safetensors file whole; `models.weights.load` is the way to it.

  Args:
    path: the file, with experts in any of the three forms.
    config: the model that it must hold.

  Returns:
    Arrays by our names, in their stored dtypes.

  Raises:
    ValueError: tensors missing, extra or of a wrong shape, each by name.
  """
  stored = canonical(load_file(path))
  _, shapes = outline(config)
  names = {hf_name(name, config): name for name in shapes}
  problems = []
  # Published checkpoints of tied models may hold the head all the same.
  if config.tie_word_embeddings and HEAD in stored:
    embedding = stored.get(hf_name('embedding', config))
    head = stored.pop(HEAD)
    if embedding is None or not np.array_equal(head, embedding):
      problems.append(f'{HEAD} is not the embedding that it is tied to')
  problems += [f'missing {name}' for name in sorted(names.keys() - stored.keys())]
  problems += [f'unexpected {name}' for name in sorted(stored.keys() - names.keys())]
  params = {}
  for stored_name, name in names.items():
    value = stored.get(stored_name)
    if value is None:
      continue
    needed = to_hf(name, np.empty(shapes[name].shape)).shape
    if value.shape != needed:
      problems.append(f'{stored_name} has shape {value.shape} where {needed} is needed')
    else:
      params[name] = from_hf(name, value)
  if problems:
    raise ValueError(f'{path} does not fit the model of its config.json: ' + '; '.join(problems))
  return params


def config_fields(directory: pathlib.Path) -> dict[str, Any]:
  """Reads a directory's config.json as it is.

  Args:
    directory: of a checkpoint, an import or a stored substrate.

  Returns:
    Its content. Infinity and NaN are numbers, also where transformers 5 spells them as objects.

  Raises:
    FileNotFoundError: there is no config.json.
    ConfigJsonError: it is no JSON object, or a file beside it says that weights are quantised.
  """
  path = directory / CONFIG
  if not path.exists():
    raise FileNotFoundError(run_directory.no_base(directory))
  try:
    fields = json.loads(path.read_text(), object_hook=_untagged)
  except (ValueError, RecursionError) as error:
    raise ConfigJsonError(f'{path} is no JSON ({error}); {faults.again(path)}') from None
  if not isinstance(fields, dict):
    raise ConfigJsonError(f'{path} holds no JSON object; download it again')
  for name in _QUANTISED_BY:
    if (directory / name).exists():
      raise ConfigJsonError(
        f'{directory / name} says that the weights are quantised, and quantised weights are not '
        f'read. {config_json.UNQUANTISED} If the weights beside it are plain already, remove it'
      )
  return fields


def _untagged(value: dict[str, Any]) -> Any:
  """Reads an object by which transformers 5 spells a number that JSON has not."""
  if value.keys() == {'__float__'} and isinstance(value['__float__'], str):
    return float(value['__float__'])
  return value


def read_config(directory: pathlib.Path) -> ModelConfig:
  """Reads the model that a directory's config.json describes.

  Args:
    directory: of a checkpoint, an import or a stored substrate.

  Returns:
    The model, see `config_from_hf`.

  Raises:
    FileNotFoundError: there is no config.json.
    ConfigJsonError: it is no JSON object, or of a model that the decoder does not compute.
  """
  return config_from_hf(config_fields(directory))
