"""The code digest follows sources and nothing else."""

import hashlib
import json
from pathlib import Path

import pytest

from aevo_jax.substrate.code_digest import code_tree_digest


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'aevo_jax/part').mkdir(parents=True)
  (tmp_path / 'aevo_jax/__init__.py').write_text('')
  (tmp_path / 'aevo_jax/part/a.py').write_text('x = 1\n')
  (tmp_path / 'launch').mkdir()
  (tmp_path / 'launch/train.py').write_text('main()\n')
  return tmp_path


def sha(text):
  return hashlib.sha256(text.encode()).hexdigest()


def test_digest_by_hand(root):
  files = {'aevo_jax/__init__.py': sha(''), 'aevo_jax/part/a.py': sha('x = 1\n')}
  assert code_tree_digest(root) == (sha(json.dumps(files, separators=(',', ':'))), files)


def test_caches_data_and_mapped_folders_do_not_count(root):
  before = code_tree_digest(root)
  for name in (
    'aevo_jax/__pycache__/a.py',
    'aevo_jax/_launch/train.py',
    'aevo_jax/_configs/c.py',
    'aevo_jax/part/notes.txt',
    'tests/test_a.py',
  ):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text('y')
  assert code_tree_digest(root) == before


def test_every_source_counts(root):
  seen = {code_tree_digest(root)[0], code_tree_digest(root, ['launch/train.py'])[0]}
  (root / 'aevo_jax/part/a.py').write_text('x = 2\n')
  seen.add(code_tree_digest(root)[0])
  (root / 'aevo_jax/part/a.py').rename(root / 'aevo_jax/part/b.py')
  seen.add(code_tree_digest(root)[0])
  (root / 'aevo_jax/new.py').write_text('')
  seen.add(code_tree_digest(root)[0])
  assert len(seen) == 5


def test_refusals(root, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'absent.py'):
    code_tree_digest(root, ['launch/absent.py'])
  with pytest.raises(FileNotFoundError, match='holds no aevo_jax'):
    code_tree_digest(root / 'launch')
  (root / 'aevo_jax/link.py').symlink_to(root / 'launch/train.py')
  with pytest.raises(OSError):
    code_tree_digest(root)
  (root / 'aevo_jax/link.py').unlink()
  (root / 'aevo_jax/linked').symlink_to(root / 'launch', target_is_directory=True)
  with pytest.raises(OSError, match='symbolic link'):
    code_tree_digest(root)


def test_this_code():
  root = Path(__file__).resolve().parents[2]
  digest, files = code_tree_digest(root)
  assert 'aevo_jax/substrate/code_digest.py' in files and (digest, files) == code_tree_digest(root)
