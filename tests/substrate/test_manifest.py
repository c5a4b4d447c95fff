"""The substrate's manifest: what it accepts, and that every difference is told."""

import dataclasses
import json

import pytest

from aevo_jax.substrate import manifest as manifest_lib
from aevo_jax.substrate.manifest import (
  BaseCheckpoint,
  CodeTree,
  SubstrateManifest,
  SubstrateManifestError,
)

MANIFEST = SubstrateManifest(
  BaseCheckpoint('l0', {'model.safetensors': 'm0', 'config.json': 'c0'}),
  CodeTree('t0', {'aevo_jax/a.py': 'a0'}),
  'r0',
)


def test_round_trip(tmp_path):
  path = tmp_path / 'manifest.json'
  manifest_lib.write(path, MANIFEST)
  assert manifest_lib.read(path) == MANIFEST
  assert json.loads(path.read_text()) == {
    'schema': 1,
    'base_checkpoint': {
      'logical_digest': 'l0',
      'files': {'model.safetensors': 'm0', 'config.json': 'c0'},
    },
    'code_tree': {'digest': 't0', 'files': {'aevo_jax/a.py': 'a0'}},
    'recipe': 'r0',
  }


def test_check_lists_every_difference():
  assert manifest_lib.check(MANIFEST, dataclasses.replace(MANIFEST)) == []
  measured = SubstrateManifest(
    BaseCheckpoint('l1', {'config.json': 'c1', 'new': 'n'}),
    CodeTree('t1', {'aevo_jax/a.py': 'a1'}),
    'r1',
  )
  assert manifest_lib.check(MANIFEST, measured) == [
    'base checkpoint tensors: manifest says l0, measured l1',
    'code tree: manifest says t0, measured t1',
    'recipe: manifest says r0, measured r1',
    'base checkpoint: model.safetensors is missing',
    'base checkpoint: new is not in the manifest',
    'base checkpoint: config.json changed',
    'code tree: aevo_jax/a.py changed',
  ]


@pytest.mark.parametrize(
  ('edit', 'field'),
  [
    (lambda fields: fields | {'schema': 2}, 'schema'),
    (lambda fields: fields | {'more': 1}, 'the top level'),
    (lambda fields: [fields], 'the top level'),
    (lambda fields: fields | {'recipe': 3}, 'recipe'),
    (lambda fields: fields | {'base_checkpoint': {'files': {}}}, 'base_checkpoint'),
    (
      lambda fields: fields | {'base_checkpoint': {'logical_digest': None, 'files': {}}},
      'base_checkpoint.logical_digest',
    ),
    (lambda fields: fields | {'code_tree': {'digest': 'x', 'files': {'a': 1}}}, 'code_tree.files'),
    (lambda fields: fields | {'code_tree': {'digest': 'x', 'files': []}}, 'code_tree.files'),
  ],
)
def test_malformed_manifests_name_the_field(tmp_path, edit, field):
  path = tmp_path / 'manifest.json'
  manifest_lib.write(path, MANIFEST)
  path.write_text(json.dumps(edit(json.loads(path.read_text()))))
  with pytest.raises(SubstrateManifestError, match=f'{field} must be'):
    manifest_lib.read(path)


def test_no_json(tmp_path):
  (tmp_path / 'manifest.json').write_text('{')
  with pytest.raises(SubstrateManifestError, match='not JSON'):
    manifest_lib.read(tmp_path / 'manifest.json')
  with pytest.raises(FileNotFoundError):
    manifest_lib.read(tmp_path / 'absent.json')
