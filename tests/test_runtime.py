"""Child processes of ours get no secrets, and end with their parent."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from aevo_jax import runtime

REPOSITORY = pathlib.Path(runtime.__file__).resolve().parents[1]


def test_children_get_no_secrets(monkeypatch):
  for name in (
    'OPENAI_API_KEY',
    'AEVO_ARBITER_HOME',
    'AWS_SECRET_ACCESS_KEY',
    'HTTPS_PROXY',
    'LD_PRELOAD',
  ):
    monkeypatch.setenv(name, 'secret')
  environment = runtime.child_environment()
  assert 'secret' not in environment.values() and environment['PATH'] == os.environ['PATH']
  assert environment[runtime.PARENT] == str(os.getpid())


CHILD = """
import sys, time
if sys.argv[1] == 'late':
  time.sleep(1)
from aevo_jax.runtime import die_with_parent
die_with_parent()
print('alive', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize('when', ['early', 'late'])
def test_no_child_outlives_its_parent_not_even_one_that_was_still_starting(tmp_path, when):
  """'late' reaches its prctl after the parent is gone, so that no signal can come any more."""
  parent = (
    'import os, subprocess, sys, time; p = subprocess.Popen([sys.executable, "-c", '
    'sys.argv[1], sys.argv[2]], stdout=open(sys.argv[3], "w"), start_new_session=True,'
    ' env=os.environ | {"AEVO_PARENT_PID": str(os.getpid())}); print(p.pid, flush=True); '
    'time.sleep(60)'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', parent, CHILD, when, str(tmp_path / 'out')],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY)},
  )
  child = int(process.stdout.readline())
  limit = time.monotonic() + 30
  while when == 'early' and 'alive' not in (tmp_path / 'out').read_text():
    assert time.monotonic() < limit
    time.sleep(0.02)
  process.kill()
  process.wait()
  process.stdout.close()
  while (
    pathlib.Path(f'/proc/{child}').exists()
    and pathlib.Path(f'/proc/{child}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
  ):
    assert time.monotonic() < limit, 'the child outlived its parent'
    time.sleep(0.02)
  assert ('alive' in (tmp_path / 'out').read_text()) == (when == 'early')
