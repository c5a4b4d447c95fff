"""Real faults of the machine: a limit, a full disk and a read-only one under a campaign, and a
worker that the kernel kills for want of memory.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from aevo_command import aevo_process, environment
from test_kill import assert_same

from aevo_jax.campaign.decisions.state import fold
from aevo_jax.campaign.machine.fault import PAUSED_STATUS
from aevo_jax.campaign.setup.setup import LEDGER
from aevo_jax.ledger.append import read
from aevo_jax.report.audit import checks

CGROUPS = pathlib.Path('/sys/fs/cgroup')
# Python runs it at its start: a worker whose directory wants it takes 1 GB of memory.
TAKES_MEMORY = """
import os, sys

def hook(event, arguments):
  if event == 'os.chdir' and os.path.exists(os.path.join(arguments[0], 'takes_memory')):
    bytearray(os.urandom(2**20) * 2**10)

sys.addaudithook(hook)
"""
IN_A_GROUP = """
import pathlib, sys, time
group, run = map(pathlib.Path, sys.argv[1:])
(group / 'cgroup.procs').write_text('0')
from aevo_jax.campaign.executors.local import LocalExecutor
from aevo_jax.campaign.executors.protocol import Allowance, Ended, Job
from aevo_jax.campaign.machine.examiner import Examiner, signs_of
from aevo_jax.campaign.machine.fault import MachineFaultError
from aevo_jax.campaign.machine.probes import Machine
examiner = Examiner(Machine(), run, lambda: Allowance(disk=10**6, memory=4 * 10**9))
kills = examiner.kills()
executor = LocalExecutor(1, run / 'fork_server.log')
key = executor.submit('key', Job(run / 'trial', 100.0, examiner.allowance))
while not isinstance(executor.poll(key), Ended):
  time.sleep(0.01)
end = executor.poll(key)
executor.close()
print(end.exit_status, repr(end.exceeded))
try:
  examiner.check(
    signs_of(end), disk_used=0, memory_used=end.peak_memory, kills_before=kills
  )
except MachineFaultError as fault:
  print(fault.cause, fault)
"""


@contextlib.contextmanager
def small_disk(directory: pathlib.Path, size: str):
  """Puts a small file system under a directory, with what lies there; yields a function that
  mounts it anew with other options.
  """
  aside = directory.with_name(f'{directory.name}-aside')
  shutil.copytree(directory, aside)
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', directory]
  if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('mounting a small tmpfs needs root; the limit on files was tried')
  try:
    shutil.copytree(aside, directory, dirs_exist_ok=True)
    yield lambda options: subprocess.run(
      ['mount', '-o', f'remount,{options}', directory], check=True
    )
  finally:
    subprocess.run(['umount', '-l', directory], check=True)


def pauses(run: pathlib.Path, said: str, prefix: tuple[str, ...] = ()) -> None:
  """Resumes a campaign, which has to pause with this sentence and to spend nothing."""
  result = aevo_process('campaign', f'--resume={run}', prefix=prefix)
  assert result.returncode == PAUSED_STATUS, result.stdout + result.stderr
  assert said in result.stderr and 'Traceback' not in result.stderr
  assert f'then aevo campaign --resume={run}' in result.stderr
  kinds = {record.kind for record in read(run / LEDGER, strict=False)}
  assert not kinds & {'trial_failed', 'final_scored', 'secrets_revealed', 'campaign_finished'}


def test_a_campaign_on_a_disk_that_fails_pauses_and_comes_to_the_same_end(
  tiny_run, start_tiny_campaign
):
  """The reference met none of it. 9 MB hold a run's beginning and no trial."""
  run = start_tiny_campaign('machine').run
  limited = ('sh', '-c', 'ulimit -f 4000; exec "$@"', 'sh')  # in 512 bytes: less than the base
  pauses(run, 'the file has reached the size limit (ulimit -f); raise it', limited)
  little = ('sh', '-c', 'ulimit -v 900000; exec "$@"', 'sh')
  pauses(run, 'memory is limited to 0.9 GB (ulimit -v, -d)', little)
  with small_disk(run, '9m') as remount:
    pauses(run, 'the disk is full; free space, then aevo campaign --resume=')
    remount('ro')
    pauses(run, 'the file system is read-only; make it writable')
    remount('rw,size=300m')
    result = aevo_process('campaign', f'--resume={run}')
    assert result.returncode == 0, result.stdout + result.stderr
    state = fold(read(run / LEDGER))
    assert state.pauses >= 2 and state.finished is not None
    assert 'campaign_paused' in [record.kind for record in read(run / LEDGER)]
    assert_same(run, tiny_run)
    assert not [f for f in checks.audit(run) if f.status == checks.FAILED]


@pytest.fixture
def group():
  """A control group of 500 MB of memory."""
  first = CGROUPS / 'memory'
  root, limits = CGROUPS, ('memory.max', 'memory.swap.max')
  if first.is_dir():
    root, limits = first, ('memory.limit_in_bytes',)
  path = root / f'aevo_test_{os.getpid()}'
  try:
    path.mkdir()
    (path / limits[0]).write_text(str(500 * 2**20))
    for name in limits[1:]:
      (path / name).write_text('0')
  except OSError as error:
    with contextlib.suppress(OSError):
      path.rmdir()
    pytest.skip(f'no control group can be made here: {error}')
  yield path
  path.rmdir()


def test_a_worker_that_the_kernel_kills_within_its_allowance_is_the_machines_fault(group, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(TAKES_MEMORY)
  (tmp_path / 'trial').mkdir()
  (tmp_path / 'trial' / 'takes_memory').touch()
  path = os.pathsep.join([str(tmp_path), environment()['PYTHONPATH']])
  done = subprocess.run(
    [sys.executable, '-c', IN_A_GROUP, str(group), str(tmp_path)],
    capture_output=True,
    text=True,
    check=False,
    env=environment() | {'PYTHONPATH': path},
    timeout=120,
  )
  first, second = done.stdout.splitlines()
  assert first == "-9 ''", done.stderr
  assert second.startswith('out_of_memory the machine ran out of memory; free some, then aevo')
