"""Where the files of a model to be scored lie. Imports no JAX, so a wrong path fails at once."""

import json
import pathlib

from aevo_jax import layout

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
CONFIG = 'config.json'
ADAPTER = 'adapter_model.safetensors'
ADAPTER_CONFIG = 'adapter_config.json'


class StoredModelError(ValueError):
  """Weights, base or adapter are missing, unreadable or of another model."""


def find_weights(path: pathlib.Path) -> pathlib.Path:
  """Finds the weights that a path means.

  Args:
    path: a safetensors file, a base, an export or adapter directory, a trial, or a run of
      `aevo train`.

  Returns:
    The safetensors file, or the directory itself where it holds shards or an import.

  Raises:
    StoredModelError: there are none.
  """
  for directory in (path, path / 'export'):
    is_import = (directory / 'checkpoint').is_dir() and (directory / CONFIG).is_file()
    if (directory / INDEX).is_file() or is_import:
      return directory
  candidates = [path / WEIGHTS, path / 'export' / WEIGHTS]
  if path.is_file():
    candidates = [path]
  elif (path / ADAPTER_CONFIG).is_file():
    candidates = [path / ADAPTER]
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  if path.is_dir():
    raise StoredModelError(
      f'{path} holds no {WEIGHTS}, nor export/{WEIGHTS}; give a safetensors file or a '
      'directory with one'
    )
  raise StoredModelError(f'there is no {path}')


def find_base(weights: pathlib.Path) -> pathlib.Path:
  """Finds the base of weights for which nobody named one.

  Args:
    weights: what `find_weights` returned.

  Returns:
    The directory beside the weights if it has a config.json, the adapter's base, or the project's.

  Raises:
    StoredModelError: an adapter whose base is not on this machine.
  """
  beside = weights
  if not weights.is_dir():
    beside = weights.parent
  if weights.name == ADAPTER:
    named = base_of_adapter(beside)
    if not (named / CONFIG).exists():
      shown = named
      if named == pathlib.Path():
        shown = 'an unnamed base'
      raise StoredModelError(
        f'{beside} is an adapter on {shown}, which is no directory here; give its directory '
        'with --base'
      )
    return named
  if (beside / CONFIG).exists():
    return beside
  return layout.root_file('substrate') / 'base'


def base_of_adapter(directory: pathlib.Path) -> pathlib.Path:
  """Returns the base that an adapter's config names; `Path()` where it names none."""
  fields = json.loads((directory / ADAPTER_CONFIG).read_text())
  return pathlib.Path(fields.get('base_model_name_or_path') or '')
