"""A run goes on from its latest checkpoint, or is told what to do with a damaged one."""

import errno
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from aevo_jax import faults
from aevo_jax.checkpoint import orbax_io
from aevo_jax.checkpoint.resume import DamagedCheckpointError, restore_latest


def tree(step: int) -> dict[str, np.ndarray]:
  return {'w': np.full((3, 2), step, np.float32)}


@pytest.fixture
def root(tmp_path):
  """Checkpoints of steps 10 and 20."""
  for step in (10, 20):
    path = orbax_io.step_directory(tmp_path, step)
    orbax_io.save(path, tree(step), data_state=str(step).encode())
  return tmp_path


def test_the_latest_is_restored(root, tmp_path):
  latest = restore_latest(root, tree(0))
  assert (latest.step, latest.data_state) == (20, b'20')
  np.testing.assert_array_equal(latest.tree['w'], tree(20)['w'])
  assert restore_latest(tmp_path / 'nothing', tree(0)) is None


def emptied(path):
  for entry in path.iterdir():
    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def first_array_file(path):
  return next(p for p in sorted((path / 'arrays').rglob('*')) if p.is_file())


# What may have happened to a checkpoint, and what is said of it.
DAMAGE = {
  'emptied': (emptied, 'its manifest is missing'),
  'no data state': (lambda path: (path / 'data_state.bin').unlink(), r'data_state\.bin is not as'),
  'no manifest': (lambda path: (path / 'MANIFEST.json').unlink(), 'its manifest is missing'),
  'a cut manifest': (lambda path: (path / 'MANIFEST.json').write_text('{'), 'its manifest is'),
  'no arrays': (lambda path: shutil.rmtree(path / 'arrays'), 'arrays/.* is not as it was saved'),
  'a cut array': (lambda path: first_array_file(path).write_bytes(b''), 'is not as it was saved'),
  'a file too many': (lambda path: (path / 'more').write_text('x'), 'more is not as it was saved'),
}


@pytest.mark.parametrize(('damage', 'said'), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_latest_is_named_with_the_step_before(root, damage, said):
  latest = orbax_io.step_directory(root, 20)
  damage(latest)
  with pytest.raises(DamagedCheckpointError, match=said) as error:
    restore_latest(root, tree(0))
  assert str(latest) in str(error.value) and '\n' not in str(error.value)
  assert str(error.value).endswith(
    'remove that directory, and the same command goes on from step 10'
  )
  shutil.rmtree(latest)
  assert restore_latest(root, tree(0)).step == 10


def test_without_an_earlier_one_the_run_begins_again(root):
  shutil.rmtree(orbax_io.step_directory(root, 10))
  emptied(orbax_io.step_directory(root, 20))
  with pytest.raises(DamagedCheckpointError, match=r'and the same command begins again$'):
    restore_latest(root, tree(0))


def test_one_that_was_saved_without_its_data_is_of_no_use(root):
  path = orbax_io.step_directory(root, 30)
  orbax_io.save(path, tree(30))
  with pytest.raises(DamagedCheckpointError, match=re.escape(f'{path} is damaged (it has no')):
    restore_latest(root, tree(0))


SAVE = """
import resource, sys, numpy as np
from aevo_jax import faults
from aevo_jax.checkpoint import orbax_io
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
values = np.random.default_rng(0).normal(size=1_000_000)
try:
  orbax_io.save(sys.argv[1], {'w': values})
except OSError as error:
  print(faults.explain(error))
"""


@pytest.mark.parametrize(('limit', 'named'), [(3_000_000, 'step_00000001'), (100_000, '')])
def test_a_file_that_grows_too_large_for_orbax_is_the_systems_error(tmp_path, limit, named):
  """TensorStore raises ValueError; a full disk comes the same way. A limit far below the 8 MB of
  the array is seen beforehand.
  """
  path = tmp_path / 'step_00000001'
  done = subprocess.run(
    [sys.executable, '-c', SAVE, str(path), str(limit)],
    capture_output=True,
    text=True,
    check=False,
  )
  said = f'{tmp_path / named}: the file has reached the size limit'
  assert done.stdout.startswith(said), done.stderr[-2000:]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('said', 'code'),
  [
    ('RESOURCE_EXHAUSTED: Failed to write: "x" [OS error 28: ENOSPC No space left on device]', 28),
    ('OUT_OF_RANGE: Error writing "x" [OS error 27: EFBIG File too large]', errno.EFBIG),
    ('[OS error 122: EDQUOT Disk quota exceeded]', errno.EDQUOT),
    ('PERMISSION_DENIED: [OS error 30: EROFS Read-only file system]', errno.EROFS),
    ('NOT_FOUND: no such array', None),
  ],
)
def test_the_systems_error_is_found_in_tensorstores_words(said, code):
  assert faults.system_errno(said) == code
