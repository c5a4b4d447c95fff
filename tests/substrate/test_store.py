"""Objects are what their names say, forks point at them, and damage is always seen."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aevo_jax.checkpoint import digest as digest_lib
from aevo_jax.checkpoint import orbax_io
from aevo_jax.checkpoint.digest import ManifestError
from aevo_jax.substrate import store as store_lib
from aevo_jax.substrate.store import Fork, Store, open_fork, read_fork

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path):
  root = tmp_path / 'source'
  (root / 'data').mkdir(parents=True)
  (root / 'model.bin').write_bytes(bytes(range(256)))
  (root / 'data/recipe.gin').write_text('a.b = 1\n')
  return root


@pytest.fixture
def store(tmp_path):
  return Store(tmp_path / 'store')


def damage(path, data):
  path.chmod(0o644)  # what any process of the same user can do
  path.write_bytes(data)


def test_name_is_the_digest_of_the_manifest(store, source):
  name = store.put(source)
  path = store.path(name)
  assert name == hashlib.sha256((path / 'MANIFEST.json').read_bytes()).hexdigest()
  files = json.loads((path / 'MANIFEST.json').read_bytes())['files']
  assert files == {
    'data/recipe.gin': hashlib.sha256(b'a.b = 1\n').hexdigest(),
    'model.bin': hashlib.sha256(bytes(range(256))).hexdigest(),
  }
  assert store.verify(name) == path
  assert (path / 'data/recipe.gin').read_text() == 'a.b = 1\n'
  assert os.listdir(store.root) == [name]


def test_objects_are_read_only_copies(store, source):
  path = store.path(store.put(source))
  for parent, _, names in os.walk(path):
    assert os.stat(parent).st_mode & 0o777 == 0o555
    for file in names:
      status = os.stat(os.path.join(parent, file))
      assert status.st_mode & 0o777 == 0o444 and status.st_nlink == 1
  (source / 'model.bin').write_bytes(b'changed')  # the source goes its own way
  assert (path / 'model.bin').read_bytes() == bytes(range(256))


def test_same_content_same_object_and_other_content_another(store, source, tmp_path):
  name = store.put(source)
  assert store.put(source) == name
  assert store.put(store.path(name)) == name  # with its manifest
  assert Store(tmp_path / 'elsewhere').put(source) == name
  (source / 'model.bin').write_bytes(b'other')
  other = store.put(source)
  assert sorted(os.listdir(store.root)) == sorted([name, other])


def test_a_checkpoint_enters_as_it_is(store, tmp_path):
  tree = {'w': np.arange(5.0)}
  name = store.put(orbax_io.save(tmp_path / 'checkpoint', tree, metadata={'step': 1}))
  np.testing.assert_array_equal(orbax_io.restore(store.path(name))['w'], tree['w'])


def test_put_refusals(store, source, tmp_path):
  (source / 'link').symlink_to('/etc/passwd')
  with pytest.raises(ManifestError, match='link, which is a symbolic link'):
    store.put(source)
  (source / 'link').unlink()
  digest_lib.write_manifest(source)
  (source / 'model.bin').write_bytes(b'not what the manifest says')
  with pytest.raises(ManifestError, match=r'model.bin'):
    store.put(source)
  with pytest.raises(FileNotFoundError):
    store.put(tmp_path / 'absent')
  assert os.listdir(store.root) == []


def test_a_source_that_changes_while_copied_is_refused(source, tmp_path):
  def swap(source_file, target):
    target.write_bytes(b'swapped')

  store = Store(tmp_path / 'store', copy=swap)
  with pytest.raises(ManifestError, match='changed while'):
    store.put(source)
  assert os.listdir(store.root) == []


def test_a_failed_put_leaves_nothing(source, tmp_path):
  def full(directory):
    raise OSError(28, 'No space left on device')

  store = Store(tmp_path / 'store', sync=full)
  with pytest.raises(OSError, match='No space left'):
    store.put(source)
  assert os.listdir(store.root) == []


def test_concurrent_puts_agree(store, source):
  code = (
    'import sys; from aevo_jax.substrate.store import Store; '
    'print(Store(sys.argv[1]).put(sys.argv[2]))'
  )
  (source / 'large').write_bytes(b'z' * 5_000_000)
  environment = os.environ | {'PYTHONPATH': str(REPOSITORY)}
  writers = [
    subprocess.Popen(
      [sys.executable, '-c', code, store.root, source],
      stdout=subprocess.PIPE,
      env=environment,
      text=True,
    )
    for _ in range(4)
  ]
  names = {writer.communicate(timeout=60)[0].strip() for writer in writers}
  assert [writer.returncode for writer in writers] == [0] * 4
  assert len(names) == 1 and os.listdir(store.root) == list(names)


def test_fork_is_a_pointer(store, source, tmp_path):
  name = store.put(source)
  trial = tmp_path / 'trial'
  trial.mkdir()
  fork = store.fork(name, trial)
  assert fork == Fork(name, store.root) == read_fork(trial)
  assert (
    os.listdir(trial) == [store_lib.FORK_NAME]
    and (trial / store_lib.FORK_NAME).stat().st_size < 1000
  )
  assert open_fork(trial) == open_fork(trial, expected=name) == store.path(name)
  with pytest.raises(FileNotFoundError, match='put'):
    store.fork('0' * 64, trial)
  with pytest.raises(KeyError, match='64 hex digits'):
    store.path('../outside')


def test_every_damage_is_seen_when_a_fork_is_opened(store, source, tmp_path):
  name = store.put(source)
  store.fork(name, tmp_path)
  path = store.path(name)
  files = sorted(file for file in path.rglob('*') if file.is_file())
  generator = random.Random(0)
  for _ in range(100):
    file = generator.choice(files)
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    damage(file, bytes(flipped))
    with pytest.raises(ManifestError):
      open_fork(tmp_path)
    damage(file, data)
  open_fork(tmp_path)
  path.chmod(0o755)
  (path / 'extra').write_text('')
  with pytest.raises(ManifestError, match='extra: extra'):
    open_fork(tmp_path)
  (path / 'extra').unlink()
  # A consistent forgery: files and manifest agree with each other, but not with the name.
  damage(path / 'model.bin', b'poison')
  (path / 'MANIFEST.json').chmod(0o644)
  digest_lib.write_manifest(path)
  with pytest.raises(ManifestError, match='name was made from'):
    open_fork(tmp_path)
  with pytest.raises(ManifestError):
    store.put(source)  # nor is a damaged object taken for the stored one


def test_a_repointed_fork_is_refused(store, source, tmp_path):
  assigned = store.put(source)
  (source / 'model.bin').write_bytes(b'poison')
  other = store.put(source)
  store.fork(other, tmp_path)  # what a worker could write over its own pointer
  assert open_fork(tmp_path)
  with pytest.raises(ManifestError, match='was assigned'):
    open_fork(tmp_path, expected=assigned)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"digest": "x"}', '[' * 100_000])
def test_foreign_pointers(tmp_path, text):
  (tmp_path / store_lib.FORK_NAME).write_text(text)
  with pytest.raises(ValueError, match='not a fork'):
    open_fork(tmp_path)


def test_pointer_to_a_missing_store(tmp_path):
  with pytest.raises(FileNotFoundError):
    open_fork(tmp_path)
  (tmp_path / store_lib.FORK_NAME).write_text(
    json.dumps({'digest': '0' * 64, 'store': str(tmp_path / 'absent')})
  )
  with pytest.raises(FileNotFoundError, match='does not exist'):
    open_fork(tmp_path)
  assert not (tmp_path / 'absent').exists()
