"""The head of a model card: what the Hugging Face hub and its libraries read of a README.md.

Nothing is made up: a license is the base's own or 'unknown', a base is named as its config.json or
the command named it, and no language is claimed.
"""

import pathlib
from typing import Any

import yaml

from aevo_jax.models.hf import checkpoint

CARD = 'README.md'
LICENSE_FILES = ('LICENSE', 'LICENSE.txt', 'LICENSE.md', 'NOTICE', 'NOTICE.txt')
UNKNOWN = 'unknown'
_FENCE = '---\n'
_LICENSE_FIELDS = ('license', 'license_name', 'license_link')


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Reads the head of a directory's card.

  Args:
    directory: of a checkpoint.

  Returns:
    Its fields; none where there is no card, or none with a head that is YAML.
  """
  try:
    text = (directory / CARD).read_text(encoding='utf-8')
  except (FileNotFoundError, UnicodeDecodeError):
    return {}
  if not text.startswith(_FENCE):
    return {}
  try:
    fields = yaml.safe_load(text.removeprefix(_FENCE).partition(f'\n{_FENCE}')[0])
  except yaml.YAMLError:
    return {}
  return fields if isinstance(fields, dict) else {}


def license_of(base: pathlib.Path) -> dict[str, Any]:
  """Returns what a base's card says of its license.

  Args:
    base: its directory.

  Returns:
    `license`, 'unknown' where the card names none, with its name and link where they are given.
  """
  said = read(base)
  fields = {name: said[name] for name in _LICENSE_FIELDS if said.get(name)}
  return {'license': UNKNOWN} | fields


def base_name(base: pathlib.Path) -> str:
  """Names a base: as its config.json does, else as its directory was given.

  Args:
    base: its directory.
  """
  try:
    named = checkpoint.config_fields(base).get('_name_or_path')
  except (OSError, ValueError):
    named = None
  return str(named or base)


def write(
  base: pathlib.Path, *, base_model: str, library_name: str, provenance: dict[str, str]
) -> str:
  """Writes the head of a card.

  Args:
    base: directory of the base, whose license is taken over.
    base_model: the base's name.
    library_name: that loads the directory, 'transformers' or 'peft'.
    provenance: further facts, such as the code's commit and the tasks' digest.

  Returns:
    YAML between its two fences.
  """
  fields = license_of(base) | {
    'base_model': base_model,
    'library_name': library_name,
    'tags': ['aevo_jax'],
    'aevo_jax': provenance,
  }
  text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
  return f'{_FENCE}{text}{_FENCE}'
