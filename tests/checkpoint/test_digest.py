"""The logical digest sees values and nothing else; the manifest sees every file."""

import hashlib
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from aevo_jax.checkpoint import digest
from aevo_jax.checkpoint.digest import MANIFEST_NAME, ManifestError


def test_logical_digest_by_hand():
  text = b'["a", "int16", [2]]\n' + b'\x01\x00\x02\x01' + b'["b", "bfloat16", []]\n' + b'\x80\x3f'
  flat = {'b': np.asarray(1.0, ml_dtypes.bfloat16), 'a': np.array([1, 258], np.int16)}
  assert digest.logical_digest(flat) == hashlib.sha256(text).hexdigest()


def test_logical_digest_ignores_container_and_layout():
  values = np.arange(24, dtype=np.float32).reshape(4, 6)
  expected = digest.logical_digest({'w': values, 'z': values[0]})
  for same in (
    jnp.asarray(values),
    np.asfortranarray(values),
    values.astype('>f4'),
    values.copy()[::1],
    np.repeat(values, 2, axis=0)[::2],
    values.tolist() and np.array(values.tolist(), np.float32),
  ):
    assert digest.logical_digest({'z': values[0], 'w': same}) == expected
  assert digest.logical_digest({'w': jnp.ones(3, jnp.bfloat16)}) == digest.logical_digest(
    {'w': np.ones(3, ml_dtypes.bfloat16)}
  )


def test_logical_digest_sees_every_difference():
  base = {'w': np.zeros((2, 3), np.float32), 'x': np.zeros(2, np.int32)}
  variants = [
    base,
    base | {'w': np.zeros((3, 2), np.float32)},
    base | {'w': np.zeros((2, 3), np.int32)},
    base | {'w': np.zeros((2, 3), ml_dtypes.bfloat16)},
    base | {'w': -np.zeros((2, 3), np.float32)},
    base | {'w': np.full((2, 3), np.nan, np.float32)},
    base | {'x': np.array([0, 1], np.int32)},
    {'w': base['w'], 'y': base['x']},
    {'w': base['w']},
    base | {'empty': np.zeros((0, 3))},
    base | {'empty': np.zeros((3, 0))},
    {},
  ]
  assert len({digest.logical_digest(variant) for variant in variants}) == len(variants)


@pytest.mark.parametrize(
  ('flat', 'message'),
  [
    ({1: np.zeros(1)}, 'names are strings'),
    ({'w': np.array(['a'])}, "'w' has dtype"),
    ({'w': np.array([None])}, "'w' has dtype object"),
    ({'w': np.zeros(1, [('x', 'f4')])}, "'w' has dtype"),
  ],
)
def test_logical_digest_refusals(flat, message):
  with pytest.raises(TypeError, match=message):
    digest.logical_digest(flat)
  with pytest.raises(TypeError, match='key_data'):
    digest.logical_digest({'key': jax.random.key(0)})


@pytest.fixture
def tree(tmp_path):
  root = tmp_path / 'tree'
  (root / 'a/b').mkdir(parents=True)
  (root / 'a/b/x').write_bytes(b'x' * 100)
  (root / 'y é').write_bytes(b'')
  return root


def test_manifest(tree):
  expected = {
    'a/b/x': hashlib.sha256(b'x' * 100).hexdigest(),
    'y é': hashlib.sha256(b'').hexdigest(),
  }
  assert digest.file_manifest(tree) == expected
  assert digest.write_manifest(tree) == expected
  assert digest.verify_manifest(tree) == expected
  assert digest.file_manifest(tree) == expected  # without itself
  assert (
    digest.manifest_digest(expected)
    == hashlib.sha256((tree / MANIFEST_NAME).read_bytes()).hexdigest()
  )


def test_missing_extra_and_changed_files_are_named(tree):
  digest.write_manifest(tree)
  (tree / 'y é').unlink()
  (tree / 'a/new').write_bytes(b'')
  (tree / 'a' / MANIFEST_NAME).write_bytes(b'{}')
  (tree / 'a/b/x').write_bytes(b'x' * 99 + b'y')
  with pytest.raises(ManifestError) as error:
    digest.verify_manifest(tree)
  assert (error.value.missing, error.value.extra, error.value.changed) == (
    ('y é',),
    (f'a/{MANIFEST_NAME}', 'a/new'),
    ('a/b/x',),
  )
  assert all(name in str(error.value) for name in ('y é', 'a/new', 'a/b/x', str(tree)))


def test_every_byte_of_the_manifest_counts(tree):
  digest.write_manifest(tree)
  path = tree / MANIFEST_NAME
  data = path.read_bytes()
  for position in range(len(data)):
    for bit in (0, 5):  # 5 turns upper case into lower, and a space into NUL
      flipped = bytearray(data)
      flipped[position] ^= 1 << bit
      path.write_bytes(flipped)
      with pytest.raises(ManifestError):
        digest.verify_manifest(tree)


@pytest.mark.parametrize(
  'data', [b'', b'[]', b'null', b'{"files": []}', b'[' * 100_000, b'\xff', b'{"files": {"x": NaN}}']
)
def test_hostile_manifests(tree, data):
  (tree / MANIFEST_NAME).write_bytes(data)
  with pytest.raises(ManifestError, match='damaged'):
    digest.verify_manifest(tree)


def test_links_and_pipes_are_refused(tree, tmp_path):
  with pytest.raises(ManifestError, match=MANIFEST_NAME):
    digest.verify_manifest(tree)
  os.mkfifo(tree / 'a/pipe')
  with pytest.raises(ManifestError, match='a/pipe'):
    digest.file_manifest(tree)
  (tree / 'a/pipe').unlink()
  digest.write_manifest(tree)
  # A link to the very same bytes: equal now, and whatever its target becomes later.
  os.rename(tree / 'a/b/x', tmp_path / 'elsewhere')
  (tree / 'a/b/x').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ManifestError, match='a/b/x, which is a symbolic link'):
    digest.verify_manifest(tree)
  (tree / 'a/b/x').unlink()
  os.rename(tmp_path / 'elsewhere', tree / 'a/b/x')
  digest.verify_manifest(tree)
  os.rename(tree / 'a', tmp_path / 'a')
  (tree / 'a').symlink_to(tmp_path / 'a', target_is_directory=True)
  with pytest.raises(ManifestError, match='symbolic link'):
    digest.verify_manifest(tree)
  (tmp_path / 'link').symlink_to(tree)
  with pytest.raises(ManifestError, match='symbolic link'):
    digest.file_manifest(tmp_path / 'link')
  with pytest.raises(OSError):
    digest.file_digest(tmp_path / 'link')
