"""LoRA adapters in the form of the PEFT library (0.21): adapter_config.json and
adapter_model.safetensors.

A map's A and B are stored as `base_model.model.MODULE.lora_A.weight` [r, in] and `lora_B.weight`
[out, r]. Stacked experts are PEFT's `target_parameters`: A of all experts behind one another, [e r,
in], B with the expert as the faster index, [out, r e]; PEFT wraps their module once for each
adapted weight, so that all but the last lie below one `base_layer` more than the next.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from aevo_jax.models import lora as lora_lib
from aevo_jax.models.config import ModelConfig
from aevo_jax.models.hf.stream import NAMED
from aevo_jax.models.params import abstract, is_adapter, unbind

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
CHALLENGE_MAX_RANK = 32  # of the challenge's submission format
_PREFIX = 'base_model.model.'
_EXPERTS = ('up_proj', 'down_proj')  # in the order in which PEFT wraps them
# Fields of adapter_config.json that do not change what a loaded adapter computes, or that are read.
# Any other that is set is refused.
_READ = {'peft_type', 'r', 'lora_alpha', 'target_modules', 'target_parameters', 'init_lora_weights'}
_PLAIN_STARTS = (
  True,
  False,
  None,
  'gaussian',
  'eva',
  'orthogonal',
)  # PEFT repeats any other on loading, and it changes the base
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


class Shape(Protocol):
  """Rank, and alpha of the scale alpha / rank; `recipe.Lora` is one."""

  rank: int
  alpha: float


class Adapter(NamedTuple):
  """params: lora_a and lora_b by our names."""

  params: dict[str, np.ndarray]
  rank: int
  alpha: float


class _Slot(NamedTuple):
  """One stored tensor: our parameter, its shape, and whether it is B."""

  parameter: str
  shape: tuple[int, ...]
  is_b: bool


def save(
  directory: pathlib.Path,
  params: Mapping[str, jax.Array],
  config: ModelConfig,
  lora: Shape,
  base_name: str,
  *,
  max_rank: int | None = None,
) -> None:
  """Writes the adapters among `params` into the new directory `directory`.

  Args:
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
  modules = [lora_lib.hf_module(name, config) for name in maps if '.experts.' not in name]
  parameters = [lora_lib.hf_module(name, config) for name in maps if '.experts.' in name]
  fields = {
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
  directory.mkdir(parents=True)
  save_file(
    {key: _to_peft(adapters[slot.parameter], slot) for key, slot in sorted(slots.items())},
    directory / WEIGHTS,
    metadata={'format': 'pt'},
  )
  (directory / CONFIG).write_text(json.dumps(fields, indent=2) + '\n')


def load(directory: pathlib.Path, config: ModelConfig) -> Adapter:
  """Reads an adapter of this model.

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
  except (json.JSONDecodeError, SafetensorError) as error:
    raise AdapterError(f'{directory} holds a damaged adapter ({error}); copy it again') from error
  if fields.get('peft_type') != 'LORA':
    raise AdapterError(
      f'{directory / CONFIG} has peft_type {fields.get("peft_type")!r}; only "LORA" is read'
    )
  refused = [
    f'{name} = {value!r}'
    for name, value in sorted(fields.items())
    if name not in _READ | _HARMLESS and value not in (None, False, 'none', {}, [])
  ]
  if (start := fields.get('init_lora_weights')) not in _PLAIN_STARTS:
    refused.append(f'init_lora_weights = {start!r}')
  if refused:
    raise AdapterError(
      f'{directory / CONFIG} asks for what is not computed here: {", ".join(refused)}; '
      'train the adapter without'
    )
  rank = fields['r']
  slots = _slots(_targeted(fields, config), config, rank)
  _check(
    {key: _peft_shape(slot) for key, slot in slots.items()},
    {key: value.shape for key, value in stored.items()},
    f'{directory / WEIGHTS} does not fit the model',
  )
  return Adapter(
    {slot.parameter: _from_peft(stored[key], slot) for key, slot in slots.items()},
    rank,
    fields['lora_alpha'],
  )


def _targeted(fields: dict, config: ModelConfig) -> list[str]:
  """Our names of the maps that adapter_config.json names, as PEFT reads it: whole names, their
  ends, or one regular expression.
  """
  maps = {lora_lib.hf_module(name, config): name for name in lora_lib.map_names(abstract(config))}
  modules, parameters = fields.get('target_modules') or [], fields.get('target_parameters') or []

  def chosen(module: str) -> bool:
    wanted = parameters if '.experts.' in maps[module] else modules
    if wanted == 'all-linear':
      return module != 'lm_head'
    return (
      bool(re.fullmatch(wanted, module))
      if isinstance(wanted, str)
      else any(module == w or module.endswith(f'.{w}') for w in wanted)
    )

  return [maps[module] for module in sorted(maps) if chosen(module)]


def _slots(maps: Iterable[str], config: ModelConfig, rank: int) -> dict[str, _Slot]:
  """{PEFT's name of a tensor: what it is}, for adapters of these maps of ours."""
  maps, slots, weights = list(maps), {}, unbind(abstract(config))[1]
  for name in maps:
    module = lora_lib.hf_module(name, config)
    if '.experts.' in name:
      stem = name.rpartition('.')[0]
      others = sorted(
        w for w in weights if w.startswith(f'{stem}.') and w.rpartition('.')[2] not in _EXPERTS
      )
      if others:
        raise AdapterError(
          f'{name} has no form in PEFT: transformers stores it together with {others[0]}; '
          'merge the adapter and export the weights, or leave experts out'
        )
      wrapped = [leaf for leaf in _EXPERTS if f'{stem}.{leaf}' in maps]
      outside = len(wrapped) - 1 - wrapped.index(name.rpartition('.')[2])
      module = module.rpartition('.')[0] + '.base_layer' * outside
    *experts, rows, columns = weights[lora_lib.weight_of(name)].shape
    adapter = lora_lib.adapter_of(name)
    slots[f'{_PREFIX}{module}.lora_A.weight'] = _Slot(
      f'{adapter}.lora_a', (*experts, rows, rank), False
    )
    slots[f'{_PREFIX}{module}.lora_B.weight'] = _Slot(
      f'{adapter}.lora_b', (*experts, rank, columns), True
    )
  return slots


def _peft_shape(slot: _Slot) -> tuple[int, int]:
  *experts, rows, columns = slot.shape
  count = experts[0] if experts else 1
  return (columns, rows * count) if slot.is_b else (columns * count, rows)


def _to_peft(value: np.ndarray, slot: _Slot) -> np.ndarray:
  if value.ndim == 3:  # B [e, r, out] -> [out, r, e], A [e, in, r] -> [e, r, in]
    value = value.transpose(2, 1, 0) if slot.is_b else value.transpose(0, 2, 1)
    return np.ascontiguousarray(value).reshape(_peft_shape(slot))
  return np.ascontiguousarray(value.T)


def _from_peft(value: np.ndarray, slot: _Slot) -> np.ndarray:
  if len(slot.shape) == 3:
    e, rows, columns = slot.shape
    value = (
      value.reshape(columns, rows, e).transpose(2, 1, 0)
      if slot.is_b
      else value.reshape(e, columns, rows).transpose(0, 2, 1)
    )
    return np.ascontiguousarray(value)
  return np.ascontiguousarray(value.T)


def _check(wanted: Mapping[str, tuple], found: Mapping[str, tuple], what: str) -> None:
  problems = [f'missing {name}' for name in sorted(wanted.keys() - found.keys())] + [
    f'unexpected {name}' for name in sorted(found.keys() - wanted.keys())
  ]
  problems += [
    f'{name} has shape {found[name]} where {wanted[name]} is needed'
    for name in sorted(wanted.keys() & found.keys())
    if found[name] != wanted[name]
  ]
  if problems:
    raise AdapterError(
      f'{what}: '
      + '; '.join(problems[:NAMED])
      + (f'; and {len(problems) - NAMED} more' if len(problems) > NAMED else '')
    )
