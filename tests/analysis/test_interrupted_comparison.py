"""Interrupted comparisons: what was compiled or measured until then is printed and written."""

import json
import signal
import subprocess
import sys

from aevo_command import REPOSITORY, environment


def interrupted(after: str, *arguments: str) -> tuple[int, str, str]:
  """Sends SIGINT once a line of standard error has some text; returns status and both outputs."""
  process = subprocess.Popen(
    [
      # Whoever starts the tests in the background may have had interrupts ignored.
      *('env', '--default-signal=INT', sys.executable),
      *('-m', 'aevo_jax.cli', 'compare_sharding', '--hardware=cpux2', '--row_length=16'),
      *('--gin_file=configs/models/micro_nemotron_h.gin', "--gin.model.pattern='-'", *arguments),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment(),
    cwd=REPOSITORY,
  )
  said = ''
  assert process.stderr is not None
  for line in process.stderr:
    said += line
    if after in line:
      process.send_signal(signal.SIGINT)
      break
  out, rest = process.communicate(timeout=120)
  return process.returncode, out, said + rest


def test_rows_that_are_compiled_are_kept_and_the_status_says_so(tmp_path):
  status, out, said = interrupted(
    'compiled,',
    '--meshes=configs/meshes/fsdp.gin',
    '--meshes=configs/meshes/hybrid.gin',
    '--jobs=1',
    f'--json={tmp_path}/t.json',
    f'--html={tmp_path}/t.html',
  )
  assert status == 130, said
  assert 'interrupted; what there was until then:' in said and 'Traceback' not in said
  (row,) = json.loads((tmp_path / 't.json').read_text())
  assert row['fits'] and f'| {row["mesh"]} | cpux2 |' in out
  assert row['mesh'] in (tmp_path / 't.html').read_text()


def test_rounds_that_are_measured_are_kept(tmp_path):
  status, out, said = interrupted(
    'control: round 1',
    '--meshes=configs/meshes/fsdp.gin',
    '--measure=2',
    '--rounds=100000',
    f'--json={tmp_path}/t.json',
  )
  assert status == 130, said
  row, control = json.loads((tmp_path / 't.json').read_text())
  assert len(row['measured']['round_seconds']) >= 1 and row['measured']['seconds'] > 0
  assert control['mesh'] == 'control' and control['repeats'] == 'fsdp'
  assert 'Traceback' not in said and '| control | cpux2 | fsdp again |' in out
