"""Checkpoints come back bit for bit, or not at all."""

import os
import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from aevo_jax.checkpoint import digest, orbax_io
from aevo_jax.checkpoint.digest import ManifestError

REPOSITORY = Path(__file__).resolve().parents[2]


def example_tree(seed=0):
  generator = np.random.default_rng(seed)
  return {
    'decoder': {
      'kernel': generator.normal(size=(16, 8)).astype(np.float32),
      'scale': generator.normal(size=8).astype(ml_dtypes.bfloat16),
    },
    'step': np.asarray(7, np.int32),
    'blocks': [generator.integers(0, 255, 5).astype(np.uint8), np.full((1, 3), np.nan, np.float32)],
  }


def flat(tree):
  return {
    jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def assert_same_bits(left, right):
  left, right = flat(left), flat(right)
  assert left.keys() == right.keys()
  for name in left:
    assert left[name].dtype == right[name].dtype and left[name].shape == right[name].shape, name
    assert np.asarray(left[name]).tobytes() == np.asarray(right[name]).tobytes(), name


def test_round_trip(tmp_path):
  tree = example_tree()
  directory = orbax_io.save(
    tmp_path / 'deep/er/checkpoint',
    tree,
    metadata={'step': 7, 'loss': 0.5},
    data_state=b'\x00\xff state',
  )
  restored = orbax_io.restore(directory)
  assert_same_bits(restored, tree)
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(restored))
  assert orbax_io.read_metadata(directory) == {'step': 7, 'loss': 0.5}
  assert orbax_io.read_data_state(directory) == b'\x00\xff state'
  assert os.listdir(directory.parent) == ['checkpoint']
  other = orbax_io.save(tmp_path / 'other', tree)
  assert orbax_io.read_metadata(other) == {} and orbax_io.read_data_state(other) is None


def test_identity_is_independent_of_the_files(tmp_path):
  tree = example_tree()
  first = orbax_io.save(tmp_path / 'a', tree)
  second = orbax_io.save(tmp_path / 'b', jax.tree.map(jnp.asarray, tree))
  assert digest.file_manifest(first) != digest.file_manifest(second)  # Orbax draws its file names
  expected = digest.logical_digest(flat(tree))
  assert digest.logical_digest(flat(orbax_io.restore(first))) == expected
  assert digest.logical_digest(flat(orbax_io.restore(second))) == expected


def test_arrays_come_back_as_asked(tmp_path):
  parameters = {'w': jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}
  tree = {
    'parameters': parameters,
    'optimizer': optax.adamw(1e-3).init(parameters),
    'rng': jax.random.key_data(jax.random.key(1)),
    'table': np.arange(3.0),
  }
  directory = orbax_io.save(tmp_path / 'c', tree)

  restored = orbax_io.restore(directory, tree)
  assert jax.tree.structure(restored) == jax.tree.structure(tree)
  assert jax.tree.map(lambda leaf: isinstance(leaf, jax.Array), restored) == jax.tree.map(
    lambda leaf: isinstance(leaf, jax.Array), tree
  )
  assert_same_bits(restored, tree)

  sharding = jax.sharding.NamedSharding(
    jax.make_mesh((1,), ('data',)), jax.sharding.PartitionSpec('data')
  )
  abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree) | {
    'table': tree['table']
  }
  abstract['parameters'] = {'w': jax.ShapeDtypeStruct((2, 3), jnp.bfloat16, sharding=sharding)}
  restored = orbax_io.restore(directory, abstract)
  assert restored['parameters']['w'].sharding == sharding
  assert isinstance(restored['rng'], jax.Array) and isinstance(restored['table'], np.ndarray)
  assert_same_bits(restored, tree)


def test_another_tree_is_refused_with_all_differences(tmp_path):
  tree = example_tree()
  directory = orbax_io.save(tmp_path / 'c', tree)
  wrong = example_tree()
  wrong['decoder'] = {
    'kernel': np.zeros((16, 9), np.float32),
    'scale': np.zeros(8, np.float32),
    'bias': np.zeros(1),
  }
  del wrong['step']
  with pytest.raises(ValueError) as error:
    orbax_io.restore(directory, wrong)
  for difference in (
    'decoder/bias: not in',
    'step: in the checkpoint only',
    'stored float32[16, 8], asked for float32[16, 9]',
    'stored bfloat16[8], asked for float32[8]',
  ):
    assert difference in str(error.value)
  with pytest.raises(TypeError, match='ShapeDtypeStruct'):
    orbax_io.restore(
      directory,
      jax.tree.map(lambda leaf: leaf, {**tree, 'step': jax.core.ShapedArray((), np.int32)}),
    )
  orbax_io.save(tmp_path / 'wide', {'x': np.zeros(2, np.float64)})
  with pytest.raises(ValueError, match='jax_enable_x64'):
    orbax_io.restore(tmp_path / 'wide', {'x': jax.ShapeDtypeStruct((2,), np.float64)})


@pytest.mark.parametrize(
  ('tree', 'options', 'error', 'message'),
  [
    ({'a': [1.0]}, {}, TypeError, r"\['a'\]\[0\] is a float"),
    ({'a': np.zeros((0, 3))}, {}, TypeError, 'no elements'),
    ({'a': 'x'}, {}, TypeError, 'is a str'),
    ({'a': jax.random.key(0)}, {}, TypeError, 'key_data'),
    ({'a': np.zeros(1)}, {'metadata': {'loss': float('nan')}}, ValueError, 'JSON'),
  ],
)
def test_save_refusals(tmp_path, tree, options, error, message):
  with pytest.raises(error, match=message):
    orbax_io.save(tmp_path / 'c', tree, **options)
  assert os.listdir(tmp_path) == []


def test_checkpoints_are_immutable_and_local(tmp_path):
  orbax_io.save(tmp_path / 'c', example_tree())
  with pytest.raises(FileExistsError, match='immutable'):
    orbax_io.save(tmp_path / 'c', example_tree(1))
  assert_same_bits(orbax_io.restore(tmp_path / 'c'), example_tree())
  with pytest.raises(ValueError, match='URL'):
    orbax_io.save('gs://bucket/c', example_tree())


# When Orbax does notice damage, threads of its abandoned read report to an event loop that is gone.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_bit_flips_are_detected_and_orbax_alone_misses_some(tmp_path):
  # As in a real checkpoint, most bytes are weights: arrays this large lie apart from the
  # checksummed index.
  tree = example_tree() | {
    'embedding': np.random.default_rng(1).normal(size=(256, 128)).astype(np.float32)
  }
  directory = orbax_io.save(tmp_path / 'c', tree, metadata={'step': 7}, data_state=b'state' * 10)
  files = sorted(path for path in directory.rglob('*') if path.is_file() and path.stat().st_size)
  sizes = [path.stat().st_size for path in files]
  generator = random.Random(0)
  silent = 0
  for _ in range(100):
    path = generator.choices(files, sizes)[0]
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(flipped)
    with pytest.raises(ManifestError) as error:
      orbax_io.restore(directory)
    if path.name != digest.MANIFEST_NAME:
      assert error.value.changed == (path.relative_to(directory).as_posix(),)
      silent += orbax_restores_other_weights(directory / orbax_io.ARRAYS, tree)
    path.write_bytes(data)
  assert_same_bits(orbax_io.restore(directory), tree)
  assert silent >= 1, (
    'the positive control: without the manifest, wrong weights come back without a word'
  )


def orbax_restores_other_weights(directory, tree):
  arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      restored = checkpointer.restore(directory, item=tree, restore_args=arguments)
  except Exception:  # whatever Orbax and TensorStore raise on garbage: the damage was noticed
    return False
  return any(
    np.asarray(leaf).tobytes() != flat(tree)[name].tobytes()
    for name, leaf in flat(restored).items()
  )


def test_missing_and_extra_files_are_detected(tmp_path):
  directory = orbax_io.save(tmp_path / 'c', example_tree(), metadata={'step': 7})
  for path in sorted(path for path in directory.rglob('*') if path.is_file()):
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(ManifestError, match=path.name):
      orbax_io.restore(directory)
    path.write_bytes(data)
    extra = path.with_name('extra')
    extra.write_bytes(b'')
    with pytest.raises(ManifestError, match='extra'):
      orbax_io.restore(directory)
    extra.unlink()
  (directory / orbax_io.METADATA).write_text('{"step": 8}\n')
  with pytest.raises(ManifestError, match=orbax_io.METADATA):
    orbax_io.read_metadata(directory)
  (directory / orbax_io.METADATA).unlink()
  with pytest.raises(ManifestError, match=orbax_io.METADATA):
    orbax_io.read_metadata(directory)


def test_restore_never_falls_back_to_an_older_step(tmp_path):
  for step in (5, 10):
    orbax_io.save(
      orbax_io.step_directory(tmp_path, step), example_tree(step), metadata={'step': step}
    )
  assert orbax_io.latest_step(tmp_path) == 10
  (orbax_io.step_directory(tmp_path, 10) / orbax_io.ARRAYS / '_METADATA').write_bytes(b'{}')
  assert orbax_io.latest_step(tmp_path) == 10
  with pytest.raises(ManifestError, match='step_00000010'):
    orbax_io.restore(orbax_io.step_directory(tmp_path, 10))


def test_latest_step_of_nothing(tmp_path):
  assert orbax_io.latest_step(tmp_path / 'absent') is None
  (tmp_path / 'step_x').mkdir()
  (tmp_path / '.step_00000003.saving').mkdir()
  assert orbax_io.latest_step(tmp_path) is None
  assert orbax_io.step_directory(tmp_path, 123_456_789).name == 'step_123456789'


# One process imports JAX once and forks a child for each moment, which dies there while saving step
# 10. The moments are between steps of one function, and no argument of it is called there.
KILLED_SAVES = """
import os, signal, sys
import numpy as np
from aevo_jax.checkpoint import durable, orbax_io

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def save(root, moment):
    fsync, rename = durable.fsync, os.rename
    if moment == "before the manifest":
        orbax_io.digest_lib.write_manifest = die
    elif moment == "before the rename":
        def rename_or_die(source, target):
            if str(source).endswith(".saving"):
                die()
            return rename(source, target)

        os.rename = rename_or_die
    elif moment == "after the rename":
        durable.fsync = lambda path: die() if str(path) == root else fsync(path)
    orbax_io.save(orbax_io.step_directory(root, 10), {"w": np.ones(1000)}, metadata={"step": 10})

for moment in sys.argv[2:]:
    child = os.fork()
    if not child:
        save(os.path.join(sys.argv[1], moment), moment)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
"""


def test_a_kill_during_save_leaves_the_old_state_or_the_new(tmp_path):
  expected = {'before the manifest': 5, 'before the rename': 5, 'after the rename': 10}
  for moment in expected:
    orbax_io.save(
      orbax_io.step_directory(tmp_path / moment, 5), {'w': np.zeros(3)}, metadata={'step': 5}
    )
  environment = os.environ | {'PYTHONPATH': str(REPOSITORY), 'JAX_PLATFORMS': 'cpu'}
  subprocess.run(
    [sys.executable, '-c', KILLED_SAVES, tmp_path, *expected],
    env=environment,
    check=True,
    timeout=120,
  )
  for moment, step in expected.items():
    root = tmp_path / moment
    assert orbax_io.latest_step(root) == step, moment
    assert orbax_io.read_metadata(orbax_io.step_directory(root, step)) == {'step': step}
    assert orbax_io.restore(orbax_io.step_directory(root, step))['w'].shape == (
      (3,) if step == 5 else (1000,)
    )
    assert (root / '.step_00000010.saving').exists() == (step == 5)
    if step == 5:  # and the next try is not hindered by its own remains
      orbax_io.save(orbax_io.step_directory(root, 10), {'w': np.ones(2)})
    assert sorted(os.listdir(root)) == ['step_00000005', 'step_00000010']


def test_a_full_disk_during_save_leaves_no_checkpoint(tmp_path, monkeypatch):
  orbax_io.save(orbax_io.step_directory(tmp_path, 5), {'w': np.zeros(3)})

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  # Not an argument: Orbax syncs its own files, in the middle of a save.
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    orbax_io.save(orbax_io.step_directory(tmp_path, 10), {'w': np.zeros(3)})
  assert orbax_io.latest_step(tmp_path) == 5


def test_deferred_leaves_are_read_one_at_a_time_and_stored_like_arrays(tmp_path):
  arrays = {f'layer.{i}': np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(4)}
  arrays['half'] = np.array([1.5, -2.0], ml_dtypes.bfloat16)
  events = []

  def read(name):
    events.append(name)
    return arrays[name]

  leaves = {
    name: orbax_io.Deferred(a.shape, a.dtype, lambda name=name: read(name))
    for name, a in arrays.items()
  }
  orbax_io.save(tmp_path / 'deferred', leaves | {'plain': jnp.ones(2)})
  assert sorted(events) == sorted(arrays)
  restored = orbax_io.restore(
    tmp_path / 'deferred',
    {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}
    | {'plain': np.ones(2, np.float32)},
  )
  for name, array in arrays.items():
    assert (
      np.asarray(restored[name]).tobytes() == array.tobytes()
      and restored[name].dtype == array.dtype
    )
  with pytest.raises(TypeError, match='no elements'):
    orbax_io.save(tmp_path / 'empty', {'w': orbax_io.Deferred((0, 3), np.dtype('float32'), None)})


def test_arrays_are_restored_one_by_one_after_the_manifest_is_checked(tmp_path):
  arrays = {'a.b': np.arange(4.0), 'c': np.ones((2, 2), np.int32), 'd': np.zeros(1)}
  directory = orbax_io.save(tmp_path / 'one', arrays)
  found = dict(orbax_io.restore_each(directory, ['c', 'a.b']))
  assert list(found) == ['c', 'a.b'] and all(
    isinstance(v, np.ndarray) and v.dtype == arrays[n].dtype for n, v in found.items()
  )
  np.testing.assert_array_equal(found['c'], arrays['c'])
  with pytest.raises(KeyError, match="no array 'x'"):
    list(orbax_io.restore_each(directory, ['x']))
  (directory / 'metadata.json').write_text('{}')
  with pytest.raises(ManifestError):
    next(orbax_io.restore_each(directory, ['c']))
