"""LoRA adapters in the form of the PEFT library (0.21).

An adapter is adapter_config.json and adapter_model.safetensors. A map's A and B are stored as
`base_model.model.MODULE.lora_A.weight` [r, in] and `lora_B.weight` [out, r]. Stacked experts are
PEFT's `target_parameters`: A of all experts behind one another, [e r, in], B with the expert as the
faster index, [out, r e]; PEFT wraps their module once for each adapted weight, so that all but the
last lie below one `base_layer` more than the next.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from aevo_jax import faults
from aevo_jax.models import lora as lora_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.families import config_json
from aevo_jax.models.hf.checkpoint import save_tensors
from aevo_jax.models.hf.stored import NAMED
from aevo_jax.models.params import abstract, is_adapter, outline

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
CHALLENGE_MAX_RANK = 32  # of the challenge's submission format
_PREFIX = 'base_model.model.'
_EXPERTS = ('up_proj', 'down_proj')  # in the order in which PEFT wraps them
# Fields of adapter_config.json that do not change what a loaded adapter computes, or that are read.
# Any other that is set is refused.
_READ = {'peft_type', 'r', 'lora_alpha', 'target_modules', 'target_parameters', 'init_lora_weights'}
_NUMBERS = {
  'r': config_json.Field(config_json.SIZE),
  'lora_alpha': config_json.Field(config_json.FACTOR),
}
# Values of init_lora_weights that leave the base alone. PEFT repeats any other on loading, and it
# changes the base.
_HARMLESS_STARTS = (True, False, None, 'gaussian', 'eva', 'orthogonal')
_HARMLESS = {
  'auto_mapping',
  'base_model_name_or_path',
  'ensure_weight_tying',
  'eva_config',
  'inference_mode',
  'lora_dropout',
  'megatron_config',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
  'task_type',
}


class AdapterError(ValueError):
  """An adapter that cannot be written or read; the message says what to do."""


@runtime_checkable
class Shape(Protocol):
  """Rank, and alpha of the scale alpha / rank; `recipe.Lora` is one."""

  rank: int
  alpha: float


class Adapter(NamedTuple):
  """An adapter that was read.

  Attributes:
    params: lora_a and lora_b by our names.
    rank: columns of A and rows of B.
    alpha: scales it by alpha / rank.
  """

  params: dict[str, np.ndarray]
  rank: int
  alpha: float


class _Slot(NamedTuple):
  """One stored tensor: our parameter, its shape, and whether it is B."""

  parameter: str
  shape: tuple[int, ...]
  is_b: bool

  def peft_shape(self) -> tuple[int, int]:
    """Returns the shape in which PEFT stores the tensor."""
    *experts, rows, columns = self.shape
    count = experts[0] if experts else 1
    if self.is_b:
      return (columns, rows * count)
    return (columns * count, rows)


def save(
  directory: pathlib.Path,
  params: Mapping[str, jax.Array | np.ndarray],
  config: ModelConfig,
  lora: Shape,
  base_name: str,
  *,
  max_rank: int | None = None,
) -> None:
  """Writes an adapter into a new directory.

  Args:
    directory: must not exist.
    params: by our names; those that are no adapter are left out.
    config: of the model.
    lora: the adapter's rank and alpha.
    base_name: what adapter_config.json says of the base: a name on the hub, or a path.
    max_rank: refuse a higher rank, such as CHALLENGE_MAX_RANK.

  Raises:
    AdapterError: the rank is too high, there is no adapter, or PEFT has no form for it.
    FileExistsError: `directory` exists.
  """
  if max_rank is not None and lora.rank > max_rank:
    raise AdapterError(
      f'lora.rank is {lora.rank} and the submission format allows {max_rank} at most; '
      'train with a lower lora.rank'
    )
  adapters = {name: np.asarray(value) for name, value in params.items() if is_adapter(name)}
  maps = sorted({lora_lib.map_of(name) for name in adapters})
  if not maps:
    raise AdapterError(
      'there is no adapter among the parameters; train with adaptation.method = "lora", '
      'and export before adapters are merged'
    )
  slots = _slots(maps, config, lora.rank)
  _check(
    {slot.parameter: slot.shape for slot in slots.values()},
    {name: value.shape for name, value in adapters.items()},
    'the adapter does not fit the model or lora.rank',
  )
  directory.mkdir(parents=True)
  tensors = {key: _to_peft(adapters[slot.parameter], slot) for key, slot in sorted(slots.items())}
  save_tensors(directory / WEIGHTS, tensors)
  fields = _fields(maps, config, lora, base_name)
  (directory / CONFIG).write_text(json.dumps(fields, indent=2) + '\n')


def _fields(maps: list[str], config: ModelConfig, lora: Shape, base_name: str) -> dict[str, Any]:
  """Returns adapter_config.json of an adapter of these maps of ours."""
  modules = []
  parameters = []
  for name in maps:
    targets = parameters if '.experts.' in name else modules
    targets.append(lora_lib.hf_module(name, config))
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base_name,
    'r': lora.rank,
    'lora_alpha': int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
    'target_modules': modules,
    'target_parameters': parameters or None,
    'bias': 'none',
    'lora_dropout': 0.0,
    'fan_in_fan_out': False,
    'use_rslora': False,
    'use_dora': False,
    'init_lora_weights': True,
    'inference_mode': True,
    'modules_to_save': None,
    'rank_pattern': {},
    'alpha_pattern': {},
  }


def load(directory: pathlib.Path, config: ModelConfig) -> Adapter:
  """Reads an adapter of a model.

  Args:
    directory: with its two files.
    config: of the model.

  Returns:
    The adapter, in the dtypes in which it is stored.

  Raises:
    AdapterError: not an adapter, an option that we do not compute (rsLoRA, DoRA, ...), or tensors
      that are missing, unexpected or of a wrong shape, by name.
  """
  try:
    fields = json.loads((directory / CONFIG).read_text())
    stored = load_file(directory / WEIGHTS)
  except FileNotFoundError as error:
    raise AdapterError(
      f'{directory} is no adapter: there is no {error.filename or WEIGHTS}; pickled ones '
      '(adapter_model.bin) are not read'
    ) from error
  except (ValueError, RecursionError, SafetensorError) as error:
    raise AdapterError(
      f'{directory} holds a damaged adapter ({error}); {faults.again(directory / WEIGHTS)}'
    ) from error
  if not isinstance(fields, dict):
    raise AdapterError(f'{directory / CONFIG} holds no JSON object; copy it again')
  _refuse(fields, directory / CONFIG)
  numbers = config_json.typed(fields, _NUMBERS).values
  rank = numbers['r']
  try:
    slots = _slots(_targeted(fields, config), config, rank)
  except re.error as error:
    raise AdapterError(
      f'{directory / CONFIG} has target_modules = {fields["target_modules"]!r}, which is no '
      f'regular expression ({error})'
    ) from error
  _check(
    {key: slot.peft_shape() for key, slot in slots.items()},
    {key: value.shape for key, value in stored.items()},
    f'{directory / WEIGHTS} does not fit the model',
  )
  params = {slot.parameter: _from_peft(stored[key], slot) for key, slot in slots.items()}
  return Adapter(params, rank, numbers['lora_alpha'])


def _refuse(fields: dict[str, Any], path: pathlib.Path) -> None:
  """Raises AdapterError for what is no LoRA, or sets an option that we do not compute."""
  if fields.get('peft_type') != 'LORA':
    raise AdapterError(f'{path} has peft_type {fields.get("peft_type")!r}; only "LORA" is read')
  numbers, refused = config_json.typed(fields, _NUMBERS)
  refused += [f'no {name}' for name in _NUMBERS if name not in numbers and name not in fields]
  for name in ('target_modules', 'target_parameters'):
    targets = fields.get(name) or []
    if not isinstance(targets, str) and (
      not isinstance(targets, list) or not all(isinstance(target, str) for target in targets)
    ):
      refused.append(f'{name} = {targets!r} (only a string or a list of strings)')
  for name, value in sorted(fields.items()):
    if name not in _READ | _HARMLESS and value not in (None, False, 'none', {}, []):
      refused.append(f'{name} = {value!r}')
  start = fields.get('init_lora_weights')
  if start not in _HARMLESS_STARTS:
    refused.append(f'init_lora_weights = {start!r}')
  if refused:
    raise AdapterError(
      f'{path} asks for what is not computed here: {", ".join(refused)}; train the adapter without'
    )


def _targeted(fields: dict[str, Any], config: ModelConfig) -> list[str]:
  """Lists our names of the maps that adapter_config.json names, as PEFT reads it."""
  modules = fields.get('target_modules') or []
  parameters = fields.get('target_parameters') or []
  maps = {lora_lib.hf_module(name, config): name for name in lora_lib.map_names(abstract(config))}
  targeted = []
  for module, name in sorted(maps.items()):
    targets = parameters if '.experts.' in name else modules
    if _is_targeted(module, targets):
      targeted.append(name)
  return targeted


def _is_targeted(module: str, targets: list[str] | str) -> bool:
  """Tells whether targets mean a module: names, their ends, or one regular expression."""
  if targets == 'all-linear':
    return module != 'lm_head'
  if isinstance(targets, str):
    return bool(re.fullmatch(targets, module))
  return any(module == target or module.endswith(f'.{target}') for target in targets)


def _slots(maps: Iterable[str], config: ModelConfig, rank: int) -> dict[str, _Slot]:
  """Lists the tensors of adapters of these maps of ours, {PEFT's name: what it is}."""
  maps = list(maps)
  _, shapes = outline(config)
  slots = {}
  for name in maps:
    module = lora_lib.hf_module(name, config)
    if '.experts.' in name:
      module = _wrapped_module(name, module, maps, shapes)
    *experts, rows, columns = shapes[lora_lib.weight_of(name)].shape
    adapter = lora_lib.adapter_of(name)
    slots[f'{_PREFIX}{module}.lora_A.weight'] = _Slot(
      f'{adapter}.lora_a', (*experts, rows, rank), False
    )
    slots[f'{_PREFIX}{module}.lora_B.weight'] = _Slot(
      f'{adapter}.lora_b', (*experts, rank, columns), True
    )
  return slots


def _wrapped_module(name: str, module: str, maps: list[str], shapes: Mapping[str, Any]) -> str:
  """Returns where PEFT puts the adapter of an experts' weight, below the wrappers outside of it."""
  stem, _, leaf = name.rpartition('.')
  others = []
  for weight in sorted(shapes):
    if weight.startswith(f'{stem}.') and weight.rpartition('.')[2] not in _EXPERTS:
      others.append(weight)
  if others:
    raise AdapterError(
      f'{name} has no form in PEFT: transformers stores it together with {others[0]}; '
      'merge the adapter and export the weights, or leave experts out'
    )
  wrapped = [expert for expert in _EXPERTS if f'{stem}.{expert}' in maps]
  outside = len(wrapped) - 1 - wrapped.index(leaf)
  return module.rpartition('.')[0] + '.base_layer' * outside


def _to_peft(value: np.ndarray, slot: _Slot) -> np.ndarray:
  """Lays A or B out as PEFT does."""
  if value.ndim != 3:
    return np.ascontiguousarray(value.T)
  # B [e, r, out] -> [out, r, e], A [e, in, r] -> [e, r, in].
  axes = (2, 1, 0) if slot.is_b else (0, 2, 1)
  return np.ascontiguousarray(value.transpose(axes)).reshape(slot.peft_shape())


def _from_peft(value: np.ndarray, slot: _Slot) -> np.ndarray:
  """Inverts `_to_peft`."""
  if len(slot.shape) != 3:
    return np.ascontiguousarray(value.T)
  e, rows, columns = slot.shape
  if slot.is_b:
    value = value.reshape(columns, rows, e).transpose(2, 1, 0)
  else:
    value = value.reshape(e, columns, rows).transpose(0, 2, 1)
  return np.ascontiguousarray(value)


def _check(wanted: Mapping[str, tuple], stored: Mapping[str, tuple], what: str) -> None:
  """Raises AdapterError unless both have the same names and shapes."""
  problems = [f'missing {name}' for name in sorted(wanted.keys() - stored.keys())]
  problems += [f'unexpected {name}' for name in sorted(stored.keys() - wanted.keys())]
  for name in sorted(wanted.keys() & stored.keys()):
    if stored[name] != wanted[name]:
      problems.append(f'{name} has shape {stored[name]} where {wanted[name]} is needed')
  if problems:
    text = '; '.join(problems[:NAMED])
    if len(problems) > NAMED:
      text += f'; and {len(problems) - NAMED} more'
    raise AdapterError(f'{what}: {text}')
