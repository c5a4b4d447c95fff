"""`substrate/manifest.json`: the digests that were audited and committed.

They are compared with what lies on this machine.

    {"schema": 1,
     "base_checkpoint": {"logical_digest": "...", "files": {"model.safetensors": "...", ...}},
     "code_tree": {"digest": "...", "files": {"aevo_jax/...py": "...", ...}},
     "recipe": "..."}

The base checkpoint's identity is its logical digest; the digests of its files belong to the
committed copy. A campaign measures all of them before its first trial and refuses to start on any
difference that `check` lists.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

SCHEMA = 1


class SubstrateManifestError(ValueError):
  """The file is no manifest; the message names the field."""


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """The base checkpoint.

  Attributes:
    logical_digest: of its tensors.
    files: relative path -> SHA-256, of the files of one copy.
  """

  logical_digest: str
  files: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class CodeTree:
  """The two results of `code_digest.code_tree_digest`."""

  digest: str
  files: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class SubstrateManifest:
  """What the substrate is. `recipe` is the digest of the default recipe's canonical text."""

  base_checkpoint: BaseCheckpoint
  code_tree: CodeTree
  recipe: str


def read(path: str | os.PathLike) -> SubstrateManifest:
  """Reads a manifest.

  Args:
    path: of the file.

  Returns:
    Its content.

  Raises:
    SubstrateManifestError: it is no manifest, naming the field that is wrong.
    FileNotFoundError: there is none.
  """
  path = Path(path)
  try:
    fields = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise SubstrateManifestError(f'{path} is not JSON: {error}') from None
  _require(
    _has_keys(fields, {'schema', 'base_checkpoint', 'code_tree', 'recipe'}),
    path,
    'the top level',
    'the keys schema, base_checkpoint, code_tree and recipe',
  )
  _require(
    fields['schema'] == SCHEMA,
    path,
    'schema',
    f'{SCHEMA}; it was written by another version of this code, write it again',
  )
  base = fields['base_checkpoint']
  code = fields['code_tree']
  _require(
    _has_keys(base, {'logical_digest', 'files'}),
    path,
    'base_checkpoint',
    'the keys logical_digest and files',
  )
  _require(_has_keys(code, {'digest', 'files'}), path, 'code_tree', 'the keys digest and files')
  digests = {
    'base_checkpoint.logical_digest': base['logical_digest'],
    'code_tree.digest': code['digest'],
    'recipe': fields['recipe'],
  }
  for field, digest in digests.items():
    _require(isinstance(digest, str), path, field, 'a digest in hex')
  tables = {'base_checkpoint.files': base['files'], 'code_tree.files': code['files']}
  for field, table in tables.items():
    _require(_is_table(table), path, field, 'a table of path to digest')
  return SubstrateManifest(BaseCheckpoint(**base), CodeTree(**code), fields['recipe'])


def write(path: str | os.PathLike, manifest: SubstrateManifest) -> None:
  """Writes a manifest.

  It is sorted, indented JSON, so that a changed digest is one changed line in review.

  Args:
    path: of the file; an existing one is replaced.
    manifest: its content.
  """
  fields = {'schema': SCHEMA, **dataclasses.asdict(manifest)}
  Path(path).write_text(json.dumps(fields, sort_keys=True, indent=2) + '\n', encoding='ascii')


def check(manifest: SubstrateManifest, measured: SubstrateManifest) -> list[str]:
  """Compares an audited manifest with what was measured on this machine.

  Args:
    manifest: the audited one.
    measured: the digests of what lies here.

  Returns:
    The differences in words; empty if there are none.
  """
  base = manifest.base_checkpoint
  measured_base = measured.base_checkpoint
  code = manifest.code_tree
  measured_code = measured.code_tree
  return [
    *_digests('base checkpoint tensors', base.logical_digest, measured_base.logical_digest),
    *_digests('code tree', code.digest, measured_code.digest),
    *_digests('recipe', manifest.recipe, measured.recipe),
    *_files('base checkpoint', base.files, measured_base.files),
    *_files('code tree', code.files, measured_code.files),
  ]


def _digests(what: str, expected: str, measured: str) -> list[str]:
  """Compares two digests."""
  if expected == measured:
    return []
  return [f'{what}: manifest says {expected}, measured {measured}']


def _files(what: str, expected: Mapping[str, str], measured: Mapping[str, str]) -> list[str]:
  """Compares two tables of path to digest."""
  missing = sorted(expected.keys() - measured.keys())
  extra = sorted(measured.keys() - expected.keys())
  differences = [f'{what}: {name} is missing' for name in missing]
  differences += [f'{what}: {name} is not in the manifest' for name in extra]
  for name in sorted(expected.keys() & measured.keys()):
    if expected[name] != measured[name]:
      differences.append(f'{what}: {name} changed')
  return differences


def _has_keys(value: object, keys: set[str]) -> bool:
  return isinstance(value, dict) and set(value) == keys


def _is_table(value: object) -> bool:
  return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _require(condition: bool, path: Path, field: str, expected: str) -> None:
  if not condition:
    raise SubstrateManifestError(f'{path}: {field} must be {expected}')
