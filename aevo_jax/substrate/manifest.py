"""`substrate/manifest.json`: the digests that were audited, committed, and compared with what lies
on this machine.

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
  """The manifest file is not one, naming the field."""


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """Digest of the base checkpoint's tensors, and relative path -> SHA-256 of the files of one copy."""

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
  """Reads the manifest. Raises SubstrateManifestError (or FileNotFoundError), naming the field that
  is wrong.
  """
  path = Path(path)
  try:
    fields = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise SubstrateManifestError(f'{path} is not JSON: {error}') from None
  _require(
    isinstance(fields, dict)
    and set(fields) == {'schema', 'base_checkpoint', 'code_tree', 'recipe'},
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
  base, code = fields['base_checkpoint'], fields['code_tree']
  _require(
    isinstance(base, dict) and set(base) == {'logical_digest', 'files'},
    path,
    'base_checkpoint',
    'the keys logical_digest and files',
  )
  _require(
    isinstance(code, dict) and set(code) == {'digest', 'files'},
    path,
    'code_tree',
    'the keys digest and files',
  )
  for field, value in (
    ('base_checkpoint.logical_digest', base['logical_digest']),
    ('code_tree.digest', code['digest']),
    ('recipe', fields['recipe']),
  ):
    _require(isinstance(value, str), path, field, 'a digest in hex')
  for field, value in (
    ('base_checkpoint.files', base['files']),
    ('code_tree.files', code['files']),
  ):
    _require(
      isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
      path,
      field,
      'a table of path to digest',
    )
  return SubstrateManifest(BaseCheckpoint(**base), CodeTree(**code), fields['recipe'])


def write(path: str | os.PathLike, manifest: SubstrateManifest) -> None:
  """Writes the manifest as sorted, indented JSON, so that a changed digest is one changed line in
  review.
  """
  fields = {'schema': SCHEMA, **dataclasses.asdict(manifest)}
  Path(path).write_text(json.dumps(fields, sort_keys=True, indent=2) + '\n', encoding='ascii')


def check(manifest: SubstrateManifest, measured: SubstrateManifest) -> list[str]:
  """The differences between the audited manifest and what was measured on this machine, in words;
  empty if none.
  """
  differences = []
  for what, expected, found in (
    (
      'base checkpoint tensors',
      manifest.base_checkpoint.logical_digest,
      measured.base_checkpoint.logical_digest,
    ),
    ('code tree', manifest.code_tree.digest, measured.code_tree.digest),
    ('recipe', manifest.recipe, measured.recipe),
  ):
    if expected != found:
      differences.append(f'{what}: manifest says {expected}, measured {found}')
  for what, expected, found in (
    ('base checkpoint', manifest.base_checkpoint.files, measured.base_checkpoint.files),
    ('code tree', manifest.code_tree.files, measured.code_tree.files),
  ):
    differences += [f'{what}: {name} is missing' for name in sorted(expected.keys() - found.keys())]
    differences += [
      f'{what}: {name} is not in the manifest' for name in sorted(found.keys() - expected.keys())
    ]
    differences += [
      f'{what}: {name} changed'
      for name in sorted(expected.keys() & found.keys())
      if expected[name] != found[name]
    ]
  return differences


def _require(condition: bool, path: Path, field: str, expected: str) -> None:
  if not condition:
    raise SubstrateManifestError(f'{path}: {field} must be {expected}')
